"""A measure of an audit, with its interval and its value for a harmless generator."""

from dataclasses import dataclass, field
from typing import Any

from echodream.metrics.bootstrap import Interval

PRIVACY, QUALITY = "privacy", "quality"
ONE_SIDED_LEVEL = 0.025
"""Significance level of one-sided tests: that of a 95 % interval."""


@dataclass(frozen=True)
class Measure:
    """A value with its 95 % interval, and the expected value of a harmless generator."""

    name: str
    about: str
    """"privacy" or "quality"."""
    means: str
    """Definition, in words."""
    harmless: str
    """Value of a generator that copies nobody, in words."""
    value: Interval
    expected: Interval | None
    """The same measure of new patients, or chance; None where ``harmless`` is enough."""
    stands_out: bool = False
    """Whether the value is worse than expected, by the intervals."""
    details: dict[str, Any] = field(default_factory=dict)
    power: dict[str, float | None] | None = None
    """Smallest share of planted copies that the measure finds, by kind; None: none of the shares that were tested."""


def exact_value(value: float) -> Interval:
    """A known number: an interval of width 0."""
    return Interval(value, value, value)
