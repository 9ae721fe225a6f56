"""The steps of launch/studies/smoke.yaml: complete runs, runs after kills, on a full disk and with damaged files."""

import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest

from echodream.store import verify
from tests.support.fakes import flip
from tests.support.launching import LAUNCH, Line
from tests.support.smoke_study import Smoke, content, state

ROOT = LAUNCH.parent
KILLS = int(os.environ.get("ECHODREAM_CHAOS", "0"))
"""All of the list is killed so often, at random moments; 0, the default: three of its lines, once each."""
AROUND = {**os.environ, "PYTHONPATH": str(ROOT), "GIT_DIR": os.devnull}

when_asked = pytest.mark.skipif("ECHODREAM_CHAOS" not in os.environ, reason="takes minutes: ECHODREAM_CHAOS=0 asks")


def start(line: Line, folder: Path) -> subprocess.Popen[str]:
    """Start the command of ``line`` in its own process group."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / f"{line.program}.py"), *line.overrides],
        cwd=folder,
        env=AROUND,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def to_the_end(line: Line, folder: Path) -> str:
    """Run the command, which must succeed; return its output."""
    with start(line, folder) as process:
        said, complaint = process.communicate()
    assert process.returncode == 0, f"{line}: {complaint}"
    return said


def killed(line: Line, folder: Path, wait: float) -> bool:
    """Start the command; kill it ``wait`` seconds after its first output file. False if it finished earlier."""
    known = signs(folder)
    with start(line, folder) as process:
        while process.poll() is None and signs(folder) <= known:
            time.sleep(0.02)
        end = time.monotonic() + wait
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        _, complaint = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), complaint
    return process.returncode != 0


def signs(folder: Path) -> set[str]:
    """All files and folders except the log folders, which a command creates before it starts its work."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    logs = {name for name in found if name.startswith("runs/") and found[name].is_dir()}
    return {name for name in found.keys() - logs if not re.search(r"/\d{4}-\d\d-\d\d_", name)}


@pytest.fixture
def study(smoke: Smoke, tmp_path: Path) -> Path:
    """A copy of the finished study, which the test may change."""
    return Path(shutil.copytree(smoke.root, tmp_path / "study"))


def knock_out(smoke: Smoke, study: Path, number: int) -> None:
    """Delete all outputs of the line ``number``, as if only this line had not been run."""
    for name in smoke.made[number]:
        (study / name).unlink(missing_ok=True)
    for folder in sorted((path for path in study.rglob("*") if path.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()
    shutil.rmtree(study / "runs", ignore_errors=True)


def same(smoke: Smoke, study: Path) -> None:
    """All files are equal to those of the undisturbed study, and there are no other files."""
    found, wanted = content(study), content(smoke.root)
    assert sorted(found) == sorted(wanted)
    assert [name for name in found if found[name] != wanted[name]] == []


@pytest.mark.slow
def test_the_list_ends_with_a_verdict(smoke: Smoke) -> None:
    report = smoke.root / "reports/smoke"
    assert (report / "index.html").is_file()
    numbers = json.loads((report / "metrics.json").read_text())
    assert numbers["verdict"]
    assert all(math.isfinite(value) for value in numbers_in(numbers)), numbers
    for place in ("data/smoke/videos", "data/smoke/latents", "samples/smoke/private", "samples/smoke/videos"):
        assert len(verify(smoke.root / place))
    assert json.loads((report / "filter_image/filter.json").read_text())["decision"]["passed"]


def numbers_in(node: object) -> Iterator[float]:
    if isinstance(node, dict):
        node = list(node.values())
    if isinstance(node, list):
        for value in node:
            yield from numbers_in(value)
    elif isinstance(node, int | float):
        yield float(node)


@pytest.mark.slow
def test_the_shared_report_names_nobody(smoke: Smoke, study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(study)
    Line("sample", ("stage=report", "data=phantom", "experiment=smoke", "share=true")).run()
    page = re.sub(r"base64,[A-Za-z0-9+/=]+", "", (study / "reports/smoke/share/index.html").read_text())
    table = pd.read_csv(study / "data/smoke/videos/FileList.csv")
    assert [name for column in ("FileName", "PatientID") for name in table[column] if str(name) in page] == []


@pytest.mark.slow
def test_run_again_it_does_nothing(
    smoke: Smoke, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(smoke.root)
    monkeypatch.setenv("GIT_DIR", os.devnull)
    before = state(smoke.root)
    capsys.readouterr()
    for line in smoke.lines:
        line.run()
        said = capsys.readouterr().out
        assert "nothing to do" in said or line.what == "verify", said
    assert state(smoke.root) == before


@when_asked
@pytest.mark.skipif(KILLS > 0, reason="the whole list is killed instead")
def test_three_lines_killed_once_each_end_with_the_same_bytes(smoke: Smoke, study: Path) -> None:
    chance = random.Random(int(os.environ.get("ECHODREAM_CHAOS_SEED", "0")))
    numbers = chance.sample([k for k, line in enumerate(smoke.lines) if line.what != "verify"], 3)
    met = 0
    for number in numbers:
        knock_out(smoke, study, number)
        met += killed(smoke.lines[number], study, chance.uniform(0.0, 1.0))
        to_the_end(smoke.lines[number], study)
        same(smoke, study)
    assert met > 0


@when_asked
@pytest.mark.skipif(KILLS == 0, reason="takes long: ECHODREAM_CHAOS=30 says how many kills")
def test_the_list_killed_at_random_moments_ends_with_the_same_bytes(smoke: Smoke, tmp_path: Path) -> None:
    """Snakemake and its steps are killed at random times and run again; after a complete run, a new study begins."""
    chance = random.Random(int(os.environ.get("ECHODREAM_CHAOS_SEED", "0")))
    study, kills, met = copied(tmp_path / "0"), 0, set()
    while kills < KILLS:
        code, said = listed(study, chance.uniform(0.0, 45.0))
        if code == 0:
            same(smoke, study)
            study = copied(tmp_path / str(kills))
            continue
        assert code == -signal.SIGKILL, said
        kills += 1
        met |= {said.count("[")}
        print(f"kill {kills}: {said.splitlines()[-1] if said else 'before the first line'}", flush=True)
    code, said = listed(study)
    assert code == 0, said
    same(smoke, study)
    assert len(met) > KILLS // 5
    code, said = listed(study)
    assert code == 0
    assert said.startswith(f"{len(smoke.lines)} of {len(smoke.lines)} steps are complete\nreport: ")


@pytest.mark.slow
def test_the_steps_by_snakemake_killed_once_end_with_the_same_bytes(smoke: Smoke, tmp_path: Path) -> None:
    """Snakemake is killed after the first checkpoint of a training; earlier tests cover kills of the other steps."""
    study = copied(tmp_path / "study")
    code, said = listed(study, until=lambda: list(study.glob("runs/smoke/vae/*/last.ckpt")))
    assert code == -signal.SIGKILL, said
    assert re.search(r"^\[[4-6]/22\] train\.py model=vae", said, re.MULTILINE)
    code, said = listed(study)
    assert code == 0, said
    # other steps run at the same time, so that their order varies
    assert re.match(r"[3-5] of 22 steps are complete\n\[[4-6]/22\] ", said)
    same(smoke, study)
    logs = study / "runs/smoke/launch"
    assert (logs / "report.log").read_text().startswith("report: reports/smoke/index.html done\n")
    assert re.match(r"(Epoch|Testing).*\|.*\d/[\d?]", (logs / "vae.progress").read_text())
    assert not [path for path in logs.glob("*.log") if re.search(r"%\||\r|\x1b", path.read_text())]


def copied(folder: Path) -> Path:
    """Copy the folder launch/ and the two programs that its steps run, and nothing else."""
    shutil.copytree(LAUNCH, folder / "launch", ignore=shutil.ignore_patterns("__pycache__"))
    for program in ("train.py", "sample.py"):
        shutil.copy(ROOT / program, folder)
    return folder


def listed(study: Path, seconds: float = math.inf, until: Callable[[], object] = lambda: False) -> tuple[int, str]:
    """Run all steps of ``study``; return the exit code and the output.

    After ``seconds``, or as soon as ``until`` is true, the run and all its child processes are killed.
    """
    end, pipe = time.monotonic() + seconds, subprocess.PIPE
    command = [sys.executable, str(study / "launch/run.py"), "smoke"]
    with subprocess.Popen(
        command, env=AROUND, start_new_session=True, stdout=pipe, stderr=subprocess.STDOUT, text=True
    ) as running:
        while running.poll() is None:
            if time.monotonic() > end or until():
                os.killpg(running.pid, signal.SIGKILL)
                break
            time.sleep(0.02)
        said, _ = running.communicate()
    return running.returncode, said


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    """Mount a small separate file system at ``folder``."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("a small disk can be mounted by root alone")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@when_asked
@pytest.mark.skipif(shutil.which("mount") is None or os.name != "posix" or os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("what", ["encode", "reid"] if not KILLS else [None])
def test_a_disk_that_fills_loses_nothing(smoke: Smoke, tmp_path: Path, what: str | None) -> None:
    disk = tmp_path / "disk"
    size = sum(path.stat().st_size for path in smoke.root.rglob("*") if path.is_file()) // 1_000_000 + 20
    with small_disk(disk, size):
        study = Path(shutil.copytree(smoke.root, disk / "study"))
        for number, line in enumerate(smoke.lines):
            written = sum((smoke.root / name).stat().st_size for name in smoke.made[number])
            if what not in (None, line.what) or written < 300_000:
                continue
            knock_out(smoke, study, number)
            ballast = disk / "ballast"
            fill(ballast, leave=60_000)
            with start(line, study) as process:
                _, complaint = process.communicate()
            assert process.returncode == 1, f"{line}: {complaint}"
            errors = [said for said in complaint.splitlines() if said.startswith("error: ")]
            assert len(errors) == 1, complaint
            assert re.search("No space left on device; make room", errors[0]), errors
            assert "Traceback" not in complaint
            ballast.unlink()
            to_the_end(line, study)
            same(smoke, study)


def fill(ballast: Path, leave: int) -> None:
    """Fill the disk until ``leave`` bytes are free."""
    with ballast.open("wb") as file:
        file.write(bytes(max(0, shutil.disk_usage(ballast.parent).free - leave)))


def truncate(path: Path) -> None:
    rows = path.read_text().splitlines(keepends=True)
    path.write_text("".join(rows[:-1]))


@when_asked
@pytest.mark.parametrize(
    ("what", "damaged", "harm"),
    [
        ("encode", "data/smoke/videos/Videos/*.mkv", flip),
        ("encode", "data/smoke/videos/FileList.csv", truncate),
        ("reid", "data/smoke/latents/Latents/*.safetensors", flip),
        ("video", "samples/smoke/private/Latents/*.safetensors", flip),
        ("evaluate", "samples/smoke/videos/Videos/*.mkv", flip),
    ],
)
def test_a_broken_store_is_refused_and_nothing_is_lost(
    smoke: Smoke,
    study: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    what: str,
    damaged: str,
    harm: Callable[[Path], None],
) -> None:
    number = next(k for k, line in enumerate(smoke.lines) if line.what == what)
    knock_out(smoke, study, number)
    path = sorted(study.glob(damaged))[0]
    good, before = path.read_bytes(), content(study)
    harm(path)
    monkeypatch.chdir(study)
    monkeypatch.setenv("GIT_DIR", os.devnull)
    with pytest.raises(AssertionError, match="exited with 1"):
        smoke.lines[number].run()
    complaint = capsys.readouterr().err
    name = path.relative_to(study)
    assert complaint.count("error: ") == 1
    assert re.search(
        rf"error: {re.escape(str(name))} has changed since the store was written.*; restore the file", complaint
    )
    path.write_bytes(good)
    assert content(study) == before
    if what == "video":  # other tests complete the other steps
        smoke.lines[number].run()
        same(smoke, study)
