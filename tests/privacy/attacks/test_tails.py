"""Tail counts: closed forms, exactness under the null hypothesis, and detection of two planted copies in 96 samples."""

import itertools

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cdist

from echodream.errors import UserError
from echodream.metrics.bootstrap import clopper_pearson_interval
from echodream.privacy.attacks.closeness import dcr_and_nndr
from echodream.privacy.attacks.tails import gap_p_values, log_gaps, nearer_than_new_patients, singling_out

TRAIN, HELD, SAMPLES = 60, 30, 96
MEMBER = np.arange(TRAIN + HELD) < TRAIN
ROWS = np.arange(TRAIN + HELD)


def tables(seed: int, copies: int = 0, width: int = 8, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Distances of samples to patients, and between patients; the first ``copies`` samples copy training patients."""
    generator = np.random.default_rng(seed)
    patients, samples = generator.normal(size=(TRAIN + HELD, width)), generator.normal(size=(SAMPLES, width)) * spread
    samples[:copies] = patients[generator.permutation(TRAIN)[:copies]] + 0.01 * generator.normal(size=(copies, width))
    return cdist(samples, patients), cdist(patients, patients)


def controls(between: np.ndarray) -> np.ndarray:
    found = between.copy()
    np.fill_diagonal(found, np.inf)
    return found[TRAIN:]


def test_count_and_threshold_are_those_of_brute_force() -> None:
    samples, between = tables(0, copies=4)
    found = nearer_than_new_patients(samples, between, ROWS, MEMBER, repeats=10)
    nearest_new = min(between[i, j] for i in range(TRAIN, TRAIN + HELD) for j in range(TRAIN))
    assert found.threshold == nearest_new
    assert found.count == sum(min(row[:TRAIN]) < nearest_new for row in samples) >= 4
    assert found.share == clopper_pearson_interval(found.count, SAMPLES)
    assert (found.samples, found.controls) == (SAMPLES, HELD)


def test_permutation_test_is_exact_for_all_choices_of_the_training_patients() -> None:
    """Five patients, two of them new: random permutations give the p-value of all ten permutations."""
    samples, between = tables(1, copies=3)
    chosen = [0, 1, 2, TRAIN, TRAIN + 1]
    between, member = between[np.ix_(chosen, chosen)], np.array([True, True, True, False, False])
    samples = np.random.default_rng(2).permuted(samples[:12, chosen], axis=1) * 0.7
    nearest_two = between[~np.eye(5, dtype=bool)].min()
    counts = {}
    for new in itertools.combinations(range(5), 2):
        inside = [k for k in range(5) if k not in new]
        counts[new] = int((samples[:, inside].min(axis=1) < nearest_two).sum())
    exact = np.mean([count >= counts[3, 4] for count in counts.values()])
    found = nearer_than_new_patients(samples, between, np.arange(5), member, repeats=4000)
    assert found.nearest == counts[3, 4] > 0
    assert found.p_value == pytest.approx(exact, abs=0.03)


def test_p_value_of_the_permutation_test_is_valid_if_nobody_is_copied() -> None:
    """120 studies without copies: p-values are valid, also if samples are less spread than patients."""
    for spread in (1.0, 0.5):
        p = np.array(
            [
                nearer_than_new_patients(*tables(seed, spread=spread), ROWS, MEMBER, 39, seed).p_value
                for seed in range(120)
            ]
        )
        for level in (0.05, 0.1, 0.25, 0.5):
            assert (p <= level).mean() <= level + 3 * np.sqrt(level * (1 - level) / 120)
        assert (p < 1).mean() > 0.2


def test_expected_count_is_that_of_samples_like_new_patients() -> None:
    """2,000 studies with exchangeable distances of 20 samples and 7 new patients: counts match the closed form."""
    generator = np.random.default_rng(0)
    values = generator.random((2000, 27))
    counts = (values[:, :20] < values[:, 20:].min(axis=1, keepdims=True)).sum(axis=1)
    samples, between = (generator.random((rows, 9)) for rows in (20, 9))
    found = nearer_than_new_patients(samples, between, np.arange(9), np.arange(9) < 2, 1)
    assert found.controls == 7
    assert counts.mean() / 20 == pytest.approx(found.expected.value, abs=0.01)
    assert found.expected.value == 1 / 8
    assert (counts <= round(20 * found.expected.high)).mean() >= 0.97
    assert (counts < round(20 * found.expected.high)).mean() <= 0.99


def test_few_copies_cannot_be_significant_among_few_new_patients_and_the_result_says_so() -> None:
    """Probability that a permutation labels all k copied patients as training: C(P - k, m - k) / C(P, m)."""
    samples, between = tables(3, copies=2)
    found = nearer_than_new_patients(samples, between, ROWS, MEMBER, 400)
    assert found.nearest == 2
    assert found.smallest_p_value == pytest.approx(60 * 59 / (90 * 89))
    assert found.p_value > 0.3
    many = nearer_than_new_patients(*tables(3, copies=20, width=40), ROWS, MEMBER, 400)
    assert many.p_value < 0.01


def test_p_values_of_gaps_are_exact_for_exponential_gaps() -> None:
    """Simulated: (1 + g / S)^-K is the p-value of an exponential gap g, with S the sum of K other gaps."""
    generator = np.random.default_rng(0)
    simulated = generator.exponential(3.0, (20_000, 13))
    p = np.array([(1 + row[0] / row[1:].sum()) ** -12 for row in simulated])
    assert stats.kstest(p, "uniform").pvalue > 0.01
    larger = np.array([gap_p_values(row[:1], row[1:])[0] for row in simulated[:4000]])
    assert (larger >= p[:4000] - 1e-12).all()
    for level in (0.01, 0.1):
        assert (larger <= level).mean() <= level + 0.005


def test_log_gaps_by_hand() -> None:
    gaps = log_gaps(np.array([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0], [0.0, 0.0, 1.0], [2.0, 2.0, np.inf]]))
    assert gaps == pytest.approx([np.log(2), np.log(1e6), 0, 0])


@pytest.mark.parametrize(("width", "spread"), [(3, 1.0), (8, 1.0), (8, 0.5), (40, 1.0)])
@pytest.mark.slow
def test_nobody_is_singled_out_if_nobody_is_copied(width: int, spread: float) -> None:
    """150 studies without copies at level 2.5 %: the rate of false alarms is at most this level."""
    alarms = 0
    for seed in range(150):
        samples, between = tables(seed, width=width, spread=spread)
        alarms += singling_out(samples, controls(between), MEMBER, 0.025).count > 0
    assert alarms / 150 <= 0.025 + 3 * np.sqrt(0.025 * 0.975 / 150)


def test_two_exact_copies_of_96_samples_are_found() -> None:
    for seed in range(15):
        samples, between = tables(seed, copies=2)
        found = singling_out(samples, controls(between), MEMBER, 0.025)
        assert found.count >= 2
        assert found.p_value < 0.005
        assert found.share == clopper_pearson_interval(found.count, SAMPLES)


def test_copies_of_new_patients_are_not_counted_as_training_patients() -> None:
    samples, between = tables(5)
    samples[:3] = between[TRAIN : TRAIN + 3] + 0.01
    found = singling_out(samples, controls(between), MEMBER, 0.025)
    assert (found.count, found.others) == (0, 3)
    assert found.p_value > 0.025


def test_too_few_new_patients_are_refused_and_equal_patients_prove_nothing() -> None:
    samples, between = tables(6, copies=1)
    with pytest.raises(UserError, match="three or more held-out patients, and there are 2"):
        singling_out(samples, controls(between)[:2], MEMBER, 0.025)
    same = np.ones((5, 7))
    assert singling_out(same, same, np.arange(7) < 4, 0.025).count == 0


def test_dcr_is_the_mean_over_all_subsets_of_training_patients() -> None:
    """Compared with all 15 subsets of two of the six training patients; a tie counts one half."""
    generator = np.random.default_rng(0)
    to_train, to_holdout = generator.integers(0, 6, (40, 6)) * 1.0, generator.integers(0, 6, (40, 2)) * 1.0
    near = to_holdout.min(axis=1)
    shares = []
    for subset in itertools.combinations(range(6), 2):
        first = to_train[:, subset].min(axis=1)
        shares.append(((first < near) + 0.5 * (first == near)).mean())
    found = dcr_and_nndr(to_train, to_holdout, repeats=20)
    assert found.nearest_in_train.value == pytest.approx(np.mean(shares))
    assert found.spread == pytest.approx(np.std(shares), rel=0.35)
    assert (found.patients, found.draws) == (2, 50)
    turned = dcr_and_nndr(to_holdout, to_train, repeats=20)
    assert turned.nearest_in_train.value == pytest.approx(1 - np.mean(shares))


def test_dcr_does_not_depend_on_the_seed_of_the_subsets() -> None:
    samples, _ = tables(7, copies=10)
    found = [dcr_and_nndr(samples[:, :TRAIN], samples[:, TRAIN:], seed, 99) for seed in (0, 1)]
    assert found[0].nearest_in_train.value == found[1].nearest_in_train.value
    assert found[0].p_value == pytest.approx(found[1].p_value, abs=0.1)
