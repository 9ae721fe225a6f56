"""Conformal p-values, thresholds and exact bounds compared with their definitions and scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from echodream.errors import UserError
from echodream.metrics.binomial_bounds import (
    allowed_passes,
    calibration_patients_needed,
    clopper_pearson_lower,
    clopper_pearson_upper,
    controls_needed,
    controls_needed_at_rate,
    passes_for_power,
)
from echodream.privacy.conformal import (
    benjamini_hochberg,
    conformal_threshold,
    finite_scores,
    p_values,
    rank_grid,
    rank_scores,
)


def test_p_values_by_their_definition_with_ties() -> None:
    generator = np.random.default_rng(0)
    calibration, scores = generator.integers(0, 6, 17) / 5, generator.integers(-1, 8, 29) / 5
    truth = [(1 + sum(c >= score for c in calibration)) / 18 for score in scores]
    assert p_values(scores, calibration).tolist() == pytest.approx(truth)


@pytest.mark.parametrize("highest", [1.0, 0.0])
def test_ranks_keep_order_and_p_values(highest: float) -> None:
    generator = np.random.default_rng(0)
    calibration = generator.uniform(highest - 2, highest, 17)
    scores = np.sort(np.concatenate([generator.uniform(highest - 3, highest, 500), calibration, [highest]]))
    ranks = rank_scores(scores, calibration, highest)
    assert (np.diff(ranks) >= 0).all()
    assert (np.diff(ranks[scores > calibration.min()]) > 0).all()
    assert ranks[0] == 0.0
    assert ranks[-1] == 1.0
    assert p_values(ranks, rank_grid(17)).tolist() == pytest.approx(p_values(scores, calibration).tolist())
    assert sorted(rank_scores(calibration, calibration, highest).tolist()) == rank_grid(17).tolist()
    assert np.isnan(rank_scores(np.array([np.nan]), calibration, highest)).all()


def test_ranks_of_calibration_scores_that_tie_reject_no_more() -> None:
    generator = np.random.default_rng(0)
    calibration, scores = generator.integers(0, 6, 17) / 7, generator.uniform(-0.2, 1, 300)
    scores = np.concatenate([scores, np.arange(6) / 7])
    found = p_values(rank_scores(scores, calibration, 1.0), rank_grid(17))
    assert (found >= p_values(scores, calibration) - 1e-12).all()
    assert found[np.isin(scores, calibration)].tolist() == pytest.approx(
        p_values(scores[np.isin(scores, calibration)], calibration).tolist()
    )


@pytest.mark.parametrize("size", [5, 19, 20, 58, 59, 99, 100])
@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.07, 0.29, 0.5, 0.99])
def test_at_the_threshold_or_above_is_a_small_p_value(size: int, alpha: float) -> None:
    """Scores on a coarse grid have many ties. In floating point, .07 * 100 and .29 * 100 are not integers."""
    generator = np.random.default_rng(size)
    calibration, scores = generator.integers(0, 12, size) / 7, generator.integers(-1, 14, 200) / 7
    tau = conformal_threshold(calibration, alpha)
    small = (1 + (calibration[None] >= scores[:, None]).sum(axis=1)) * 1000 <= round(alpha * 1000) * (size + 1)
    assert (scores >= tau).tolist() == small.tolist()
    assert (tau == math.inf) == (size < calibration_patients_needed(alpha))


def test_calibration_patients_needed() -> None:
    assert [calibration_patients_needed(alpha) for alpha in (0.05, 0.1, 0.01, 1 / 3, 0.3)] == [19, 9, 99, 2, 3]


@pytest.mark.parametrize("alpha", [0.05, 0.2])
@pytest.mark.parametrize("seed", range(4))
def test_benjamini_hochberg_is_scipys(alpha: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    p = np.concatenate([generator.uniform(size=40), generator.uniform(0, 0.01, size=seed * 5)]).round(2 + seed)
    p = np.maximum(p, 0.001)
    rejected = stats.false_discovery_control(p) <= alpha
    assert (p <= benjamini_hochberg(p, alpha)).tolist() == rejected.tolist()


def test_bounds_are_scipys_clopper_pearson() -> None:
    for passes, trials in ((0, 59), (1, 10), (7, 31), (31, 31), (12, 400)):
        for delta in (0.05, 0.003):
            test = stats.binomtest(passes, trials)
            high = test.proportion_ci(1 - 2 * delta, method="exact").high
            low = test.proportion_ci(1 - 2 * delta, method="exact").low
            assert clopper_pearson_upper(passes, trials, delta) == pytest.approx(high, abs=1e-9)
            assert clopper_pearson_lower(passes, trials, delta) == pytest.approx(low, abs=1e-9)
    assert clopper_pearson_upper(0, 0, 0.05) == 1


@pytest.mark.parametrize("trials", [59, 60, 93, 150])
def test_the_upper_bound_holds_as_often_as_it_says(trials: int) -> None:
    """For many true rates: the exact probability that the bound is below the rate is at most delta."""
    bounds = np.array([clopper_pearson_upper(k, trials, 0.05) for k in range(trials + 1)])
    for rate in np.linspace(0.001, 0.999, 333):
        missed = stats.binom.pmf(np.arange(trials + 1), trials, rate)[bounds < rate].sum()
        assert missed <= 0.05 + 1e-12


def test_controls_needed_is_the_table_of_the_specification() -> None:
    assert [controls_needed(beta, 0.05) for beta in (0.05, 0.02, 0.01)] == [59, 149, 299]
    for beta, delta in ((0.05, 0.05), (0.13, 0.01), (0.5, 0.3)):
        needed = controls_needed(beta, delta)
        assert (1 - beta) ** needed <= delta < (1 - beta) ** (needed - 1)


def test_allowed_passes_by_trial() -> None:
    for trials in (10, 58, 59, 93, 400):
        truth = [k for k in range(trials) if stats.binom.cdf(k, trials, 0.05) <= 0.05]
        assert allowed_passes(trials, 0.05, 0.05) == (max(truth) if truth else -1)


def test_controls_needed_at_a_rate() -> None:
    assert controls_needed_at_rate(0.0, 0.05, 0.05) == 59
    needed = controls_needed_at_rate(0.02, 0.05, 0.05)
    assert needed is not None
    assert 150 < needed < 320
    assert clopper_pearson_upper(math.ceil(0.02 * needed), needed, 0.05) <= 0.05
    assert controls_needed_at_rate(0.0499999, 0.05, 0.05) is None


def test_the_choosing_patients_reach_their_power() -> None:
    """Thresholds at order statistics of uniform scores: simulated probability that certifying patients confirm them."""
    choosing, certifying = 200, 190
    k = passes_for_power(choosing, certifying, 0.05, 0.05, 0.9)
    allowed = allowed_passes(certifying, 0.05, 0.05)
    generator, chances = np.random.default_rng(0), []
    for passes in (k, k + 1):
        tau = np.sort(generator.uniform(size=(4000, choosing)), axis=1)[:, passes]
        chances.append(((generator.uniform(size=(4000, certifying)) < tau[:, None]).sum(axis=1) <= allowed).mean())
    assert k >= 1
    assert chances[0] >= 0.885  # power .9, minus three standard errors
    assert chances[1] < 0.9
    assert passes_for_power(60, 60, 0.05, 0.05, 0.9) == -1  # even with zero allowed passes, the power is only one half
    assert passes_for_power(60, 60, 0.05, 0.05, 0.499) == 0
    assert passes_for_power(60, 30, 0.05, 0.05, 0.1) == -1


def test_broken_scores_are_refused() -> None:
    for broken in ([0.1, float("nan")], [float("inf")], []):
        with pytest.raises(UserError, match="calibration scores"):
            finite_scores(broken, "calibration scores")
