"""One line of the table: a figure with its interval, what it is to be read against, and what to beware of."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from echodream.metrics.bootstrap import Interval

FEW = 20
"""Patients, or recordings, below which an interval over them says little."""

MetricRecord = dict[str, Any]


def metric_record(
    value: Interval,
    floor: Interval,
    count: int,
    floor_count: int,
    better: str,
    dimensions: int | None = None,
    warnings: Iterable[str] = (),
) -> MetricRecord:
    """As evaluation.json has it. ``floor`` is of real recordings alone; ``better``: LOWER, HIGHER or SAME as they."""
    return {
        **asdict(value),
        "floor": {**asdict(floor), "count": floor_count},
        "count": count,
        "dimensions": dimensions,
        "better": better,
        "warning": "; ".join(warnings) or None,
    }


def small_sample_warnings(**units: int) -> list[str]:
    """A warning of each kind of units, as ``patients=13``, that is too small for its interval."""
    told = ((name.replace("_", " "), count) for name, count in units.items() if count < FEW)
    return [f"only {count} {name}" if count else f"no {name}" for name, count in told]


def json_value(value: Any) -> Any:
    """``value`` for json, which has no NaN and no infinity."""
    if isinstance(value, dict):
        return {str(key): json_value(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(entry) for entry in value]
    if isinstance(value, np.generic):
        return json_value(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def format_metric(found: MetricRecord, digits: int = 4) -> str:
    """``value [low, high], real floor [low, high]``."""
    return f"{_interval(found, digits)}, real {_interval(found['floor'], digits)}"


def _interval(found: dict[str, Any], digits: int) -> str:
    value, low, high = (found[name] for name in ("value", "low", "high"))
    if value is None or not math.isfinite(value):
        return "none"
    ends = "" if low is None or not math.isfinite(low) else f" [{low:.{digits}g}, {high:.{digits}g}]"
    return f"{value:.{digits}g}{ends}"


_TOGETHER = {"precision": "recall", "density": "coverage"}
"""Figures that stand in one line with another."""


def summary_lines(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and text of each line; what to beware of comes last."""
    warnings: dict[tuple[str, str], list[str]] = {}
    for key in ("images", "videos", "beat"):
        section = {
            name: each for name, each in found.get(key, {}).items() if isinstance(each, dict) and "value" in each
        }
        title = "videos" if key == "beat" else key
        for name, told in _merged(section):
            yield f"{title}: {name}", told
        for name, each in section.items():
            for warning in (each["warning"] or "").split("; ") if each["count"] else []:
                warnings.setdefault((title, warning), []).append(name)
    for number, ((title, beware), names) in enumerate([each for each in warnings.items() if each[0][1]], 1):
        several = f"{names[0]} and {len(names) - 1} more" if len(names) > 2 else ", ".join(names)
        yield f"{title}: beware ({number})", f"{beware} ({several})"


def _merged(section: Mapping[str, MetricRecord]) -> Iterator[tuple[str, str]]:
    second = {_partner(name) for name in section}
    for name, each in section.items():
        partner = _partner(name)
        if name in second or not each["count"]:
            continue
        about = f" (N {each['count']}, D {each['dimensions']})" if name.startswith(("frechet", "F")) else ""
        if partner is not None and partner in section:
            both = (each, section[partner])
            values, floors = (
                ", ".join(f"{side['value']:.3g}" for side in sides) for sides in (both, [b["floor"] for b in both])
            )
            yield f"{name.partition('[')[0]}, {partner}", f"{values}, real {floors}"
        else:
            yield name, format_metric(each) + about


def _partner(name: str) -> str | None:
    metric, bracket, rest = name.partition("[")
    return f"{_TOGETHER[metric]}{bracket}{rest}" if metric in _TOGETHER else None
