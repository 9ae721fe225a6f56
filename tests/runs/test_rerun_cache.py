"""A stage with unchanged settings and files is not run again; any change of settings or files runs the stage."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from echodream import engine
from echodream.errors import UserError
from echodream.runs import rerun_cache as already
from echodream.runs.instantiate_stage import StageCall
from echodream.runs.rerun_cache import run_once
from echodream.runs.summary import Summary
from tests.support.tiny_vae import moving_disc_store, sample_cfg, tiny_autoencoder, write_vae_artifact

HEAVY = ("torch", "pytorch_lightning", "diffusers", "av", "decord")


@pytest.fixture
def done(tmp_path: Path) -> Path:
    """Folder in which the stages encode and decode have already run."""
    moving_disc_store(tmp_path / "videos", (5, 3, 4))
    write_vae_artifact(tmp_path / "vae", tiny_autoencoder())
    for stage in ("encode", "decode"):
        engine.sample(sample_cfg(tmp_path, stage, f"notes={tmp_path}/notes"))
    return tmp_path


@pytest.mark.slow
def test_a_rerun_says_so_and_imports_nothing_heavy(done: Path) -> None:
    code = f"""
import sys
from echodream.cli import sample
sample()
print(*[name for name in {HEAVY!r} if name in sys.modules], "end")
"""
    for stage, src, dst in (("encode", "videos", "latents"), ("decode", "latents", "decoded")):
        arguments = [f"stage={stage}", f"src={done}/{src}", f"dst={done}/{dst}", f"artifact={done}/vae"]
        arguments += [f"reference={done}/videos"] if stage == "decode" else []
        arguments += [f"notes={done}/again"]
        for _ in range(2):
            before = {path: path.stat().st_mtime_ns for path in (done / dst).rglob("*")}
            said = subprocess.run(
                [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=done, check=True
            ).stdout
            assert f"{stage}: {done}/{dst} already complete, nothing to do\n" in said
            assert {path: path.stat().st_mtime_ns for path in (done / dst).rglob("*")} == before
        assert said.splitlines()[-1] == "end", said


@pytest.mark.slow
def test_other_settings_are_still_refused(done: Path) -> None:
    notes = f"notes={done}/notes"
    with pytest.raises(UserError, match=r"settings.precision was '32-true', now 'bf16-mixed'"):
        engine.sample(sample_cfg(done, "encode", "trainer.precision=bf16-mixed", notes))
    with pytest.raises(UserError, match=r"settings.scaling was nothing|settings.scaling"):
        engine.sample(sample_cfg(done, "encode", "scaling=0.5", notes))
    tiny_autoencoder(seed=1).save_pretrained(done / "vae")
    with pytest.raises(UserError, match="the weights have changed since training"):
        engine.sample(sample_cfg(done, "encode", notes))


class Stage:
    """Fake stage that counts the number of its runs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.runs = folder, 0
        for name in ("src", "src/sub", "dst", "other", "network"):
            (folder / name).mkdir()
            (folder / name / "file").write_text("as it was")
        self.target = "echodream.stages.some.some"
        self.arguments: dict[str, Any] = {
            "src": f"{folder}/src",
            "dst": f"{folder}/dst",
            "labels": None,
            "extractors": [f"encoder:{folder}/network"],
            "sampling": {"seed": 0, "interval": [0.0, 1.0]},
        }

    def answer(self, problem: str | None = None, **changed: Any) -> Summary:
        def run() -> Summary:
            self.runs += 1
            return Summary("some: done", {"rows": 3}, problem)

        arguments = {**self.arguments, **changed}
        target = arguments.pop("target", self.target)
        hints = {"src": "InputPath", "extractors": "Sequence[ExtractorPath]", "dst": "OutputPath"}
        return run_once(f"{self.folder}/notes", StageCall(target, hints, arguments), run)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    made = Stage(tmp_path)
    made.answer()
    assert made.runs == 1
    return made


def test_the_same_is_run_once(stage: Stage) -> None:
    said = stage.answer()
    assert stage.runs == 1
    assert said == Summary(f"some: {stage.folder}/dst already complete, nothing to do", {"rows": 3})


def rewrite(path: str) -> Callable[[Path], object]:
    """Return a function that writes other content of equal size to the file, with another modification time."""

    def change(folder: Path) -> None:
        (folder / path).write_text("as it is!")
        os.utime(folder / path, ns=(1, 1))

    return change


@pytest.mark.parametrize(
    "change",
    [
        rewrite("src/file"),
        rewrite("src/sub/file"),
        rewrite("dst/file"),
        rewrite("network/file"),
        lambda folder: (folder / "src" / "new").touch(),
        lambda folder: (folder / "dst" / "new").touch(),
        lambda folder: (folder / "src" / "sub" / "file").unlink(),
        lambda folder: (folder / "dst" / "file").unlink(),
        lambda folder: (folder / "dst.partial").mkdir(),
    ],
)
def test_files_that_changed_are_looked_at(stage: Stage, change: Callable[[Path], object]) -> None:
    change(stage.folder)
    stage.answer()
    assert stage.runs == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"sampling": {"seed": 1, "interval": [0.0, 1.0]}},
        {"sampling": {"seed": 0, "interval": [0.0, 0.5]}},
        {"labels": "uniform"},
        {"more": 1},
        {"target": "echodream.stages.other.other"},
    ],
)
def test_settings_that_changed_are_looked_at(stage: Stage, changed: dict[str, Any]) -> None:
    stage.answer(**changed)
    assert stage.runs == 2
    stage.answer(src=f"{stage.folder}/other")
    assert stage.runs == 3


def test_each_destination_has_its_own_note(stage: Stage) -> None:
    stage.answer(dst=f"{stage.folder}/other")
    stage.answer(dst=f"{stage.folder}/other")
    stage.answer()
    assert stage.runs == 2


def test_what_lies_below_a_store_counts_and_below_a_report_does_not(stage: Stage) -> None:
    (stage.folder / "dst" / "Videos").mkdir()
    (stage.folder / "dst" / "Videos" / "a").touch()
    stage.answer()
    assert stage.runs == 1
    (stage.folder / "dst" / "dataset.json").write_text("{}")
    stage.answer()
    assert stage.runs == 2
    (stage.folder / "dst" / "Videos" / "a").write_text("more")
    stage.answer()
    assert stage.runs == 3


@pytest.mark.parametrize("rank", ["RANK", "SLURM_PROCID", "LOCAL_RANK"])
def test_processes_that_wait_for_each_other_all_run(stage: Stage, rank: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(rank, "0")
    stage.answer()
    stage.answer()
    assert stage.runs == 3


def test_a_problem_is_not_done(tmp_path: Path) -> None:
    made = Stage(tmp_path)
    made.answer(problem="half of it")
    made.answer()
    assert made.runs == 2


def test_a_disk_without_room_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Stage(tmp_path)

    def full(path: Path, record: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(already, "write_record", full)
    assert made.answer().title == "some: done"
