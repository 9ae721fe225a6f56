"""Entries of evaluation.json, and the summary table that ``stage=evaluate`` prints."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from echodream.metrics.bootstrap import Interval

MIN_RELIABLE_UNITS = 20
"""Number of patients or recordings below which an interval is not reliable."""
_PAIRED_METRICS = {"precision": "recall", "density": "coverage"}
"""Pairs of metrics that one line of the summary shows."""

MetricRecord = dict[str, Any]


def metric_record(
    value: Interval,
    floor: Interval,
    count: int,
    floor_count: int,
    better: str,
    dimensions: int | None = None,
    warnings: Iterable[str] = (),
    spread: tuple[float, float] | None = None,
) -> MetricRecord:
    """Entry of evaluation.json. ``floor`` is the value for real recordings; ``better`` is LOWER, HIGHER or SAME.

    ``spread`` is the lowest and highest value over random subsets of the samples.
    """
    return {
        **asdict(value),
        "floor": {**asdict(floor), "count": floor_count},
        "count": count,
        "dimensions": dimensions,
        "better": better,
        "warning": "; ".join(warnings) or None,
        **({} if spread is None else {"spread": list(spread)}),
    }


def small_sample_warnings(**units: int) -> list[str]:
    """A warning for each number of units, such as ``TEST_patients=13``, that is below ``MIN_RELIABLE_UNITS``."""
    few = ((name.replace("_", " "), count) for name, count in units.items() if count < MIN_RELIABLE_UNITS)
    return [f"only {count} {name}" if count else f"no {name}" for name, count in few]


def summary_lines(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and text of each line of the summary; warnings come last."""
    warnings: dict[tuple[str, str], list[str]] = {}
    for key in ("images", "videos", "beat", "texture", "plausibility"):
        section = {
            name: metric
            for name, metric in record.get(key, {}).items()
            if isinstance(metric, dict) and "value" in metric
        }
        title = "images" if key == "images" else "videos"
        for name, text in _metric_lines(section):
            yield f"{title}: {name}", text
        for name, metric in section.items():
            for warning in (metric["warning"] or "").split("; ") if metric["count"] else []:
                if warning:
                    warnings.setdefault((title, warning), []).append(name)
    for number, ((title, warning), names) in enumerate(warnings.items(), 1):
        several = f"{names[0]} and {len(names) - 1} more" if len(names) > 2 else ", ".join(names)
        yield f"{title}: beware ({number})", f"{warning} ({several})"


def _metric_lines(section: Mapping[str, MetricRecord]) -> Iterator[tuple[str, str]]:
    partners = {_paired_metric(name) for name in section}
    for name, metric in section.items():
        if name in partners or not metric["count"]:
            continue
        partner = _paired_metric(name)
        if partner is not None and partner in section:
            pair = (metric, section[partner])
            values, floors = (
                ", ".join(f"{each['value']:.3g}" for each in sets) for sets in (pair, [each["floor"] for each in pair])
            )
            yield f"{name.partition('[')[0]}, {partner}", f"{values}, real {floors}"
        else:
            size = f" (N {metric['count']}, D {metric['dimensions']})" if name.startswith(("frechet", "F")) else ""
            yield name, f"{_interval_text(metric)}, real {_interval_text(metric['floor'])}{size}"


def _paired_metric(name: str) -> str | None:
    metric, bracket, rest = name.partition("[")
    return f"{_PAIRED_METRICS[metric]}{bracket}{rest}" if metric in _PAIRED_METRICS else None


def _interval_text(interval: Mapping[str, Any]) -> str:
    value, low, high = (interval[name] for name in ("value", "low", "high"))
    if value is None or not math.isfinite(value):
        return "none"
    ends = "" if low is None or not math.isfinite(low) else f" [{low:.4g}, {high:.4g}]"
    return f"{value:.4g}{ends}"
