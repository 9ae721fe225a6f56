"""Membership inference from samples alone: samples with and without copies, and groups of patients that differ."""

import numpy as np
import pytest
from scipy import stats

from echodream.errors import UserError
from echodream.metrics.bootstrap import Interval
from echodream.metrics.classification import auc_interval, roc_auc
from echodream.privacy.attacks.membership import (
    ControlledAuc,
    controlled_auc,
    drop_self_distances,
    nearest_sample_scores,
    trained_attacker_scores,
)

MEMBERS, OTHERS, SAMPLES, WIDTH = 60, 40, 70, 10


def distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    squares = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1) - 2 * x @ y.T
    return np.sqrt(np.maximum(squares, 0))


def attacked(seed: int, copies: int = 0, spread: float = 1.0) -> tuple[ControlledAuc, ControlledAuc]:
    """AUC of two attacks: by the nearest sample, and by a trained attacker.

    Members are ``spread`` times as far from the mean as other patients. Samples follow the distribution of members, and
    the first ``copies`` samples are noisy copies of members.
    """
    generator = np.random.default_rng(seed)
    members, others = spread * generator.normal(size=(MEMBERS, WIDTH)), generator.normal(size=(OTHERS, WIDTH))
    samples = spread * generator.normal(size=(SAMPLES, WIDTH))
    samples[:copies] = members[:copies] + 0.2 * generator.normal(size=(copies, WIDTH))
    patients, member = np.concatenate([members, others]), np.arange(MEMBERS + OTHERS) < MEMBERS
    control = drop_self_distances(distances(members, patients), np.arange(MEMBERS), seed)
    to_samples = distances(samples, patients)
    return (
        controlled_auc(nearest_sample_scores(to_samples), nearest_sample_scores(control), member),
        controlled_auc(*(trained_attacker_scores(each, member, seed) for each in (to_samples, control)), member),
    )


def test_a_leaking_set_is_found() -> None:
    for result in attacked(0, copies=MEMBERS):
        assert result.auc.value > 0.95
        assert result.succeeds


@pytest.mark.parametrize("attack", [0, 1])
@pytest.mark.slow
def test_intervals_of_an_independent_set_cover_chance(attack: int) -> None:
    found = [attacked(seed)[attack] for seed in range(200)]
    assert np.mean([each.auc.low <= 0.5 <= each.auc.high for each in found]) >= 0.88
    assert np.mean([each.auc.value for each in found]) <= 0.515  # cross-fitting avoids an optimistic bias
    # expected share: 0.025, with a standard error of 0.011 (200 sets)
    assert np.mean([each.auc.low > 0.5 for each in found]) <= 0.05
    assert np.mean([each.succeeds for each in found]) <= 0.05
    assert np.mean([each.groups_differ for each in found]) <= 0.12


def test_the_control_finds_groups_that_differ_by_themselves() -> None:
    """Without copies, members near the mean are closer to samples than others are; scattered members are farther."""
    central, scattered = ([attacked(seed, spread=spread) for seed in range(40)] for spread in (0.6, 1.5))
    for attacks in central:
        for each in attacks:
            assert each.auc.low > 0.5
            assert each.control.low > 0.5
    for nearest, _ in scattered:
        assert nearest.auc.high < 0.5
        assert nearest.control.high < 0.5
    for results in (central, scattered):
        assert np.mean([each.succeeds for pair in results for each in pair]) <= 0.075


def test_copies_are_found_also_if_the_groups_differ() -> None:
    """A quarter of the scattered members are copied: the AUC is below .5, but above the AUC of the control."""
    nearest, trained = attacked(3, copies=MEMBERS // 4, spread=1.6)
    assert nearest.auc.value < 0.5
    assert nearest.groups_differ
    assert nearest.succeeds
    assert trained.auc.value > nearest.auc.value + 0.1  # the trained attacker models the distances of scattered members


def test_interval_of_the_auc_covers_the_truth() -> None:
    """Two normal distributions with means 1 apart; an observed AUC of 1 has the exact interval."""
    generator, truth = np.random.default_rng(0), stats.norm.cdf(1 / np.sqrt(2))
    found = [auc_interval(generator.normal(1, 1, 50), generator.normal(0, 1, 35)) for _ in range(400)]
    assert 0.92 <= np.mean([each.low <= truth <= each.high for each in found]) <= 0.98
    x, y = generator.normal(0.5, 1, 40).round(1), generator.normal(0, 1, 30).round(1)
    value = roc_auc(np.concatenate([x, y]), np.arange(70) < 40)[0]
    placements = [[np.mean((a > y) + 0.5 * (a == y)) for a in x], [np.mean((x > b) + 0.5 * (x == b)) for b in y]]
    error = np.sqrt(np.var(placements[0], ddof=1) / 40 + np.var(placements[1], ddof=1) / 30)
    interval = auc_interval(x, y)
    assert (interval.value, interval.high) == pytest.approx((value, value + stats.norm.ppf(0.975) * error))
    perfect = auc_interval(np.arange(5.0) + 10, np.arange(4.0))
    assert perfect == Interval(1.0, pytest.approx(0.025 ** (1 / 4)), 1.0)
    assert auc_interval(np.array([1.0]), np.array([0.0, 2.0])) == Interval(0.5, 0.0, 1.0)


def test_a_trained_attacker_needs_patients_of_both_groups() -> None:
    with pytest.raises(UserError, match="two or more patients"):
        trained_attacker_scores(np.ones((20, 30)), np.arange(30) < 1)


def test_own_distances_are_left_out() -> None:
    table = np.arange(12.0).reshape(3, 4)
    found = drop_self_distances(table, np.array([2, 0, 3]), 1)
    assert found.shape == (2, 4)
    # row 0 belongs to patient 2, so the distance of row 0 to patient 2 is left out
    assert found[:, 2].tolist() == [6, 10]
    assert found[:, 0].tolist() == [0, 8]
    assert found[:, 3].tolist() == [3, 7]
    assert set(found[:, 1]) < {1.0, 5.0, 9.0}
