"""Results of a sweep, read from the records in the folders that a pattern matches."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from echodream import validation
from echodream.errors import UserError
from echodream.metrics.bootstrap import clopper_pearson_interval
from echodream.runs.atomic_folder import read_record
from echodream.store.table import clean_text

RESULT_FILES = ("evaluation.json", "utility.json", "filter.json", "linkability.json", "anonymity.json", "metrics.json")
"""Names of files with results; metrics.json is in the artifacts of model=classifier and model=utility."""
REJECTED_KEY = "rejected"
UTILITY_KEY = "utility"


@dataclass(frozen=True)
class SweepResult:
    """A result for one swept value; ``low``, ``high`` and ``floor`` are None if the record does not have them."""

    value: float
    low: float | None = None
    high: float | None = None
    floor: float | None = None
    """The result for real recordings."""
    warning: str = ""


SweepResults = dict[str, dict[str, SweepResult]]
"""Swept value -> name of the result -> result, in the order of the swept values."""


def read_sweep(patterns: Sequence[str]) -> SweepResults:
    """Results of all swept values in the folders of ``patterns``. Raises ``UserError`` for fewer than two values."""
    if not patterns:
        raise UserError("points= is needed: give folders with * for the swept value, such as points=[reports/x/g*]")
    results: SweepResults = {}
    folders: dict[tuple[str, str], Path] = {}
    for pattern in patterns:
        for value, folder in swept_folders(pattern):
            for name, result in _read_results(folder):
                if (other := folders.setdefault((value, name), folder)) != folder:
                    raise UserError(
                        f"points: both {other} and {folder} have {name} for {value}: give patterns without duplicates"
                    )
                results.setdefault(value, {})[name] = result
    if len(results) < 2:
        values = ", ".join(results) or "none"
        raise UserError(
            f"points={','.join(patterns)} has reports ({', '.join(RESULT_FILES)}) of fewer than two values ({values}): "
            "check the pattern, or make the reports with the stages and models that write them"
        )
    return {value: results[value] for value in sorted(results, key=sort_key)}


def swept_folders(pattern: str) -> Iterator[tuple[str, Path]]:
    """The values that match the * of ``pattern``, with their folders, which may be absent."""
    parts = Path(pattern).parts
    stars = [number for number, part in enumerate(parts) if "*" in part]
    if pattern.count("*") != 1:
        raise UserError(f"points has {pattern!r}: write one * in place of the swept value, such as reports/x/g*")
    parent, subfolders = Path(*parts[: stars[0]]), parts[stars[0] + 1 :]
    prefix, _, suffix = parts[stars[0]].partition("*")
    for entry in sorted(parent.iterdir()) if parent.is_dir() else []:
        value = entry.name.removeprefix(prefix).removesuffix(suffix)
        if value and entry.name == prefix + value + suffix:
            yield value, entry.joinpath(*subfolders)


def sort_key(value: str) -> tuple[int, float, str]:
    """Sort key of swept values: numbers by size, then texts."""
    try:
        number = float(value)
    except ValueError:
        return 1, 0.0, value
    return (0, number, value) if math.isfinite(number) else (1, 0.0, value)


def _read_results(folder: Path) -> Iterator[tuple[str, SweepResult]]:
    """Yield name and result of all results in the records in ``folder``."""
    for file in RESULT_FILES:
        path = folder / file
        if not path.is_file():
            continue
        record = read_record(path)
        if record is None:
            raise UserError(f"{path} is not a JSON object: run its stage again")
        if file == "filter.json":
            yield from _rejected_share(record, path)
            continue
        try:
            parts = _collect_metrics(record, file)
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is not a valid record: run its stage again") from error
        yield from _nested_results(parts, "")


def _collect_metrics(record: Mapping[str, Any], file: str) -> Any:
    """The results of a record, under keys that no other kind of record uses, so that each result has its own name."""
    if file == "linkability.json":
        sets = {name: dict(entry) for name, entry in record["sets"].items()}
        sets["inner"]["AUC"] = {**sets["inner"]["AUC"], "floor": sets["originals"]["AUC"]}
        return {**sets, "residual risk": record.get("residual risk")}
    if file == "anonymity.json":
        spaces = record["spaces"].items()
        return {name: {measure["name"]: measure for measure in space["measures"]} for name, space in spaces}
    if file == "metrics.json":  # stage=report also writes metrics.json, without "figures"
        sets = record.get("anonymised", {})
        versions = {
            f"{UTILITY_KEY} of {name if len(sets) > 1 else 'versions'}": each["figures"] for name, each in sets.items()
        }
        only_originals = bool(sets) and record.get("train_on") == "original"  # "figures" are results on original images
        return {f"{UTILITY_KEY} of originals" if only_originals else UTILITY_KEY: record.get("figures"), **versions}
    parts = record.get("tasks", record)
    return {key: part for key, part in parts.items() if key != "protocol"}


def _nested_results(node: Any, name: str, note: str = "") -> Iterator[tuple[str, SweepResult]]:
    """Yield name (path of keys) and result of each object with a ``value`` in ``node``; ``note``: note of the task."""
    if not isinstance(node, Mapping):
        return
    if "value" in node:
        value = _finite_number(node["value"])
        if value is not None:
            floor = node.get("floor")
            floor = floor.get("value") if isinstance(floor, Mapping) else floor
            warning = clean_text(str(node.get("warning") or note))
            low, high = (_finite_number(node.get(end)) for end in ("low", "high"))
            yield name, SweepResult(value, low, high, _finite_number(floor), warning)
        return
    note = str(node.get("note") or note)
    for key, part in node.items():
        yield from _nested_results(part, f"{name}: {key}" if name else str(key), note)


def _rejected_share(record: Mapping[str, Any], path: Path) -> Iterator[tuple[str, SweepResult]]:
    """The share of samples that the filter rejected, with its exact 95 % interval."""
    try:
        samples, rejected = int(record["decision"]["drawn"]), int(record["decision"]["rejected"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} has no decision: run stage=filter again") from error
    if samples > 0:
        share = clopper_pearson_interval(rejected, samples)
        yield f"{record.get('on', 'sample')}s: {REJECTED_KEY}", SweepResult(share.value, share.low, share.high)


def _finite_number(value: object) -> float | None:
    return float(value) if validation.is_finite(value) else None
