"""Rounding of bounds in reported figures."""

import numpy as np
import pytest

from echodream.metrics.rounding import bound_text


@pytest.mark.parametrize(
    ("bound", "digits", "lower", "upper"),
    [
        (0.678, 2, "0.67", "0.68"),
        (7.994, 3, "7.99", "8"),
        (7.991, 3, "7.99", "8"),
        (7.99, 3, "7.99", "7.99"),
        (8.0, 3, "8", "8"),
        (0.0, 2, "0", "0"),
        (0.00012345, 3, "0.000123", "0.000124"),
        (1234.5, 2, "1.2e+03", "1.3e+03"),
        (float("inf"), 2, "inf", "inf"),
    ],
)
def test_lower_bounds_are_rounded_down_and_upper_bounds_up(bound: float, digits: int, lower: str, upper: str) -> None:
    assert bound_text(bound, digits, upper=False) == lower
    assert bound_text(np.float64(bound), digits, upper=True) == upper


def test_rounded_bounds_still_hold() -> None:
    for value in np.random.default_rng(0).lognormal(0, 3, 500):
        for digits in (2, 3):
            assert (
                float(bound_text(value, digits, upper=False)) <= value <= float(bound_text(value, digits, upper=True))
            )
