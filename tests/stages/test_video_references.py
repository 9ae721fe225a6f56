"""Tests of stage=video: times of the reference frames, and the record of samples with real reference frames."""

from pathlib import Path
from typing import Any

import pytest
import torch

from echodream import engine
from echodream.errors import UserError
from echodream.store import Store
from tests.support.tiny_diffusion import WINDOW, artifact, latent_store, model, sample_cfg


def drawn(folder: Path, *overrides: str, synthetic: bool = True, length: int = 1, **facts: Any) -> Store:
    """Sample two videos of 20 frames with a random model that has the metadata ``facts``."""
    artifact(folder / "lvdm", model("lvdm", ("reference", "class_id"), **facts), "lvdm")
    latent_store(folder / "images", [length] * 2, synthetic=synthetic)
    engine.sample(sample_cfg(folder, "video", "steps=1", "frames=20", "overlap=4", *overrides))
    return Store(folder / "videos")


@pytest.mark.parametrize("times", [(0.0,), (3.5,), (0.0, 3.5, 7.0)])
@pytest.mark.slow
def test_references_at_fixed_places_cannot_be_cross_faded(tmp_path: Path, times: tuple[float, ...]) -> None:
    words = f"at fixed times in {WINDOW} frames, but frames=20: use join=continue, or an lvdm trained with"
    with pytest.raises(UserError, match=words):
        drawn(tmp_path, length=len(times), reference_times=times)
    assert not (tmp_path / "videos").exists()
    assert not (tmp_path / "videos.partial").exists()


def test_they_are_given_where_they_lay_in_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    from echodream.diffusion.model import DiffusionModel

    def planted(own: DiffusionModel, x: Any, t: Any, values: Any, keep: Any) -> Any:
        seen.append(values["reference_time"].tolist())
        return torch.zeros_like(x)

    monkeypatch.setattr(DiffusionModel, "forward", planted)
    drawn(tmp_path, "join=continue", "overlap=1", reference_times=(0.0,))
    assert seen[0] == [[0.0], [0.0]]
    assert seen[1] == [[-(WINDOW - 1.0), 0.0]] * 2  # time 0 in training, for the last frame of the previous window


@pytest.mark.slow
@pytest.mark.parametrize("synthetic", [True, False])
def test_a_real_source_is_not_named(tmp_path: Path, synthetic: bool) -> None:
    made = drawn(tmp_path, synthetic=synthetic)
    assert made.table["Source"].tolist() == (["r0", "r1"] if synthetic else ["real", "real"])
    files = [path for path in (tmp_path / "videos").rglob("*") if path.suffix in (".csv", ".json")]
    told = "".join(path.read_text() for path in files)
    assert ("secret0" in told) == synthetic


def test_other_references_than_three_key_frames_are_asked_for_by_their_number(tmp_path: Path) -> None:
    words = r"needs 2 reference frames, but r0 of .*images has 1: give src= with recordings of 2 frames"
    with pytest.raises(UserError, match=words):
        drawn(tmp_path, "frames=8", reference_times=(0.0, 7.0))
