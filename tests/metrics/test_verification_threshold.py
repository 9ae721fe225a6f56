"""Verification thresholds and rates compared with brute force and scikit-learn."""

import numpy as np
import pytest

from echodream.metrics import verification
from echodream.metrics.verification import Pairs, bootstrap_pairs


def some(seed: int, count: int = 60, patients: int = 12) -> Pairs:
    """Random pairs with ties; genuine pairs score higher by 1 on average."""
    rng = np.random.default_rng(seed)
    first, second = rng.integers(patients, size=(2, count))
    second[::2] = first[::2]
    score = np.round(rng.normal(size=count) + (first == second), 1)
    return verification.pairs_from_scores(score, first, second)


def test_pairs_are_sorted_with_their_patients() -> None:
    found = verification.pairs_from_scores(
        np.array([0.1, 0.9, 0.5]), np.array(["b", "a", "c"]), np.array(["b", "c", "c"])
    )
    assert found.score.tolist() == [0.9, 0.5, 0.1]
    assert found.first.tolist() == [0, 2, 1]
    assert found.second.tolist() == [2, 2, 1]
    assert found.patients == 3


def test_rates_by_hand() -> None:
    """Five genuine pairs with three accepted; four impostor pairs with one accepted."""
    score = np.array([0.9, 0.8, 0.5, 0.2, 0.1, 0.7, 0.3, 0.2, 0.0])
    first = np.arange(9)
    pairs = verification.pairs_from_scores(score, first, np.where(first < 5, first, 0))
    found = verification.verification_rates(pairs, 0.5)
    assert found.recall == pytest.approx(3 / 5)
    assert found.precision == pytest.approx(3 / 4)
    assert found.f1 == pytest.approx(2 / 3)
    assert found.accuracy == pytest.approx(6 / 9)
    assert found.far == pytest.approx(1 / 4)
    assert found.frr == pytest.approx(2 / 5)
    assert found.average_accuracy == pytest.approx(1 - (1 / 4 + 2 / 5) / 2)
    nothing = verification.verification_rates(pairs, 2.0)
    assert (nothing.precision, nothing.recall, nothing.f1, nothing.far) == (0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("seed", range(8))
def test_best_f1_threshold_by_brute_force(seed: int) -> None:
    pairs = some(seed)
    best = max(verification.verification_rates(pairs, cut).f1 for cut in pairs.score)
    found = verification.best_f1_threshold(pairs)
    assert verification.verification_rates(pairs, found).f1 == pytest.approx(best)
    assert found == max(cut for cut in pairs.score if verification.verification_rates(pairs, cut).f1 > best - 1e-12)


@pytest.mark.parametrize("far", [0.1, 0.35])
def test_threshold_at_far_is_the_lowest_allowed(far: float) -> None:
    pairs = some(3)
    found = verification.threshold_at_far(pairs, far)
    assert verification.verification_rates(pairs, found).far <= far
    lower = pairs.score[pairs.score < found].max()
    assert verification.verification_rates(pairs, lower).far > far
    assert np.isnan(verification.threshold_at_far(pairs, 0.001))
    top = verification.pairs_from_scores(np.array([0.9] * 10 + [0.5]), np.arange(11), np.array([20] * 10 + [10]))
    assert np.isinf(verification.threshold_at_far(top, 0.1))
    assert verification.verification_rates(top, verification.threshold_at_far(top, 0.1)).far <= 0.1


def test_weights_are_repetitions() -> None:
    pairs, rng = some(4), np.random.default_rng(5)
    weight = rng.integers(0, 3, len(pairs.score))
    rows = np.repeat(np.arange(len(weight)), weight)
    again = Pairs(pairs.score[rows], pairs.first[rows], pairs.second[rows], pairs.patients)
    weighted, repeated = (
        verification.verification_rates(pairs, 0.4, weight.astype(float)),
        verification.verification_rates(again, 0.4),
    )
    for name in verification.RATE_NAMES:
        assert getattr(weighted, name) == pytest.approx(getattr(repeated, name)), name
    assert verification.equal_error_rate(pairs, weight.astype(float)) == pytest.approx(
        verification.equal_error_rate(again)
    )


def test_the_equal_error_rate() -> None:
    genuine, impostor = np.array([0.9, 0.8, 0.6, 0.3]), np.array([0.7, 0.4, 0.2, 0.1])
    score, first = np.concatenate([genuine, impostor]), np.arange(8)
    second = np.where(first < 4, first, 0)
    assert verification.equal_error_rate(verification.pairs_from_scores(score, first, second)) == pytest.approx(0.25)
    apart = verification.pairs_from_scores(np.array([0.9, 0.8, 0.2, 0.1]), np.arange(4), np.array([0, 1, 0, 0]))
    assert verification.equal_error_rate(apart) == 0.0
    same = verification.pairs_from_scores(np.full(8, 0.5), first, second)
    assert verification.equal_error_rate(same) == 0.5
    assert np.isnan(verification.equal_error_rate(verification.pairs_from_scores(genuine, np.arange(4), np.arange(4))))
    rng = np.random.default_rng(6)
    score = np.concatenate([rng.normal(size=4000) + 1, rng.normal(size=4000)])
    first = np.arange(8000)
    wide = verification.pairs_from_scores(score, first, np.where(first < 4000, first, 0))
    # Phi(-1/2), for normal scores with means 1 apart
    assert verification.equal_error_rate(wide) == pytest.approx(0.3085, abs=0.01)


def test_cross_validated_threshold_by_hand() -> None:
    """By hand: the threshold of all folds but one, F1 and accuracy on the held-out fold."""
    pairs = some(7, count=80)
    found = verification.cross_validated_threshold(pairs, folds=4, seed=1)
    names = np.unique(pairs.first)
    order = np.random.default_rng(1).permutation(names)
    cuts, scores = [], []
    for number in range(4):
        out = np.isin(pairs.first, order[number::4])
        rest = Pairs(pairs.score[~out], pairs.first[~out], pairs.second[~out], pairs.patients)
        left = Pairs(pairs.score[out], pairs.first[out], pairs.second[out], pairs.patients)
        cuts.append(verification.best_f1_threshold(rest))
        scores.append(verification.verification_rates(left, cuts[-1]).accuracy)
    assert found.threshold == np.median(cuts)
    assert found.accuracy == pytest.approx(np.nanmean(scores))
    assert found.count == 4
    assert found == verification.cross_validated_threshold(pairs, folds=4, seed=1)
    with pytest.raises(ValueError, match=r"genuine pairs .of one patient. and impostor pairs"):
        verification.cross_validated_threshold(verification.pairs_from_scores(np.ones(3), np.arange(3), np.arange(3)))
    few = verification.cross_validated_threshold(
        verification.pairs_from_scores(np.array([0.9, 0.1]), np.array([0, 0]), np.array([0, 1]))
    )
    assert (few.threshold, few.count) == (0.9, 0)


def test_bootstrap_interval_contains_the_equal_error_rate() -> None:
    pairs = some(8, count=200, patients=30)
    found = bootstrap_pairs(pairs, verification.equal_error_rate)
    assert 0 <= found.low < found.value < found.high <= 1
