"""Commands that are killed at random moments and started again write the same bytes as an uninterrupted run."""

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.support.fakes import tree

ROOT = Path(__file__).parents[2]
KILLS = 12
STUDY = """
defaults: [base]
name: noise
fps: null
size: null
source:
  _target_: tests.support.fakes.Fake
  count: 20
  seconds: 0.2
"""
COMMAND = [
    *(sys.executable, str(ROOT / "sample.py"), "--config-dir", "conf"),
    *("stage=ingest", "data=noise", "dst=out/store", "workers=2"),
]
STORE, WORK = Path("out/store"), Path("out/store.partial")
LATE = [WORK / "store/FileList.csv", WORK / "store/dataset.json", WORK / "store/SHA256SUMS", STORE]
"""What appears while a run finishes, in this order."""

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs POSIX signals"),
]


def start(folder: Path) -> subprocess.Popen[str]:
    """Start the command in its own process group, so that a test can kill it with or without its worker processes."""
    (folder / "conf/data").mkdir(parents=True, exist_ok=True)
    (folder / "conf/data/noise.yaml").write_text(STUDY)
    return subprocess.Popen(
        COMMAND,
        cwd=folder,
        # without Git, so that a commit during the test does not change the recorded version of the code
        env={**os.environ, "PYTHONPATH": str(ROOT), "GIT_DIR": os.devnull},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def to_the_end(folder: Path) -> None:
    with start(folder) as process:
        said, _ = process.communicate()
    assert process.returncode == 0, said


@dataclass
class Moment:
    """Time of a kill: ``wait`` seconds after the start, or after ``path`` exists and ``count`` recordings are done."""

    wait: float
    path: Path = Path()
    count: int = 0

    def reached(self, folder: Path, since: float) -> Iterator[bool]:
        """Yield whether the moment has come, each time the caller asks."""
        while not (folder / self.path).exists() or done(folder) < self.count:
            since = time.monotonic()
            yield False
        while time.monotonic() < since + self.wait:
            yield False
        yield True


def moments(seconds: float) -> list[Moment]:
    """Moments of kills: during the whole run, while recordings are written, and in each step of the completion."""
    chance = random.Random(0)
    timed = [Moment(chance.uniform(0.05, 1.0) * seconds) for _ in range(KILLS // 3)]
    busy = [Moment(chance.uniform(0.0, 0.05), WORK / "journal-0.jsonl", chance.randint(1, 19)) for _ in range(KILLS)]
    late = [Moment(chance.choice([0.0, 0.01, 0.02]), path) for path in LATE * 2]
    return chance.sample([*timed, *busy, *late], len(timed) + len(busy) + len(late))


def done(folder: Path) -> int:
    """Number of finished recordings in the journals; at its end, the run may delete a journal at any moment."""
    count = 0
    for path in (folder / WORK).glob("journal-*.jsonl"):
        with contextlib.suppress(FileNotFoundError):
            count += path.read_bytes().count(b"\n")
    return count


def killed(folder: Path, moment: Moment, group: bool) -> bool:
    """Start the command and kill it at ``moment``; False if the command finished before that."""
    with start(folder) as process:
        for now in moment.reached(folder, time.monotonic()):
            if now or process.poll() is not None:
                break
            time.sleep(0.001)
        if process.poll() is None:
            (os.killpg if group else os.kill)(process.pid, signal.SIGKILL)
        said, _ = process.communicate()  # returns only after the last worker that holds the pipe has ended
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


@pytest.mark.slow
def test_a_dozen_kills_do_not_change_a_byte(tmp_path: Path) -> None:
    began = time.monotonic()
    to_the_end(tmp_path / "whole")
    seconds = time.monotonic() - began
    whole = tree(tmp_path / "whole" / STORE)
    kills = rounds = 0
    reached: list[int] = []
    early = (Moment(0.0, WORK / "journal-0.jsonl", count) for _ in range(KILLS) for count in (1, 3, 5))
    # on a busy machine, the kills come late: the early moments at the end of the list make sure that some are in time
    for moment in itertools.chain(moments(seconds), early):
        folder = tmp_path / str(rounds)
        if killed(folder, moment, group=bool(kills % 2)):
            kills += 1
            reached.append(done(folder))
        if (folder / STORE).exists():
            assert tree(folder / STORE) == whole
            rounds += 1
        midway = sum(0 < count < 20 for count in reached)
        if kills >= KILLS and midway > 2:
            break
    assert kills >= KILLS
    assert midway > 2, f"all kills were too early or too late: {reached}"
    for number in range(rounds + 1):
        folder = tmp_path / str(number)
        # the run was killed before the store was complete, or before its temporary files were deleted
        if (folder / WORK).exists() or not (folder / STORE).exists():
            to_the_end(folder)
        assert tree(folder / STORE) == whole
        assert not (folder / WORK).exists()
    print(f"{kills} kills with {reached} of 20 recordings done; an undisturbed run takes {seconds:.1f} s")


@pytest.mark.slow
def test_no_worker_outlives_the_command(tmp_path: Path) -> None:
    with start(tmp_path / "run") as process:
        while process.poll() is None and not list((tmp_path / "run" / WORK).glob("scratch-*/*")):
            time.sleep(0.001)
        assert len(survivors(process.pid)) > 1
        os.kill(process.pid, signal.SIGKILL)
        # the workers hold the pipe: this call would not return if a worker survived the kill of the main process
        process.communicate()
    end = time.monotonic() + 60
    while survivors(process.pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert survivors(process.pid) == []
