"""The points of a sweep: folders of reports, found by a pattern, and the figures that stand in them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from echodream import validation
from echodream.errors import UserError
from echodream.runs.atomic_folder import read_record
from echodream.store.table import clean_text

RECORDS = ("evaluation.json", "utility.json", "filter.json", "linkability.json", "anonymity.json", "metrics.json")
"""Of the stages, and of the artifact of a classifier or of model=utility."""
REJECTED = "rejected"
UTILITY = "utility"


@dataclass(frozen=True)
class Figure:
    """One number of one point, with its interval and what real recordings give, where there is one."""

    value: float
    low: float | None = None
    high: float | None = None
    floor: float | None = None
    warning: str = ""
    """What the report says to beware of."""


Points = dict[str, dict[str, Figure]]
"""For each value that was swept, in order, the figures by name."""


def read_points(patterns: Sequence[str]) -> Points:
    """The figures of each value, over all ``patterns``. Raises ``UserError``."""
    if not patterns:
        raise UserError("points= is needed: folders of reports with * for the value, as points=[reports/x/g*]")
    found: Points = {}
    where: dict[tuple[str, str], Path] = {}
    for pattern in patterns:
        for value, folder in _folders(pattern):
            for figure, number in _figures(folder):
                if (other := where.setdefault((value, figure), folder)) != folder:
                    raise UserError(
                        f"points: {other} and {folder} both say {figure} for {value}: give patterns that differ less"
                    )
                found.setdefault(value, {})[figure] = number
    if len(found) < 2:
        have = ", ".join(found) or "none"
        raise UserError(
            f"points={','.join(patterns)} has reports ({', '.join(RECORDS)}) of fewer than two values ({have}): check "
            "the pattern, or make them with the stages and models that write them"
        )
    return dict(sorted(found.items(), key=lambda item: order(item[0])))


def _folders(pattern: str) -> Iterator[tuple[str, Path]]:
    """Each folder that ``pattern`` matches, with what its one * stands for."""
    return ((value, folder) for value, folder in values(pattern) if folder.is_dir())


def values(pattern: str) -> Iterator[tuple[str, Path]]:
    """What the one * of ``pattern`` stands for, with the folder that should be there for it."""
    parts = Path(pattern).parts
    stars = [number for number, part in enumerate(parts) if "*" in part]
    if pattern.count("*") != 1:
        raise UserError(f"points has {pattern!r}: write one * where the value stands, as reports/x/g*")
    base, name, rest = Path(*parts[: stars[0]]), parts[stars[0]], parts[stars[0] + 1 :]
    before, _, after = name.partition("*")
    for entry in sorted(base.iterdir()) if base.is_dir() else []:
        long = len(entry.name) > len(before) + len(after)
        if long and entry.name.startswith(before) and entry.name.endswith(after):
            yield entry.name[len(before) : len(entry.name) - len(after)], entry.joinpath(*rest)


def _figures(folder: Path) -> Iterator[tuple[str, Figure]]:
    """All figures of the reports in ``folder``, by name."""
    for file in RECORDS:
        if not (folder / file).is_file():
            continue
        record = read_record(folder / file)
        if record is None:
            raise UserError(f"{folder / file} is no report: make it again")
        if file == "filter.json":
            yield from _rejection(record, folder / file)
            continue
        try:
            parts = _parts(record, file)
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{folder / file} is no report: make it again") from error
        yield from _walk(parts, "")


def _parts(record: Mapping[str, Any], file: str) -> Any:
    """The figures of a report, by names that tell them from those of other reports."""
    if file == "linkability.json":
        sets = {name: dict(each) for name, each in record["sets"].items()}
        sets["inner"]["AUC"] = {**sets["inner"]["AUC"], "floor": sets["originals"]["AUC"]}
        return {**sets, "residual risk": record.get("residual risk")}
    if file == "anonymity.json":
        spaces = record["spaces"].items()
        return {space: {each["name"]: each for each in found["measures"]} for space, found in spaces}
    if file == "metrics.json":  # a report has one, too, without figures
        sets = record.get("anonymised", {})
        versions = {f"{UTILITY} of {name if len(sets) > 1 else 'versions'}": of["figures"] for name, of in sets.items()}
        seen = bool(sets) and record.get("train_on") == "original"  # no version had a part in these figures
        return {f"{UTILITY} of originals" if seen else UTILITY: record.get("figures"), **versions}
    parts = record.get("tasks", record)
    return {key: part for key, part in parts.items() if key != "protocol"}


def _walk(node: Any, name: str, note: str = "") -> Iterator[tuple[str, Figure]]:
    """Every object with a ``value`` below ``node``, named by the keys that lead to it; ``note`` is of its task."""
    if not isinstance(node, Mapping):
        return
    if "value" in node:
        value = _number(node["value"])
        if value is not None:
            floor = node.get("floor")
            floor = floor.get("value") if isinstance(floor, Mapping) else floor
            warning = clean_text(str(node.get("warning") or note))
            yield name, Figure(value, _number(node.get("low")), _number(node.get("high")), _number(floor), warning)
        return
    note = str(node.get("note") or note)
    for key, part in node.items():
        yield from _walk(part, f"{name}: {key}" if name else str(key), note)


def _rejection(record: Mapping[str, Any], path: Path) -> Iterator[tuple[str, Figure]]:
    """The share that the filter rejected, with an exact 95 % interval; 1 where nothing passes."""
    from scipy.stats import beta

    try:
        drawn, rejected = int(record["decision"]["drawn"]), int(record["decision"]["rejected"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} has no decision: run stage=filter again") from error
    if drawn > 0:
        low = float(beta.ppf(0.025, rejected, drawn - rejected + 1)) if rejected else 0.0
        high = float(beta.ppf(0.975, rejected + 1, drawn - rejected)) if rejected < drawn else 1.0
        kind = str(record.get("on", "sample"))
        yield f"{kind}s: {REJECTED}", Figure(rejected / drawn, low, high)


def _number(value: object) -> float | None:
    return float(value) if validation.is_finite(value) else None


def order(value: str) -> tuple[int, float, str]:
    """Numbers by size, before texts."""
    try:
        number = float(value)
    except ValueError:
        return 1, 0.0, value
    return (0, number, value) if math.isfinite(number) else (1, 0.0, value)
