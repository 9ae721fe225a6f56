"""Ranges of training recordings compared with their nominal probability, and planted implausible hearts."""

import math

import numpy as np
import pytest

from echodream.metrics.plausibility import (
    UNITS,
    Range,
    measure_clip,
    outside_ranges,
    sector_overlap,
    training_range,
    typical_sector,
)
from tests.support.planted_hearts import FOUND_BY, FPS, IMPLAUSIBLE, heart


@pytest.mark.parametrize(
    ("count", "coverage", "only_low", "nominal"),
    [(99, 0.9, False, 0.1), (99, 0.9, True, 0.1), (30, 0.99, False, 2 / 31), (30, 0.99, True, 1 / 31)],
)
def test_new_values_are_outside_with_the_nominal_probability(
    count: int, coverage: float, only_low: bool, nominal: float
) -> None:
    """The probability of a range of uniform values is the length of the range: 1 - nominal on average."""
    rng = np.random.default_rng(0)
    outside = []
    for _ in range(4000):
        found = training_range(rng.random(count), coverage, only_low)
        assert found is not None
        assert found.nominal == pytest.approx(nominal)
        outside.append(found.low + (0 if only_low else 1 - found.high))
    assert np.mean(outside) == pytest.approx(nominal, abs=4 * np.std(outside) / math.sqrt(len(outside)))


def test_the_ends_are_order_statistics() -> None:
    values = np.random.default_rng(0).permutation(np.arange(1.0, 200))
    assert training_range(values, 0.9) == Range(10.0, 190.0, 0.1, 0, False)
    assert training_range(values, 0.9, only_low=True) == Range(20.0, math.inf, 0.1, 0, False)
    assert training_range(np.array([3.0]), 0.99) == Range(3.0, 3.0, 1.0, 0, False)


def test_values_that_cannot_be_computed_are_outside_if_they_are_rare_in_training() -> None:
    values = np.arange(200.0)
    rare, frequent, most = (np.where(np.arange(200) < count, np.nan, values) for count in (4, 40, 101))
    found = training_range(rare, 0.95)
    assert found is not None
    assert not found.contains(math.nan)
    # with one more rank, the probability would exceed 0.05
    assert found.nominal == pytest.approx(4 / 200 + 196 / 200 * 6 / 197)
    found = training_range(frequent, 0.95)
    assert found is not None
    assert found.contains(math.nan)
    assert (found.without_value, found.low, found.high) == (40, 43.0, 196.0)
    assert training_range(most, 0.95) is None
    assert training_range(np.array([]), 0.95) is None


def test_sectors_of_other_sizes_have_no_overlap() -> None:
    square, wide = np.ones((4, 4), bool), np.ones((4, 6), bool)
    assert typical_sector([square, wide]) is None
    assert typical_sector([~square]) is None
    assert math.isnan(sector_overlap(square, wide))
    half = square.copy()
    half[:2] = False
    assert sector_overlap(half, square) == 0.5


@pytest.mark.slow
def test_implausible_hearts_are_found_and_ordinary_ones_are_not() -> None:
    measured = [measure_clip(heart(seed), FPS) for seed in range(60)]
    typical = typical_sector([sector for _, sector in measured])
    table = [{**values, "sector overlap": sector_overlap(sector, typical)} for values, sector in measured]
    ranges = {}
    for name in UNITS.keys() - {"ejection fraction"}:
        found = training_range(np.array([row[name] for row in table]), 0.99, only_low=name == "sector overlap")
        assert found is not None
        ranges[name] = found

    def reasons(frames: np.ndarray) -> dict[str, str]:
        values, sector = measure_clip(frames, FPS)
        return outside_ranges({**values, "sector overlap": sector_overlap(sector, typical)}, ranges)

    for name, settings in IMPLAUSIBLE.items():
        found_reasons = reasons(heart(100, **settings))
        assert FOUND_BY[name] in found_reasons, name
        assert found_reasons[FOUND_BY[name]].startswith(FOUND_BY[name])
    ordinary = [reasons(heart(seed)) for seed in range(200, 240)]
    nominal = sum(each.nominal for each in ranges.values())
    assert sum(map(bool, ordinary)) <= 40 * nominal + 4 * math.sqrt(40 * nominal)
