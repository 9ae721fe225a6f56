"""A measure of an audit: value, interval, and the expected value of a harmless generator."""

from dataclasses import asdict, dataclass, field
from typing import Any

from echodream.metrics.bootstrap import Interval
from echodream.privacy.attacks.membership import ControlledAuc

PRIVACY, QUALITY = "privacy", "quality"
ONE_SIDED_LEVEL = 0.025
"""Significance level of one-sided tests, which matches a two-sided 95 % interval."""


@dataclass(frozen=True)
class Measure:
    """A value with its 95 % interval, and the expected value of a harmless generator."""

    name: str
    about: str
    """Category: "privacy" or "quality"."""
    means: str
    """Definition of the measure, in words."""
    harmless: str
    """Value of a generator that copies no patient, in words."""
    value: Interval
    expected: Interval
    """Value of new patients in place of samples, or value at chance level."""
    stands_out: bool = False
    """Whether the value is significantly worse than expected."""
    details: dict[str, Any] = field(default_factory=dict)
    power: dict[str, float | None] | None = None
    """Smallest tested share of planted copies that the measure detects, by kind of copy; None: no share is detected."""


def exact_interval(value: float) -> Interval:
    """Interval of width 0 around a value that is known exactly."""
    return Interval(value, value, value)


def control_details(result: ControlledAuc) -> dict[str, Any]:
    """AUC of a membership attack and of its control, for the ``details`` of a measure."""
    return {**asdict(result), "groups differ": result.groups_differ}
