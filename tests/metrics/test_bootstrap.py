"""Intervals of figures of two sets: over units, and against the spread that new samples really have."""

import numpy as np
import pytest

from echodream.metrics.bootstrap import Estimate, Units, interval, mean
from echodream.metrics.intervals import mean_interval, share


def everyone(count: int) -> Units:
    return Units(np.arange(count))


def test_the_interval_of_a_mean_is_the_ordinary_bootstrap() -> None:
    rng = np.random.default_rng(0)
    units = rng.integers(17, size=90)
    values = rng.normal(size=90) + 0.5 * units
    found, truth = interval(mean(values), Units(units)), mean_interval(values, units.tolist(), repeats=4000, seed=1)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(truth.low, abs=0.08 * (truth.high - truth.low))
    assert found.high == pytest.approx(truth.high, abs=0.08 * (truth.high - truth.low))
    alone = interval(mean(values), Units(np.arange(90)))
    assert found.high - found.low > 1.5 * (alone.high - alone.low)  # rows of one unit are drawn together


def test_both_sets_count() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=80), 3 * rng.normal(size=50)
    both = Estimate(0.0, x - x.mean(), y - y.mean())
    found = interval(both, Units(np.arange(80)), Units(np.arange(50)))
    truth = 1.96 * np.sqrt(x.var() / 80 + y.var() / 50)
    assert found.high == pytest.approx(truth, rel=0.1)
    assert found.low == pytest.approx(-truth, rel=0.1)
    assert interval(both, Units(np.arange(80)), Units(np.arange(50))) == found
    assert interval(both, Units(np.arange(80)), Units(np.arange(50)), seed=1) != found


def test_ends_stay_where_the_figure_can_be() -> None:
    found = interval(Estimate(0.1, np.array([-1.0, 1.0, 0.0, 0.0]), np.zeros(3), (0.0, 1.0)), everyone(4), everyone(3))
    assert (found.low, found.value) == (0.0, 0.1)
    assert 0.1 < found.high <= 1.0


@pytest.mark.parametrize("all_of_them", [0.0, 1.0])
def test_a_share_that_is_all_or_nothing_is_no_certainty(all_of_them: float) -> None:
    units = np.repeat(np.arange(13), 4)
    found, truth = (
        interval(mean(np.full(52, all_of_them), counted=True), Units(units)),
        share(13 * int(all_of_them), 13),
    )
    assert (found.value, found.low, found.high) == (all_of_them, truth.low, truth.high)
    other = Estimate(all_of_them, np.zeros(0), np.zeros(52), (0.0, 1.0), True)
    assert interval(other, everyone(7), Units(units)) == found


def test_classes_of_two_patients_are_drawn_together() -> None:
    """Otherwise, with one patient of each class, there would be no interval at all."""
    values, patients = np.array([1.0, 5.0, 2.0, 8.0, 3.0]), np.arange(5)
    classes = np.array(["a", "a", "a", "b", "b"])
    assert interval(mean(values), Units(patients, classes)) == interval(mean(values), Units(patients))
    few = interval(mean(values[:2]), Units(patients[:2], classes[2:4]))
    assert (few.low, few.high) == pytest.approx((3 - 2 * np.sqrt(2), 3 + 2 * np.sqrt(2)))


def test_one_unit_has_no_interval() -> None:
    found = interval(mean(np.array([1.0, 2.0, 4.0])), Units(np.array(["a", "a", "a"])))
    assert found.value == pytest.approx(7 / 3)
    assert np.isnan([found.low, found.high]).all()


def test_classes_are_given_and_not_drawn() -> None:
    """What differs between classes alone makes no interval; units are drawn among their like."""
    classes = np.repeat([0, 1], [30, 20])
    apart = 100.0 * classes
    assert interval(mean(apart), Units(np.arange(50), classes)).high == pytest.approx(apart.mean())
    noise = np.random.default_rng(2).normal(size=50) * np.where(classes, 4.0, 1.0)
    found = interval(mean(apart + noise), Units(np.arange(50), classes))
    spread = np.sqrt(sum(noise[classes == k].var() * (classes == k).sum() for k in (0, 1))) / 50
    assert found.high - found.low == pytest.approx(2 * 1.96 * spread, rel=0.1)
    assert interval(mean(apart + noise), Units(np.arange(50))).high - found.high > 5
