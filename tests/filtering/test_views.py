"""Views of frames: directions of a transform, grids of transforms, and histogram matching."""

from pathlib import Path

import numpy as np
import pytest
import torch

from echodream.datamodules.augmentation import affine
from echodream.datamodules.recordings import Recordings
from echodream.errors import UserError
from echodream.filtering.copy_generation import CopyGenerator
from echodream.filtering.positive_controls import PixelTransform, PosteriorSample, SDEdit
from echodream.filtering.views import (
    GridViews,
    ViewGrid,
    latent_views,
    match_histogram,
    mean_sorted_pixels,
    read_view_grids,
    record_view_grids,
)
from tests.support.tiny_filter import plant, recordings, study


@pytest.fixture
def copier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CopyGenerator:
    plant(monkeypatch, tmp_path)
    return CopyGenerator(Recordings(study(tmp_path / "latents", std=0.25, marks=True), "TRAIN"), "vae")


def test_views_are_all_directions_of_a_change(copier: CopyGenerator) -> None:
    x = torch.from_numpy(recordings()["clip-05-0"][2][:2]).float()
    (flipped,) = latent_views(copier, [PixelTransform(flip=True)], x)
    assert torch.allclose(flipped, x.clamp(-10, 10).flip(-1), atol=1e-5)
    shifted = latent_views(copier, [PixelTransform(shift=0.1, gain=0.2)], x)
    assert len(shifted) == 8
    both = latent_views(copier, [PixelTransform(flip=True), PixelTransform(shift=0.1, gain=0.2)], x)
    assert all(torch.equal(one, other) for one, other in zip(both, [flipped, *shifted], strict=True))
    assert len(latent_views(copier, [PixelTransform()], x)) == 1
    assert latent_views(copier, [], x) == []
    for control in (PosteriorSample(), PixelTransform(speckle=0.1), SDEdit(0.1), PixelTransform(shift=(0.0, 0.1))):
        with pytest.raises(UserError, match="without randomness"):
            latent_views(copier, [control], x)


def test_a_grid_is_every_combination_of_its_views(copier: CopyGenerator) -> None:
    grid = ViewGrid(["none", "both"], [-0.25, 0.0], [1.0, 1.25])
    x = torch.from_numpy(recordings()["clip-05-0"][2][:2]).float().clamp(-10, 10)
    views = GridViews(copier, [grid])(x)
    assert len(views) == 2 * 4 * 2 - 1
    y = x.transpose(0, 1)
    truths = [
        affine(y, (down, right), zoom=zoom).flip(axes).transpose(0, 1)
        for axes in ((), (-1, -2))
        for down in (-0.25, 0.0)
        for right in (-0.25, 0.0)
        for zoom in (1.0, 1.25)
        if (axes, down, right, zoom) != ((), 0.0, 0.0, 1.0)
    ]
    assert all(torch.allclose(view, truth, atol=1e-4) for view, truth in zip(views, truths, strict=True))
    assert ViewGrid().combinations() == []
    assert GridViews(copier, [ViewGrid()])(x) == []
    assert (
        len(GridViews(copier, [grid, ViewGrid(rotate=[5.0]), grid])(x)) == len(views) + 1
    )  # equal views of several grids are kept once
    for wrong, words in (
        ({"flip": ["up"]}, "view_grid.flip is 'up'"),
        ({"shift": [2]}, "view_grid.shift is 2"),
        ({"zoom": [0]}, "view_grid.zoom is 0"),
        ({"zoom": "1"}, "view_grid.zoom is '1': give a list"),
        ({"rotate": [200]}, "view_grid.rotate is 200"),
        ({"intensity": ["bright"]}, "view_grid.intensity is 'bright'"),
    ):
        with pytest.raises(UserError, match=words):
            ViewGrid(**wrong)  # type: ignore[arg-type]


def test_grids_are_read_from_one_mapping_or_several() -> None:
    single = read_view_grids({"shift": [-0.1, 0, 0.1]})
    assert single == (ViewGrid(shift=[-0.1, 0, 0.1]),)
    assert read_view_grids([{"shift": [-0.1, 0, 0.1]}, {"rotate": [5]}]) == (*single, ViewGrid(rotate=[5]))
    with pytest.raises(UserError, match="view_grid is 'turn': choose one of flip, shift, zoom, rotate, intensity"):
        read_view_grids([{"turn": [5]}])
    for wrong in (["flip"], "flip", 5, True):
        with pytest.raises(UserError, match=r"view_grid is .*: give a grid such as"):
            read_view_grids(wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"view_grid\.flip is .*: give one or more values"):
        read_view_grids({"flip": [], "shift": [-0.05, 0, 0.05]})


def test_the_record_of_a_grid_is_that_of_before() -> None:
    """The record has the keys flip, shift and zoom, and other keys only if set; without views the record is None."""
    shift = {"flip": ["none"], "shift": [-0.1, 0], "zoom": [1.0]}
    assert record_view_grids(read_view_grids({"shift": [-0.1, 0]})) == shift
    assert record_view_grids(read_view_grids([{"shift": [-0.1, 0]}, {"rotate": [5]}])) == [
        shift,
        {"flip": ["none"], "shift": [0.0], "zoom": [1.0], "rotate": [5]},
    ]
    for nothing in ([], {}, [{}], {"flip": ["none"]}):
        assert record_view_grids(read_view_grids(nothing)) is None


def test_a_matched_histogram_undoes_every_increasing_change_of_intensity(copier: CopyGenerator) -> None:
    """Gain and contrast keep the order of the pixel values, and histogram matching depends on this order only."""
    x = torch.from_numpy(recordings()["clip-05-0"][2][:2]).float() / 20
    target = mean_sorted_pixels(copier)
    frames = copier.decode(copier.training_frames(128)).flatten(1)
    torch.testing.assert_close(target, torch.from_numpy(np.sort(frames.numpy(), axis=1).mean(axis=0)))
    matched = match_histogram(x, target)
    torch.testing.assert_close(matched.flatten(1).sort(dim=1).values, target.expand(2, -1))
    assert torch.equal(matched, match_histogram(0.5 * x - 0.2, target))
    assert torch.equal(matched, match_histogram(((x + 1) / 2) ** 2, target))
    (view,) = GridViews(copier, [ViewGrid(intensity=["matched"])])(10 * x)
    torch.testing.assert_close(view, copier.encode(match_histogram(copier.decode(10 * x), target))[0])


def test_training_frames_are_spread_over_all_recordings(copier: CopyGenerator) -> None:
    rows = copier.recordings
    everything = torch.cat([rows.posterior(row, np.arange(rows.frames[row]))[0] for row in range(len(rows))])
    assert torch.equal(copier.training_frames(10**6), everything)
    some = copier.training_frames(5)
    assert len(some) == 5
    assert torch.equal(some[[0, -1]], everything[[0, -1]])
