"""Real runs of the command line, killed at any moment and run again, end with the bytes of a run that was left alone."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.fakes import tree

ROOT = Path(__file__).parents[1]
KILLS = 20
COMMAND = [
    *(sys.executable, str(ROOT / "sample.py"), "stage=ingest", "data=phantom", "dst=out/store", "workers=2"),
    *("data.source.patients=7", "+data.source.seconds=[0.5,0.8]", "data.source.size=64", "data.size=64"),
]
STORE, WORK = Path("out/store"), Path("out/store.partial")
LATE = [WORK / "store/FileList.csv", WORK / "store/dataset.json", WORK / "store/SHA256SUMS", STORE]
"""What appears while a run finishes, in this order."""

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs POSIX signals"),
]


def start(folder: Path) -> subprocess.Popen[str]:
    """The command in a session of its own, so that it can be killed with or without its workers."""
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        COMMAND, cwd=folder, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def to_the_end(folder: Path) -> None:
    with start(folder) as process:
        said, _ = process.communicate()
    assert process.returncode == 0, said


def killed(folder: Path, now: Callable[[], bool], group: bool) -> bool:
    """Start the command and kill it when ``now``; False when it came to its end before that."""
    with start(folder) as process:
        while process.poll() is None and not now():
            time.sleep(0.001)
        if process.poll() is None:
            (os.killpg if group else os.kill)(process.pid, signal.SIGKILL)
        said, _ = process.communicate()  # comes back when the last worker that holds the pipe is gone
    assert process.returncode in (0, -signal.SIGKILL), said
    return process.returncode != 0


def survivors(session: int) -> list[int]:
    found = []
    for pid in psutil.pids():
        try:
            found += [pid] * (os.getsid(pid) == session)
        except OSError:
            continue
    return found


def moments(seconds: float, folder: Callable[[], Path]) -> list[Callable[[], Callable[[], bool]]]:
    """Ways to choose a moment: over the whole duration, and at each step of the finish."""
    chance = random.Random(0)

    def after(wait: float) -> Callable[[], bool]:
        end = time.monotonic() + wait
        return lambda: time.monotonic() > end

    def when(path: Path, wait: float) -> Callable[[], bool]:
        seen: list[float] = []

        def now() -> bool:
            if not seen and (folder() / path).exists():
                seen.append(time.monotonic())
            return bool(seen) and time.monotonic() > seen[0] + wait

        return now

    timed = [lambda wait=chance.uniform(0.02, 1.05) * seconds: after(wait) for _ in range(KILLS * 2)]
    late = [lambda path=path, wait=wait: when(path, wait) for path in LATE for wait in (0.0, chance.uniform(0, 0.02))]
    chosen = [*timed[: KILLS * 2 - len(late)], *late]
    chance.shuffle(chosen)
    return chosen


def test_twenty_kills_do_not_change_a_byte(tmp_path: Path) -> None:
    began = time.monotonic()
    to_the_end(tmp_path / "whole")
    seconds = time.monotonic() - began
    whole = tree(tmp_path / "whole" / STORE)
    kills = rounds = 0
    folder = tmp_path / "0"
    for moment in moments(seconds, lambda: folder):
        if killed(folder, moment(), group=bool(kills % 2)):
            kills += 1
        if (folder / STORE).exists():
            assert tree(folder / STORE) == whole
            if not (folder / WORK).exists():
                rounds += 1
                folder = tmp_path / str(rounds)
        if kills == KILLS:
            break
    assert kills == KILLS
    folder.mkdir(exist_ok=True)
    to_the_end(folder)
    assert tree(folder / STORE) == whole
    assert not (folder / WORK).exists()
    print(f"{kills} kills, {rounds} stores completed on the way, an undisturbed run takes {seconds:.1f} s")


def test_no_worker_outlives_the_command(tmp_path: Path) -> None:
    with start(tmp_path / "run") as process:
        while process.poll() is None and not list((tmp_path / "run" / WORK).glob("scratch-*/*")):
            time.sleep(0.001)
        assert len(survivors(process.pid)) > 1
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()  # each worker holds the pipe: without this end it would not come back
    end = time.monotonic() + 60
    while survivors(process.pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert survivors(process.pid) == []
