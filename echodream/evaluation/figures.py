"""One line of the table: a figure with its interval, what it is to be read against, and what to beware of."""

import math
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np

from echodream.metrics.bootstrap import Interval

FEW = 20
"""Patients, or recordings, below which an interval over them says little."""

Figure = dict[str, Any]


def figure(
    value: Interval,
    floor: Interval,
    count: int,
    floor_count: int,
    better: str,
    dimensions: int | None = None,
    warnings: Iterable[str] = (),
) -> Figure:
    """As evaluation.json has it. ``floor`` is of real recordings alone; ``better``: LOWER, HIGHER or SAME as they."""
    return {
        **asdict(value),
        "floor": {**asdict(floor), "count": floor_count},
        "count": count,
        "dimensions": dimensions,
        "better": better,
        "warning": "; ".join(warnings) or None,
    }


def few(**units: int) -> list[str]:
    """A warning of each kind of units, as ``patients=13``, that is too small for its interval."""
    told = ((name.replace("_", " "), count) for name, count in units.items() if count < FEW)
    return [f"only {count} {name}" if count else f"no {name}" for name, count in told]


def plain(value: Any) -> Any:
    """``value`` for json, which has no NaN and no infinity."""
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def text(found: Figure, digits: int = 4) -> str:
    """``value [low, high], real floor [low, high]``."""
    return f"{_interval(found, digits)}, real {_interval(found['floor'], digits)}"


def _interval(found: dict[str, Any], digits: int) -> str:
    value, low, high = (found[name] for name in ("value", "low", "high"))
    if value is None or not math.isfinite(value):
        return "none"
    ends = "" if low is None or not math.isfinite(low) else f" [{low:.{digits}g}, {high:.{digits}g}]"
    return f"{value:.{digits}g}{ends}"
