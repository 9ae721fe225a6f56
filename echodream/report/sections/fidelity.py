"""The part of a page on fidelity: how close the synthetic set is to real patients, with real against real beside it."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from echodream.metrics.bootstrap import Interval
from echodream.report.charts_svg import Curve
from echodream.report.figures import SHARE, Row, Table, Verdict, between, interval, percent, round_up, times, within
from echodream.report.glossary import counts_in_floors, meaning
from echodream.report.sources import Sources

PARTS = ("videos", "images")
AGREEMENT = "class agreement"
HEADS = ("Metric", "Synthetic", "Real (floor)")
Distance = tuple[str, Interval, Interval, str]
"""The metric, its value, its floor, and the warning that goes with it."""


def verdict(sources: Sources) -> Verdict:
    """How many times farther synthetic samples are from real ones than other real ones are."""
    if "evaluation" not in sources.records:
        what = "How close the synthetic set is to real patients has not been measured."
        return Verdict("Fidelity", "missing", "Not known", missing=[sources.missing("evaluation", what)])
    record = sources.records["evaluation"]
    with sources.reading("evaluation"):
        found = {part: most for part in PARTS if part in record and (most := _farthest(record[part]))}
        lines = [line for part in found for line in _agreement_line(record[part], part)]
    if not found:
        what = "No distance between the synthetic set and real patients has been measured."
        return Verdict("Fidelity", "missing", "Not known", missing=[sources.missing("evaluation", what)])
    part, (name, value, floor, warning) = max(found.items(), key=lambda item: _ratio(item[1]))
    ratio = value.value / floor.value
    sentence = (
        f"Synthetic {part} are {times(ratio)} times as far from real test patients as real training patients are, by "
        f"{name}: {_said(value)} against {_said(floor)}."
    )
    rows = [replace(_in_floors(*each), name=place.capitalize()) for place, each in found.items()]
    return Verdict(
        "Fidelity",
        *_state(value, floor, warning),
        f"{times(ratio)} ×",
        "the floor; 1 is as close as real",
        sentence,
        [*[f"{warning[:1].upper()}{warning[1:]}."] * bool(warning), *lines],
        _one_axis(rows),
        numbers={f"{place} {each[0]}": _plain(each[1], each[2]) for place, each in found.items()},
    )


def _state(value: Interval, floor: Interval, warning: str) -> tuple[str, str]:
    if value.value <= floor.high:
        if warning:
            return "note", "Within the floor, with a warning"
        if value.high > floor.high:
            return "note", "Within the floor; its interval reaches beyond"
        return "good", "Within the floor"
    if value.low <= floor.high and value.low < value.high:
        return "note", "Farther than real, within uncertainty"
    return "note", "Farther than real data"


def _plain(value: Interval, floor: Interval) -> dict[str, float]:
    return {"value": value.value, "low": value.low, "high": value.high, "floor": floor.value}


def _said(value: Interval) -> str:
    return f"{within(value)} ({between(value)})" if between(value) else within(value)


def _farthest(part: Mapping[str, Any]) -> Distance | None:
    """Of the distances that have a floor to be counted in, the one of the most floors."""
    return max(_distances(part), key=_ratio, default=None)


def _ratio(found: Distance) -> float:
    return found[1].value / found[2].value


def _distances(part: Mapping[str, Any]) -> Iterator[Distance]:
    for name, entry in part.items():
        if counts_in_floors(name) and isinstance(entry, Mapping) and entry.get("floor") is not None:
            value, floor = interval(entry), interval(entry["floor"])
            if value is not None and floor is not None and floor.value > 0:
                yield name, value, floor, _warning(entry)


def _agreement_line(part: Mapping[str, Any], kind: str) -> list[str]:
    found = part.get(AGREEMENT)
    if not isinstance(found, Mapping) or "value" not in found:
        return []
    ours, theirs = interval(found), interval(found.get("floor"))
    if ours is None:
        return []
    real = f", in {percent(theirs.value)} of real ones" if theirs is not None else ""
    return [f"A classifier sees the class that was asked for in {percent(ours.value)} of synthetic {kind}{real}."]


def tables(sources: Sources) -> list[Table]:
    """Distances and shares of videos and of images, agreement with the class, and how hearts beat."""
    record: Mapping[str, Any] = sources.records["evaluation"]
    found: list[Table] = []
    with sources.reading("evaluation"):
        for part in (part for part in PARTS if part in record):
            found += _of_part(part, record[part])
        rows = [row for name, entry in (record.get("beat") or {}).items() if (row := _row(str(name), entry))]
        if rows:
            note = "Means over recordings, with their 95 % intervals."
            found.append(Table("How hearts beat", ("Measure", "Synthetic", "Real"), rows, note))
    return found


def _of_part(part: str, record: Mapping[str, Any]) -> list[Table]:
    near = [_in_floors(*each) for each in _distances(record)]
    drawn = {row.name for row in near}
    classes, others = [], []
    for name, entry in record.items():
        row = None if name in drawn else _row(str(name), entry)
        if row is None:
            continue
        if name.startswith(AGREEMENT):
            one = name.removeprefix(AGREEMENT).lstrip(", ")
            classes.append(replace(row, name=one or "Overall", means="" if one else row.means))
        else:
            others.append(row)
    found = []
    if near:
        note = "The axis counts in multiples of the floor: real training patients against real test patients."
        found.append(Table(f"Distance of {part}", HEADS, _one_axis(near), note, " ×"))
    if others:
        found.append(Table(f"Likeness of {part}", HEADS, others))
    if classes:
        found.append(Table(f"Class asked for is class seen, {part}", ("Class", "Synthetic", "Real"), classes))
    return found


def _row(name: str, entry: Any) -> Row | None:
    """A metric as it is; None for what is no metric, or has no value."""
    if not isinstance(entry, Mapping) or "value" not in entry:
        return None
    value, floor = interval(entry), interval(entry.get("floor"))
    if value is None:
        return None
    ends = [end for each in (value, floor) if each for end in (each.low, each.high)]
    low = -round_up(-min(ends)) if min(ends) < 0 else 0.0
    scale = SHARE if low == 0 and max(ends) <= 1 and max(ends) > 0.1 else (low, round_up(max(*ends, 1e-9)))
    said = name[:1].upper() + name[1:] if "[" not in name else name
    return Row(said, value, floor, meaning(name), _warning(entry), scale)


def _in_floors(name: str, value: Interval, floor: Interval, warning: str) -> Row:
    """Drawn in multiples of the floor, said as measured."""
    drawn, base = (Interval(*(end / floor.value for end in (i.value, i.low, i.high))) for i in (value, floor))
    return Row(name, drawn, base, meaning(name), warning, measured=value, measured_beside=floor)


def _one_axis(rows: list[Row]) -> list[Row]:
    end = round_up(1.02 * max(max(row.value.high, row.beside.high if row.beside else 0) for row in rows))
    return [replace(row, scale=(0.0, end)) for row in rows]


def _warning(entry: Mapping[str, Any]) -> str:
    return str(entry.get("warning") or "")


def change(sources: Sources) -> dict[str, Curve]:
    """How much changes from each frame to the next, of synthetic and real videos."""
    found = {}
    with sources.reading("evaluation"):
        lines = ((sources.records["evaluation"].get("curves") or {}).get("frame difference")) or {}
        for side in ("synthetic", "real"):
            if side in lines and len(lines[side]["value"]) > 1:
                y, low, high = (np.array(lines[side][key], float) for key in ("value", "low", "high"))
                found[side] = Curve(y, low, high, side)
    return found
