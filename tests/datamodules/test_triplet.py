"""Triplets of key frames: the marked frames, in temporal order, with the same augmentation."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from echodream.datamodules.augmentation import Augment
from echodream.datamodules.datamodule import StoreData
from echodream.datamodules.dataset import SampleIndex, ViewDataset
from echodream.datamodules.normalization import from_uint8, to_uint8
from echodream.datamodules.recordings import Recordings
from echodream.datamodules.views import Triplet
from echodream.errors import UserError
from echodream.store import Store
from tests.support.stores import (
    HEIGHT,
    STATISTICS,
    WIDTH,
    Row,
    make_latent_store,
    make_video_store,
    posterior_mean,
    row,
)

BEATS = {0: [(2, 7, 14), (14, 19, 26), (26, 31, 38)], 1: [(3, 9, 13)]}
"""The beats of the two recordings of ``marked``: ED-ES-ED."""


def marked(split: str = "TRAIN") -> list[Row]:
    return [
        row("a1", "A", 40, split, ED="2 14 26 38", ES="7 19 31"),
        row("b1", "B", 20, split, ED="3 13", ES="9 17"),
    ]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_video_store(tmp_path_factory.mktemp("store") / "videos", marked(), channels=3)


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_latent_store(tmp_path_factory.mktemp("store") / "latents", marked())


def samples(store: Store, view: Triplet, augment: Augment | None = None) -> ViewDataset:
    return ViewDataset(Recordings(store, "TRAIN"), view, 0, augment=augment)


def test_three_frames_one_after_the_other_along_the_channels(videos: Store) -> None:
    """Three frames, stacked along the channels; all pixels of the store differ, so that wrong channels are noticed."""
    batch = default_collate([samples(videos, Triplet().for_evaluation())[index] for index in range(2)])
    assert batch["x"].shape == (2, 9, HEIGHT, WIDTH)
    for x, (name, beat) in zip(batch["x"], (("a1", (14, 19, 26)), ("b1", (3, 9, 13))), strict=True):
        for place, frame in enumerate(beat):
            pixels = torch.from_numpy(videos.frames(name, [frame])[0].copy()).permute(2, 0, 1)
            assert torch.equal(x[3 * place : 3 * place + 3], from_uint8(pixels))
    assert batch["reference_time"].dtype == torch.float32
    assert batch["reference_time"].tolist() == [[0, 5, 12], [0, 6, 10]]
    assert set(batch) == {"x", "name", "columns", "reference_time"}


def test_latents_are_whitened_channel_by_channel(latents: Store) -> None:
    x = samples(latents, Triplet(beat="centre", posterior="mean"))[1]["x"]
    mean, std = (np.array(values).reshape(4, 1, 1) for values in (STATISTICS.mean, STATISTICS.std))
    exact = (posterior_mean(1, 20)[[3, 9, 13]].astype(np.float64) - mean) / std
    np.testing.assert_allclose(x.numpy(), exact.reshape(12, HEIGHT, WIDTH), atol=1e-6)


def test_each_frame_of_a_triple_is_drawn_from_its_own_posterior(latents: Store) -> None:
    made = samples(latents, Triplet(beat="centre"))
    drawn, again, mean = made[1]["x"], made[1]["x"], samples(latents, Triplet(beat="centre", posterior="mean"))[1]["x"]
    assert torch.equal(drawn, again)
    noise = ((drawn - mean).view(3, 4, -1) * torch.tensor(STATISTICS.std).view(4, 1) / 0.25).flatten(1)
    assert 0.8 < float(noise.std()) < 1.2
    assert torch.corrcoef(noise).fill_diagonal_(0).abs().max() < 0.4


def test_training_sees_every_beat_of_a_recording_and_no_other_frames(videos: Store) -> None:
    made = samples(videos, Triplet(per_recording=2))
    assert len(made) == 4
    found: dict[int, list[tuple[int, ...]]] = {0: [], 1: []}
    for epoch in range(60):
        for index in range(4):
            item = made[SampleIndex(epoch, index)]
            frames = tuple(to_uint8(item["x"])[::3, 0, 0].tolist())
            assert set(to_uint8(item["x"])[::3, 0, 1].tolist()) == {index // 2}
            assert item["reference_time"].tolist() == [frame - frames[0] for frame in frames]
            found[index // 2].append(frames)
    assert {recording: sorted(set(beats)) for recording, beats in found.items()} == BEATS
    counts = [found[0].count(beat) for beat in BEATS[0]]
    assert min(counts) > 20, counts  # 120 samples: 40 per beat expected


def test_validation_and_test_see_the_beat_nearest_the_middle_once(tmp_path: Path) -> None:
    ends = [
        row("v1", "V", 40, "VAL", ED="2 14 26 38", ES="7 19 31"),
        row("v2", "W", 60, "VAL", ED="1 11 21 33", ES="6 16 28"),
        # two beats are equally near to the middle: the first is chosen
        row("v3", "X", 41, "VAL", ED="10 20 30", ES="15 25"),
        row("t1", "T", 32, "TEST", ED="2 14 26", ES="12 18"),
    ]
    make_video_store(tmp_path / "videos", [*marked(), *ends])
    data = StoreData(str(tmp_path / "videos"), Triplet(per_recording=3), batch_size=8, workers=0, seed=1)
    (held,), (tested,) = list(data.val_dataloader()), list(data.test_dataloader())
    assert to_uint8(held["x"])[:, :, 0, 0].tolist() == [[14, 19, 26], [21, 28, 33], [10, 15, 20]]
    assert to_uint8(tested["x"])[:, :, 0, 0].tolist() == [[14, 18, 26]]
    assert sum(len(batch["x"]) for batch in data.train_dataloader()) == 6


def test_augmentation_is_one_draw_for_the_three_frames(tmp_path: Path) -> None:
    """Shift, gain and flip are equal in the three frames; speckle is sampled anew for each frame."""
    store = make_video_store(tmp_path / "videos", [row("a", "A", 20, ED="3 13", ES="9")], channels=3)
    alike = Augment(shift=0.3, rotate=20, zoom=0.3, flip=0.5)
    for epoch in range(8):
        plain, varied = (samples(store, Triplet(), augment)[SampleIndex(epoch, 0)]["x"] for augment in (None, alike))
        assert not torch.equal(plain, varied)
        # the frames differ by constants: 2 gray levels per frame number
        same = (varied.view(3, 3, -1) - varied.view(3, 3, -1)[:1]).abs()
        interior = same[:, 2].median(dim=-1).values * 127.5
        np.testing.assert_allclose(interior, [0, 12, 20], atol=1e-3)
    lit = samples(store, Triplet(), Augment(gain=0.9))[0]["x"]
    plain = samples(store, Triplet())[0]["x"]
    ratios = ((lit + 1) / (plain + 1))[:, 1, 2:]
    assert float(ratios.max() - ratios.min()) < 1e-4
    assert abs(float(ratios.mean()) - 1) > 1e-3
    speckled = samples(store, Triplet(), Augment(speckle=0.1))[0]["x"]
    noise = ((speckled + 1) / (plain + 1) - 1)[:, 1:].reshape(3, 3, -1)
    assert torch.allclose(noise[:, 0], noise[:, 1], atol=1e-4)  # all channels of a pixel have the same speckle
    assert not torch.allclose(noise[0], noise[1], atol=1e-2)


@pytest.mark.parametrize(("ed", "es"), [("2 14", ""), ("2 7", "7"), ("", "")])
def test_a_recording_without_a_beat_is_left_out(tmp_path: Path, ed: str, es: str) -> None:
    every = [*marked(), row("c1", "C", 20, ED=ed, ES=es)]
    store = make_video_store(tmp_path / "videos", every)
    found = samples(store, Triplet())
    assert "c1" not in found.rows.names
    assert len(found) == len([entry for entry in marked() if entry["Split"] == "TRAIN"])


def test_a_mark_that_is_no_frame_is_named_at_birth(tmp_path: Path) -> None:
    store = make_video_store(tmp_path / "videos", [*marked(), row("c1", "C", 20, ED="2 99", ES="7")])
    with pytest.raises(UserError, match=r"c1 has .*use another view"):
        samples(store, Triplet())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"per_recording": 0}, "view.per_recording is 0"),
        ({"beat": "last"}, "view.beat is 'last': choose one of random, centre"),
        ({"posterior": "mode"}, "view.posterior is 'mode'"),
    ],
)
def test_settings_that_cannot_be_are_named(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Triplet(**settings)
