"""Bootstrap intervals, compared with closed forms and with other bootstraps."""

import numpy as np
import pytest

from echodream.errors import UserError
from echodream.metrics.bootstrap import (
    Estimate,
    SamplingUnits,
    _weighted_median,
    bootstrap_mean,
    bootstrap_median,
    clopper_pearson_interval,
    influence_interval,
    mean_estimate,
)


def everyone(count: int) -> SamplingUnits:
    return SamplingUnits(np.arange(count))


def test_the_interval_of_a_mean_is_the_ordinary_bootstrap() -> None:
    rng = np.random.default_rng(0)
    units = rng.integers(17, size=90)
    values = rng.normal(size=90) + 0.5 * units
    found, truth = (
        influence_interval(mean_estimate(values), SamplingUnits(units)),
        bootstrap_mean(values, units.tolist(), repeats=4000, seed=1),
    )
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(truth.low, abs=0.08 * (truth.high - truth.low))
    assert found.high == pytest.approx(truth.high, abs=0.08 * (truth.high - truth.low))
    alone = influence_interval(mean_estimate(values), SamplingUnits(np.arange(90)))
    # rows of one unit are resampled together, which widens the interval
    assert found.high - found.low > 1.5 * (alone.high - alone.low)


def test_patients_are_given_for_each_row() -> None:
    with pytest.raises(UserError, match="31 rows have 2 patients: give one patient for each row"):
        bootstrap_mean(np.zeros(31), ["a", "b"])


def test_both_sets_contribute_to_the_interval() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=80), 3 * rng.normal(size=50)
    both = Estimate(0.0, x - x.mean(), y - y.mean())
    found = influence_interval(both, SamplingUnits(np.arange(80)), SamplingUnits(np.arange(50)))
    truth = 1.96 * np.sqrt(x.var() / 80 + y.var() / 50)
    assert found.high == pytest.approx(truth, rel=0.1)
    assert found.low == pytest.approx(-truth, rel=0.1)
    assert influence_interval(both, SamplingUnits(np.arange(80)), SamplingUnits(np.arange(50))) == found
    assert influence_interval(both, SamplingUnits(np.arange(80)), SamplingUnits(np.arange(50)), seed=1) != found


def test_interval_ends_stay_within_the_bounds() -> None:
    found = influence_interval(
        Estimate(0.1, np.array([-1.0, 1.0, 0.0, 0.0]), np.zeros(3), (0.0, 1.0)), everyone(4), everyone(3)
    )
    assert (found.low, found.value) == (0.0, 0.1)
    assert 0.1 < found.high <= 1.0


@pytest.mark.parametrize("all_of_them", [0.0, 1.0])
def test_a_proportion_of_0_or_1_has_the_exact_interval(all_of_them: float) -> None:
    units = np.repeat(np.arange(13), 4)
    found, truth = (
        influence_interval(mean_estimate(np.full(52, all_of_them), proportion=True), SamplingUnits(units)),
        clopper_pearson_interval(13 * int(all_of_them), 13),
    )
    assert (found.value, found.low, found.high) == (all_of_them, truth.low, truth.high)
    other = Estimate(all_of_them, np.zeros(0), np.zeros(52), (0.0, 1.0), True)
    assert influence_interval(other, everyone(7), SamplingUnits(units)) == found


def test_classes_with_few_patients_are_resampled_together() -> None:
    """Classes with too few patients are merged: with one patient per class, no interval would exist."""
    values, patients = np.array([1.0, 5.0, 2.0, 8.0, 3.0]), np.arange(5)
    classes = np.array(["a", "a", "a", "b", "b"])
    assert influence_interval(mean_estimate(values), SamplingUnits(patients, classes)) == influence_interval(
        mean_estimate(values), SamplingUnits(patients)
    )
    few = influence_interval(mean_estimate(values[:2]), SamplingUnits(patients[:2], classes[2:4]))
    assert (few.low, few.high) == pytest.approx((3 - 2 * np.sqrt(2), 3 + 2 * np.sqrt(2)))


def test_one_unit_has_no_interval() -> None:
    found = influence_interval(mean_estimate(np.array([1.0, 2.0, 4.0])), SamplingUnits(np.array(["a", "a", "a"])))
    assert found.value == pytest.approx(7 / 3)
    assert np.isnan([found.low, found.high]).all()


def test_units_are_resampled_within_their_class() -> None:
    """Differences between classes do not widen the interval."""
    classes = np.repeat([0, 1], [30, 20])
    apart = 100.0 * classes
    assert influence_interval(mean_estimate(apart), SamplingUnits(np.arange(50), classes)).high == pytest.approx(
        apart.mean()
    )
    noise = np.random.default_rng(2).normal(size=50) * np.where(classes, 4.0, 1.0)
    found = influence_interval(mean_estimate(apart + noise), SamplingUnits(np.arange(50), classes))
    spread = np.sqrt(sum(noise[classes == k].var() * (classes == k).sum() for k in (0, 1))) / 50
    assert found.high - found.low == pytest.approx(2 * 1.96 * spread, rel=0.1)
    assert influence_interval(mean_estimate(apart + noise), SamplingUnits(np.arange(50))).high - found.high > 5


def test_the_interval_of_the_median_resamples_patients() -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(size=200)
    found = bootstrap_median(values, np.arange(200), repeats=400)
    drawn = [np.median(values[np.random.default_rng(k).integers(200, size=200)]) for k in range(600)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert found.value == np.median(values)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.08)
    twice = bootstrap_median(np.repeat(values, 3), np.repeat(np.arange(200), 3), repeats=400)
    assert (twice.low, twice.high) == (found.low, found.high)  # repeated rows of a patient do not narrow the interval
    assert np.isnan(bootstrap_median(values, ["one"] * 200).low)
    assert bootstrap_median(np.array([1.0, np.nan, 4.0]), list("abc")).value == 2.5
    assert np.isnan(bootstrap_median(np.array([np.nan])).value)


def test_weighted_median_equals_the_median_of_repeated_rows() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        values, often = np.sort(rng.integers(0, 5, 7)).astype(float), rng.integers(0, 4, 7)
        if often.sum():
            assert _weighted_median(values, np.cumsum(often)) == np.median(np.repeat(values, often))
