"""A stage stops before it writes output if a file of its input store changed after the store was written."""

from collections.abc import Callable
from pathlib import Path

import pytest

from echodream import engine
from echodream.runs.instantiate_stage import StageCall
from echodream.runs.rerun_cache import run_once
from echodream.runs.summary import Summary
from echodream.store import StoreError
from tests.support.fakes import flip
from tests.support.tiny_vae import moving_disc_store, sample_cfg, tiny_autoencoder, train_cfg, write_vae_artifact


def shorten(path: Path) -> None:
    """Remove the last row of a table."""
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


@pytest.fixture
def encoded(tmp_path: Path) -> Path:
    """Folder with a store of videos, an autoencoder, and a store of latents encoded from the videos."""
    moving_disc_store(tmp_path / "videos", (5, 3, 4))
    write_vae_artifact(tmp_path / "vae", tiny_autoencoder())
    engine.sample(sample_cfg(tmp_path, "encode"))
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damaged", "harm", "stage"),
    [
        ("videos/Videos/r1.mkv", flip, "encode"),
        ("videos/FileList.csv", shorten, "encode"),
        ("latents/Latents/r1.safetensors", flip, "decode"),
        ("videos/Videos/r2.mkv", flip, "decode"),  # decode also reads the source videos of the latents
    ],
)
@pytest.mark.parametrize("noted", [False, True])
def test_a_stage_says_which_file_and_makes_nothing(
    encoded: Path, damaged: str, harm: Callable[[Path], None], stage: str, noted: bool
) -> None:
    path, dst = encoded / damaged, f"dst={encoded}/other"
    asked = sample_cfg(encoded, stage, dst, *[f"notes={encoded}/notes"] * noted)
    good = path.read_bytes()
    harm(path)
    with pytest.raises(StoreError, match=rf"{path.name} has changed since the store was written.*; restore the file"):
        engine.sample(asked)
    assert not (encoded / "other").exists()
    path.write_bytes(good)
    assert "done" in engine.sample(asked).title


def test_training_begins_on_whole_files_alone(tmp_path: Path) -> None:
    moving_disc_store(tmp_path / "videos")
    flip(tmp_path / "videos/Videos/r3.mkv")
    with pytest.raises(StoreError, match=r"r3.mkv has changed since the store was written"):
        engine.train(train_cfg(tmp_path))
    assert not (tmp_path / "vae").exists()


@pytest.mark.slow
def test_what_is_only_written_to_is_not_looked_at(encoded: Path) -> None:
    flip(encoded / "latents/Latents/r1.safetensors")
    assert "nothing to do" in engine.sample(sample_cfg(encoded, "encode")).title


def test_a_stage_that_leaves_no_store_is_run_once(tmp_path: Path) -> None:
    runs = []

    def run() -> Summary:
        runs.append((tmp_path / "made").mkdir(exist_ok=True))
        (tmp_path / "made/audit.json").write_text("{}")
        return Summary("audit: done")

    hints = {"src": "InputPath", "dst": "OutputPath"}
    stage = StageCall("x.audit.audit", hints, {"src": f"{tmp_path}/src", "dst": f"{tmp_path}/made"})
    (tmp_path / "src").write_text("as it was")
    for _ in range(2):
        said = run_once(f"{tmp_path}/notes", stage, run)
    assert len(runs) == 1
    assert said.title == f"audit: {tmp_path}/made already complete, nothing to do"
    (tmp_path / "src").write_text("another")
    run_once(f"{tmp_path}/notes", stage, run)
    assert len(runs) == 2
