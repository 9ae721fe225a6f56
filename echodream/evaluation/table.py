"""The figures of ``stage=evaluate`` on one screen."""

from collections.abc import Iterator, Mapping
from typing import Any

from echodream.evaluation.figures import Figure, text

_TOGETHER = {"precision": "recall", "density": "coverage"}
"""Figures that stand in one line with another."""


def lines(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
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


def _merged(section: Mapping[str, Figure]) -> Iterator[tuple[str, str]]:
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
            yield name, text(each) + about


def _partner(name: str) -> str | None:
    metric, bracket, rest = name.partition("[")
    return f"{_TOGETHER[metric]}{bracket}{rest}" if metric in _TOGETHER else None
