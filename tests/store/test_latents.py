from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from echodream.store import Statistics, StoreError
from echodream.store.latents import probe_latents, read_latents, write_latents
from tests.support.fakes import latent_store, posterior


def test_the_posterior_comes_back_as_float16(tmp_path: Path) -> None:
    path, (mean, std) = tmp_path / "a.safetensors", posterior()
    write_latents(path, mean.astype(np.float64), std.astype(np.float32))
    found = read_latents(path)
    assert all(part.dtype == torch.float16 for part in found)
    assert np.array_equal(found[0].numpy(), mean)
    assert np.array_equal(found[1].numpy(), std)
    assert np.array_equal(load_file(path)["mean"], mean)
    assert probe_latents(path, 4) == (7, 5, 6)


@pytest.mark.parametrize(("start", "stop"), [(0, None), (2, 5), (6, 7), (-2, None), (5, 2), (0, 100), (None, -1)])
def test_a_slice_is_what_the_whole_has_there(tmp_path: Path, start: int, stop: int | None) -> None:
    path, (mean, std) = tmp_path / "a.safetensors", posterior()
    write_latents(path, mean, std)
    found = read_latents(path, start, stop)
    assert np.array_equal(found[0].numpy(), mean[start:stop])
    assert np.array_equal(found[1].numpy(), std[start:stop])


def test_equal_latents_give_equal_bytes(tmp_path: Path) -> None:
    for name in "ab":
        write_latents(tmp_path / name, *posterior())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_largest_and_smallest_values_are_kept(tmp_path: Path) -> None:
    mean = np.full((1, 1, 1, 2), 65504.0)
    mean[..., 1] = -65504.0
    write_latents(tmp_path / "a", mean, np.zeros_like(mean))
    assert read_latents(tmp_path / "a")[0].flatten().tolist() == [65504.0, -65504.0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 65520.0, -1e9])
@pytest.mark.parametrize("part", [0, 1])
def test_what_float16_cannot_hold_is_refused(tmp_path: Path, value: float, part: int) -> None:
    given = [array.astype(np.float64) for array in posterior()]
    given[part][1, 2, 3, 4] = value
    with pytest.raises(StoreError, match="not finite"):
        write_latents(tmp_path / "a", *given)
    assert not (tmp_path / "a").exists()


def test_a_negative_std_is_refused(tmp_path: Path) -> None:
    mean, std = posterior()
    with pytest.raises(StoreError, match="negative"):
        write_latents(tmp_path / "a", mean, std - 100)


@pytest.mark.parametrize("shapes", [((2, 3, 4), (2, 3, 4)), ((2, 3, 4, 5), (3, 3, 4, 5)), ((2,) * 5, (2,) * 5)])
def test_other_shapes_are_refused(tmp_path: Path, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(StoreError, match="F, C, H, W"):
        write_latents(tmp_path / "a", np.zeros(shapes[0]), np.zeros(shapes[1]))


GOOD = np.zeros((2, 4, 5, 6), np.float16)
WRONG = {
    "float32": {"mean": GOOD.astype(np.float32), "std": GOOD.astype(np.float32)},
    "one float64": {"mean": GOOD, "std": GOOD.astype(np.float64)},
    "rank 3": {"mean": GOOD[0], "std": GOOD[0]},
    "rank 0": {"mean": GOOD[0, 0, 0, 0], "std": GOOD[0, 0, 0, 0]},
    "other channels": {"mean": GOOD[:, :3], "std": GOOD[:, :3]},
    "other frames": {"mean": GOOD, "std": GOOD[:1]},
    "no std": {"mean": GOOD},
    "one more": {"mean": GOOD, "std": GOOD, "logvar": GOOD},
    "other\nnames": {"a\n" * 200: GOOD},
    "not finite": {"mean": GOOD + np.float16(np.inf), "std": GOOD},
    "negative": {"mean": GOOD, "std": GOOD - np.float16(1)},
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_of_other_tensors_is_refused_with_one_sentence(tmp_path: Path, name: str) -> None:
    save_file({key: np.ascontiguousarray(value) for key, value in WRONG[name].items()}, tmp_path / "a")
    with pytest.raises(StoreError) as caught:
        probe_latents(tmp_path / "a", 4)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["float32", "one float64", "rank 3", "rank 0", "no std"])
def test_reading_a_slice_of_other_tensors_is_refused(tmp_path: Path, name: str) -> None:
    save_file({key: np.ascontiguousarray(value) for key, value in WRONG[name].items()}, tmp_path / "a")
    with pytest.raises(StoreError):
        read_latents(tmp_path / "a", 0, 1)


def test_a_store_notices_a_file_that_was_exchanged(tmp_path: Path) -> None:
    store = latent_store(tmp_path / "store")
    write_latents(store.path("rec-000"), *posterior(9))
    with pytest.raises(StoreError, match="does not contain the frames"):
        store.latents("rec-000")


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((), ()),
        ((0.0,), (1.0, 1.0)),
        ((0.0,), (0.0,)),
        ((0.0,), (-1.0,)),
        ((float("nan"),), (1.0,)),
        ((0.0,), (1e999,)),
    ],
)
def test_statistics_that_cannot_scale_are_refused(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="statistics"):
        Statistics(mean, std)
