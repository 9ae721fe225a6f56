"""Privacy measures of anonymized sets compared with brute force and hand-computed values, with ties and duplicates."""

import numpy as np
import pytest
import torch

from echodream.errors import UserError
from echodream.privacy.anonymity import (
    anonymity_measures,
    compare_avatars,
    hidden_by_patient,
    percentage_interval,
)
from tests.support.tensor_sizes import LargestTensor

NAMES = ("source", "distance", "nearer_avatars", "nearer_records", "closest_distance", "distance_ratio")
NAMES += ("closest_record",)


def apart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Euclidean distances between all rows of x and y, rounded to single precision: (n, m)."""
    return np.sqrt(((x[:, None].astype(float) - y[None].astype(float)) ** 2).sum(-1)).astype(np.float32)


def brute(x: np.ndarray, a: np.ndarray, source: np.ndarray | None) -> tuple[np.ndarray, ...]:
    """The values of ``compare_avatars``, computed with loops."""
    across, within = apart(x, a), apart(x, x)
    source = across.argmin(0) if source is None else source
    own = across[source, np.arange(len(a))]
    avatars = [(np.delete(across[i], k) < own[k]).sum() for k, i in enumerate(source)]
    records = [(np.delete(within[i], i) < own[k]).sum() for k, i in enumerate(source)]
    first, second = np.sort(across, axis=0)[:2].astype(float)
    ratio = [f / s if s > 0 else 1.0 for f, s in zip(first, second, strict=True)]
    return source, own, np.array(avatars), np.array(records), first, np.array(ratio), across.argmin(0)


def sets(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random records and avatars with duplicates: grid points, values far from the origin, or permuted copies."""
    rng = np.random.default_rng(seed)
    n, features = int(rng.integers(2, 40)), int(rng.integers(1, 7))
    grid = seed % 3 == 0
    x = rng.integers(-1, 2, (n, features)) if grid else rng.normal(size=(n, features)) + rng.choice([0.0, 100.0])
    x[rng.integers(n)] = x[rng.integers(n)]
    if seed % 2:
        a = x + (rng.integers(-1, 2, x.shape) if grid else 0.3 * rng.normal(size=x.shape))
    else:
        a = np.concatenate([x[: n // 2], x[rng.permutation(n)][n // 2 :]])
    a[rng.integers(n)] = a[rng.integers(n)]
    return x.astype(np.float32), a.astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("block", [2048, 5])
@pytest.mark.parametrize("paired", [True, False])
def test_random_sets_give_what_brute_force_gives(paired: bool, block: int) -> None:
    for seed in range(30 if block > 5 else 12):
        x, a = sets(seed)
        a = a if paired else np.concatenate([a, a[:3]])
        found = compare_avatars(torch.from_numpy(x), torch.from_numpy(a), paired, block)
        wanted = brute(x, a, np.arange(len(x)) if paired else None)
        assert found.source_is_assigned is not paired
        for name, value in zip(NAMES, wanted, strict=True):
            assert getattr(found, name) == pytest.approx(value, rel=1e-6), (seed, name)


def test_rows_far_closer_than_they_are_long() -> None:
    """Distances are far smaller than the norms of the rows: a float32 matrix product would give wrong counts."""
    rng = np.random.default_rng(0)
    x = (np.where(rng.integers(2, size=(60, 1)), 1, -1) + 0.001 * rng.normal(size=(60, 600))).astype(np.float32)
    a = (x + 0.004 * rng.normal(size=x.shape)).astype(np.float32)
    found = compare_avatars(torch.from_numpy(x), torch.from_numpy(a), block=32)
    for name, value in zip(NAMES, brute(x, a, np.arange(60)), strict=True):
        assert getattr(found, name) == pytest.approx(value, rel=1e-6), name
    plain = (x**2).sum(1)[:, None] + (a**2).sum(1) - 2 * x @ a.T
    assert ((plain < np.diag(plain)[:, None]).sum(1) != found.nearer_avatars).mean() > 0.2


def test_by_hand() -> None:
    """One-dimensional records 0, 1, 3, 10 and their avatars 2, 1, 2.5, 100."""
    found = compare_avatars(torch.tensor([[0.0], [1.0], [3.0], [10.0]]), torch.tensor([[2.0], [1.0], [2.5], [100.0]]))
    assert found.distance.tolist() == [2.0, 0.0, 0.5, 90.0]
    assert found.nearer_avatars.tolist() == [1, 0, 0, 3]
    assert found.nearer_records.tolist() == [1, 0, 0, 3]
    assert found.is_hidden.tolist() == [True, False, False, True]
    assert found.avatar_is_nearest.tolist() == [False, True, True, False]
    assert found.closest_distance.tolist() == [1.0, 0.0, 0.5, 90.0]
    assert found.distance_ratio.tolist() == pytest.approx([1.0, 0.0, 0.5 / 1.5, 90 / 97])
    values = {each.name: each for each in anonymity_measures(found, ["a", "b", "c", "d"])}
    assert values["hidden rate"].value.value == 50.0
    assert values["local cloaking, avatars"].value.value == 0.5
    assert values["nobody nearer"].value.value == 50.0
    assert values["DCR"].value.value == 0.75
    assert values["NNDR"].value.value == pytest.approx((0.5 / 1.5 + 90 / 97) / 2)
    assert values["distance to own avatar"].value.value == 1.25
    assert {name: each.meets_target for name, each in values.items() if each.target} == {
        "hidden rate": False,
        "local cloaking, avatars": False,
        "DCR": True,
        "NNDR": True,
    }


def test_ties_hide_nobody_and_duplicates_have_a_ratio_of_one() -> None:
    same = torch.tensor([[1.0, 2.0]] * 5 + [[4.0, 6.0]])
    found = compare_avatars(same, same.clone())
    assert not found.is_hidden.any()
    assert not found.nearer_records.any()
    assert found.distance_ratio.tolist() == [1.0] * 5 + [0.0]
    assert found.closest_record.tolist() == [0] * 5 + [5]
    line = compare_avatars(
        torch.tensor([[0.0], [9.0]]), torch.tensor([[1.0], [-1.0]])
    )  # both avatars have distance 1 to the first record
    assert line.nearer_avatars.tolist() == [0, 1]


def test_copies_are_not_hidden_and_noise_hides_by_chance() -> None:
    rng = np.random.default_rng(1)
    x = torch.from_numpy(rng.normal(size=(400, 6)).astype(np.float32))
    copy = compare_avatars(x, x.clone())
    assert not copy.is_hidden.any()
    assert copy.avatar_is_nearest.all()
    assert not copy.closest_distance.any()
    noise = compare_avatars(x, torch.from_numpy(rng.normal(size=(400, 6)).astype(np.float32)))
    assert noise.is_hidden.mean() == pytest.approx(1 - 1 / 400, abs=0.01)
    assert np.median(noise.nearer_avatars) == pytest.approx(199.5, abs=25)


def test_memory_does_not_grow_with_n_times_m() -> None:
    x = torch.randn(700, 3, generator=torch.Generator().manual_seed(0))
    with LargestTensor() as mode:
        compare_avatars(x, x + 1, block=50)
    assert mode.elements == 2500  # one block of 50 x 50 distances; each set has 2,100 numbers


def test_other_images_of_a_patient_hide_nobody() -> None:
    """Each avatar equals another record. The patient is hidden only if this record belongs to another patient."""
    records = torch.tensor([[0.0], [10.0], [20.0], [30.0]])
    avatars = records[[1, 0, 3, 2]]
    assert compare_avatars(records, avatars).is_hidden.all()
    assert hidden_by_patient(records, avatars, ["a", "a", "b", "b"]).tolist() == [False] * 4
    assert hidden_by_patient(records, avatars, ["a", "b", "b", "a"]).tolist() == [True] * 4
    assert hidden_by_patient(records, records, ["a", "b", "c", "d"]).tolist() == [False] * 4
    tie = torch.tensor([[1.0], [-1.0], [20.0], [30.0]])
    assert hidden_by_patient(torch.tensor([[0.0], [0.0], [20.0], [30.0]]), tie, list("abcd"), 1).tolist() == [False] * 4


def test_a_share_that_is_certain_has_an_interval() -> None:
    found = percentage_interval(np.zeros(60, bool), np.arange(60) // 2)
    assert (found.value, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(100 * (1 - 0.025 ** (1 / 30)))


def test_what_cannot_be_compared_is_refused() -> None:
    x = torch.zeros(4, 3)
    with pytest.raises(UserError, match="4 records and 3 avatars are not pairs"):
        compare_avatars(x, x[:3])
    with pytest.raises(UserError, match=r"same D and at least one row each, not \(4, 3\), \(4, 2\)"):
        compare_avatars(x, x[:, :2])
    with pytest.raises(UserError, match="NaN or infinite"):
        compare_avatars(x, x / 0)
    with pytest.raises(UserError, match="4 avatars and 3 patients"):
        anonymity_measures(compare_avatars(x, x), ["a"] * 3)
    alone = compare_avatars(x[:1], x[:1] + 1)
    assert np.isnan(alone.distance_ratio).all()
    assert alone.nearer_records.tolist() == [0]
