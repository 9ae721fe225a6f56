"""Batches with a limited number of frames: order, shapes and limit, for random lengths and shapes."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from echodream.datamodules.frame_budget_batches import FrameBudgetBatches, plan_batches
from echodream.errors import UserError
from echodream.runs.predict import DistributedBatchSampler, PredictionData
from tests.support.stores import make_latent_store, posterior_mean
from tests.support.tiny_vae import moving_disc, moving_disc_store


@pytest.mark.parametrize("seed", range(50))
def test_a_plan_keeps_its_promises(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, budget = int(rng.integers(1, 30)), int(rng.integers(1, 40))
    lengths = rng.integers(1, 60, count).tolist()
    shapes = [[(8, 8), (8, 16)][kind] for kind in rng.integers(0, 2, count) * (seed % 2)]
    packs = plan_batches(lengths, shapes, budget)
    assert [index for pack in packs for index in pack] == list(range(count))  # every recording once, in order
    for pack in packs:
        assert len({shapes[index] for index in pack}) == 1
        assert len(pack) == 1 or sum(lengths[index] for index in pack) <= budget
    for pack, following in itertools.pairwise(packs):  # no batch has room for the first recording of the next batch
        fits = sum(lengths[index] for index in pack) + lengths[following[0]] <= budget
        assert not (fits and shapes[pack[0]] == shapes[following[0]])


def test_a_plan_by_hand() -> None:
    square, wide = (8, 8), (8, 16)
    assert plan_batches([3, 5, 1, 9, 2, 2], [square] * 5 + [wide], 8) == [[0, 1], [2], [3], [4], [5]]
    assert plan_batches([], [], 8) == []


@pytest.mark.parametrize("budget", [0, -3])
def test_a_budget_that_cannot_be(budget: int) -> None:
    with pytest.raises(UserError, match="budget is"):
        plan_batches([1], [(8, 8)], budget)


def test_packs_hold_whole_recordings_of_pixels(tmp_path: Path) -> None:
    packs = FrameBudgetBatches(moving_disc_store(tmp_path / "videos", [5, 2, 4], channels=3), budget=8)
    assert [pack.names for pack in (packs[0], packs[1])] == [("r0", "r1"), ("r2",)]
    assert packs[0].lengths == (5, 2)
    truth = np.concatenate([moving_disc(5, 0, channels=3), moving_disc(2, 1, channels=3)]).transpose(0, 3, 1, 2)
    assert packs[0].frames.dtype == torch.uint8
    assert np.array_equal(packs[0].frames.numpy(), truth)


def test_packs_hold_means_of_latents(tmp_path: Path) -> None:
    packs = FrameBudgetBatches(make_latent_store(tmp_path / "latents"), budget=24)
    assert packs[0].names == ("a1", "a2")
    truth = np.concatenate([posterior_mean(0, 11), posterior_mean(1, 12)])
    assert np.array_equal(packs[0].frames.numpy(), truth.astype(np.float32))


def test_what_is_done_leaves_the_other_packs_as_they_were(tmp_path: Path) -> None:
    store = moving_disc_store(tmp_path / "videos", [5, 2, 4, 4, 1])
    whole = [
        pack.names for pack in map(FrameBudgetBatches(store, 8).__getitem__, range(len(FrameBudgetBatches(store, 8))))
    ]
    rest = FrameBudgetBatches(store, 8, done={"r0", "r2", "r3"})
    assert [rest[number].names for number in range(len(rest))] == [whole[0], whole[2]]
    assert len(FrameBudgetBatches(store, 8, done={f"r{k}" for k in range(5)})) == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_the_loader_gives_packs_in_order(tmp_path: Path, workers: int) -> None:
    store = moving_disc_store(tmp_path / "videos", [5, 2, 4])
    data = PredictionData(lambda: FrameBudgetBatches(store, 8), workers)
    assert [pack.names for pack in data.predict_dataloader()] == [("r0", "r1"), ("r2",)]


@pytest.mark.parametrize(("count", "world"), [(7, 1), (7, 2), (7, 3), (1, 4), (0, 2)])
def test_every_pack_is_dealt_to_one_process(tmp_path: Path, count: int, world: int) -> None:
    store = moving_disc_store(tmp_path / "videos", [2] * 7)
    packs = FrameBudgetBatches(store, 2, done={f"r{k}" for k in range(count, 7)})
    hands = [list(DistributedBatchSampler(packs, rank, world)) for rank in range(world)]
    assert [len(DistributedBatchSampler(packs, rank, world)) for rank in range(world)] == [len(hand) for hand in hands]
    assert sorted(index for hand in hands for index in hand) == list(range(count))
    assert max(map(len, hands)) - min(map(len, hands)) <= 1
