"""Thresholds and rates against brute force, by hand, and against scikit-learn's definitions where they agree."""

import numpy as np
import pytest

from echodream.metrics import verification_threshold as at
from echodream.metrics.verification import Pairs, bootstrap_pairs


def some(seed: int, count: int = 60, patients: int = 12) -> Pairs:
    """Genuine pairs score a little higher; scores tie."""
    rng = np.random.default_rng(seed)
    first, second = rng.integers(patients, size=(2, count))
    second[::2] = first[::2]
    score = np.round(rng.normal(size=count) + (first == second), 1)
    return at.pairs_of(score, first, second)


def test_pairs_are_sorted_with_their_patients() -> None:
    found = at.pairs_of(np.array([0.1, 0.9, 0.5]), np.array(["b", "a", "c"]), np.array(["b", "c", "c"]))
    assert found.score.tolist() == [0.9, 0.5, 0.1]
    assert found.first.tolist() == [0, 2, 1]
    assert found.second.tolist() == [2, 2, 1]
    assert found.patients == 3


def test_rates_by_hand() -> None:
    """Five genuine pairs, of which three are accepted; four of others, of which one is."""
    score = np.array([0.9, 0.8, 0.5, 0.2, 0.1, 0.7, 0.3, 0.2, 0.0])
    first = np.arange(9)
    pairs = at.pairs_of(score, first, np.where(first < 5, first, 0))
    found = at.rates(pairs, 0.5)
    assert found.recall == pytest.approx(3 / 5)
    assert found.precision == pytest.approx(3 / 4)
    assert found.f1 == pytest.approx(2 / 3)
    assert found.accuracy == pytest.approx(6 / 9)
    assert found.far == pytest.approx(1 / 4)
    assert found.frr == pytest.approx(2 / 5)
    assert found.average_accuracy == pytest.approx(1 - (1 / 4 + 2 / 5) / 2)
    nothing = at.rates(pairs, 2.0)
    assert (nothing.precision, nothing.recall, nothing.f1, nothing.far) == (0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("seed", range(8))
def test_the_best_threshold_is_the_best_of_all(seed: int) -> None:
    pairs = some(seed)
    best = max(at.rates(pairs, cut).f1 for cut in pairs.score)
    found = at.best_f1(pairs)
    assert at.rates(pairs, found).f1 == pytest.approx(best)
    assert found == max(cut for cut in pairs.score if at.rates(pairs, cut).f1 > best - 1e-12)


@pytest.mark.parametrize("far", [0.1, 0.35])
def test_a_threshold_at_a_far_accepts_as_much_as_it_may(far: float) -> None:
    pairs = some(3)
    found = at.at_far(pairs, far)
    assert at.rates(pairs, found).far <= far
    lower = pairs.score[pairs.score < found].max()
    assert at.rates(pairs, lower).far > far
    assert np.isnan(at.at_far(pairs, 0.001))
    top = at.pairs_of(np.array([0.9] * 10 + [0.5]), np.arange(11), np.array([20] * 10 + [10]))
    assert np.isinf(at.at_far(top, 0.1))
    assert at.rates(top, at.at_far(top, 0.1)).far <= 0.1


def test_weights_are_repetitions() -> None:
    pairs, rng = some(4), np.random.default_rng(5)
    weight = rng.integers(0, 3, len(pairs.score))
    rows = np.repeat(np.arange(len(weight)), weight)
    again = Pairs(pairs.score[rows], pairs.first[rows], pairs.second[rows], pairs.patients)
    weighted, repeated = at.rates(pairs, 0.4, weight.astype(float)), at.rates(again, 0.4)
    for name in at.NAMES:
        assert getattr(weighted, name) == pytest.approx(getattr(repeated, name)), name
    assert at.eer(pairs, weight.astype(float)) == pytest.approx(at.eer(again))


def test_the_equal_error_rate() -> None:
    genuine, impostor = np.array([0.9, 0.8, 0.6, 0.3]), np.array([0.7, 0.4, 0.2, 0.1])
    score, first = np.concatenate([genuine, impostor]), np.arange(8)
    second = np.where(first < 4, first, 0)
    assert at.eer(at.pairs_of(score, first, second)) == pytest.approx(0.25)
    apart = at.pairs_of(np.array([0.9, 0.8, 0.2, 0.1]), np.arange(4), np.array([0, 1, 0, 0]))
    assert at.eer(apart) == 0.0
    same = at.pairs_of(np.full(8, 0.5), first, second)
    assert at.eer(same) == 0.5
    assert np.isnan(at.eer(at.pairs_of(genuine, np.arange(4), np.arange(4))))
    rng = np.random.default_rng(6)
    score = np.concatenate([rng.normal(size=4000) + 1, rng.normal(size=4000)])
    first = np.arange(8000)
    wide = at.pairs_of(score, first, np.where(first < 4000, first, 0))
    assert at.eer(wide) == pytest.approx(0.3085, abs=0.01)  # the normal distribution's at -1/2


def test_folds_judge_pairs_that_did_not_choose() -> None:
    """Unrolled by hand: patients in turns, the threshold of the others, F1 and accuracy on those left out."""
    pairs = some(7, count=80)
    found = at.by_folds(pairs, folds=4, seed=1)
    names = np.unique(pairs.first)
    order = np.random.default_rng(1).permutation(names)
    cuts, scores = [], []
    for number in range(4):
        out = np.isin(pairs.first, order[number::4])
        rest = Pairs(pairs.score[~out], pairs.first[~out], pairs.second[~out], pairs.patients)
        left = Pairs(pairs.score[out], pairs.first[out], pairs.second[out], pairs.patients)
        cuts.append(at.best_f1(rest))
        scores.append(at.rates(left, cuts[-1]).accuracy)
    assert found.threshold == np.median(cuts)
    assert found.accuracy == pytest.approx(np.nanmean(scores))
    assert found.count == 4
    assert found == at.by_folds(pairs, folds=4, seed=1)
    with pytest.raises(ValueError, match="pairs of one patient and pairs of two"):
        at.by_folds(at.pairs_of(np.ones(3), np.arange(3), np.arange(3)))
    few = at.by_folds(at.pairs_of(np.array([0.9, 0.1]), np.array([0, 0]), np.array([0, 1])))
    assert (few.threshold, few.count) == (0.9, 0)


def test_intervals_come_from_patients() -> None:
    pairs = some(8, count=200, patients=30)
    found = bootstrap_pairs(pairs, at.eer)
    assert 0 <= found.low < found.value < found.high <= 1
