"""Section "Fidelity": the synthetic set compared with real test patients; the floor is real against real."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from markupsafe import Markup

from echodream.metrics.bootstrap import Interval
from echodream.report.charts_svg import Curve, line_chart
from echodream.report.glossary import is_distance, metric_meaning
from echodream.report.number_format import (
    axis_end,
    capitalized,
    format_ends,
    format_percent,
    format_ratio,
    format_value,
)
from echodream.report.section import PageContext, Section, SectionContent
from echodream.report.sources import Sources
from echodream.report.tables import SHARE, Row, Table, Verdict, parse_interval

PARTS = ("videos", "images")
AGREEMENT = "class agreement"


@dataclass(frozen=True)
class Distance:
    """A distance to real test patients, with its floor: the distance of real training patients to them."""

    metric: str
    value: Interval
    floor: Interval
    warning: str

    @property
    def ratio(self) -> float:
        return self.value.value / self.floor.value

    def row(self) -> Row:
        """A row in multiples of the floor, with the numbers as measured."""
        value, floor = (
            Interval(*(end / self.floor.value for end in (interval.value, interval.low, interval.high)))
            for interval in (self.value, self.floor)
        )
        meaning = metric_meaning(self.metric)
        return Row(self.metric, value, floor, meaning, self.warning, raw_value=self.value, raw_reference=self.floor)

    def record(self) -> dict[str, float]:
        value = self.value
        return {"value": value.value, "low": value.low, "high": value.high, "floor": self.floor.value}


def verdict(sources: Sources) -> Verdict:
    """The largest distance in multiples of its floor, of videos and images."""
    if "evaluation" not in sources.records:
        return _not_known(sources, "The distance between the synthetic set and real patients has not been measured.")
    record = sources.records["evaluation"]
    with sources.parsing("evaluation"):
        by_part = {part: list(_distances(record[part])) for part in PARTS if part in record}
        distances = {part: max(each, key=lambda one: one.ratio) for part, each in by_part.items() if each}
        notes = [note for part in distances for note in _agreement_note(record[part], part)]
    if not distances:
        return _not_known(sources, "No distance between the synthetic set and real patients has been measured.")
    part, distance = max(distances.items(), key=lambda item: item[1].ratio)
    ratio = format_ratio(distance.ratio)
    sentence = (
        f"Synthetic {part} are {ratio} times as far from real test patients as real training patients are, by "
        f"{distance.metric}: {_format_interval(distance.value)} against {_format_interval(distance.floor)}."
    )
    rows = [replace(each.row(), name=name.capitalize()) for name, each in distances.items()]
    return Verdict(
        "Fidelity",
        *_state(distance),
        f"{ratio} ×",
        "the floor; 1 is as close as real",
        sentence,
        [*[f"{capitalized(distance.warning)}."] * bool(distance.warning), *notes],
        _with_shared_axis(rows),
        numbers={f"{name} {each.metric}": each.record() for name, each in distances.items()},
    )


def _not_known(sources: Sources, message: str) -> Verdict:
    return Verdict("Fidelity", "missing", "Not known", missing=[sources.missing("evaluation", message)])


def _state(distance: Distance) -> tuple[str, str]:
    """State and label of the verdict."""
    value, floor = distance.value, distance.floor
    if value.value <= floor.high:
        if distance.warning:
            return "note", "Within the floor, with a warning"
        if value.high > floor.high:
            return "note", "Within the floor; its interval reaches beyond"
        return "good", "Within the floor"
    if value.low <= floor.high and value.low < value.high:
        return "note", "Farther than real, within uncertainty"
    return "note", "Farther than real data"


def _format_interval(value: Interval) -> str:
    return f"{format_value(value)} ({format_ends(value)})" if format_ends(value) else format_value(value)


def _distances(part: Mapping[str, Any]) -> Iterator[Distance]:
    """The distances of ``part`` that have a floor above 0."""
    for name, entry in part.items():
        if is_distance(name) and isinstance(entry, Mapping) and entry.get("floor") is not None:
            value, floor = parse_interval(entry), parse_interval(entry["floor"])
            if value is not None and floor is not None and floor.value > 0:
                yield Distance(name, value, floor, _warning(entry))


def _agreement_note(part: Mapping[str, Any], kind: str) -> list[str]:
    entry = part.get(AGREEMENT)
    if not isinstance(entry, Mapping) or "value" not in entry:
        return []
    synthetic, real = parse_interval(entry), parse_interval(entry.get("floor"))
    if synthetic is None:
        return []
    share, reference = format_percent(synthetic.value), ""
    if real is not None:
        reference = f", and their true class for {format_percent(real.value)} of real ones"
    return [f"A classifier predicts the requested class for {share} of synthetic {kind}{reference}."]


def build(context: PageContext) -> SectionContent:
    """All metrics of the evaluation."""
    sources = context.sources
    if "evaluation" not in sources.records:
        tables: list[Table] = []
        chart = None
    else:
        tables, chart = fidelity_tables(sources), _frame_change_chart(sources)
    missing = {}
    if not tables:
        message = "The synthetic set has not been compared with real patients."
        missing["fidelity"] = sources.missing("evaluation", message)
    return SectionContent({"tables": tables, "frame_change": chart}, {"fidelity": tables}, missing=missing)


def fidelity_tables(sources: Sources) -> list[Table]:
    """Distances, shares and class agreement of videos and of images, and measures of the heart beat."""
    record: Mapping[str, Any] = sources.records["evaluation"]
    tables: list[Table] = []
    with sources.parsing("evaluation"):
        for part in (part for part in PARTS if part in record):
            tables += _part_tables(part, record[part])
        rows = [row for name, entry in (record.get("beat") or {}).items() if (row := _metric_row(str(name), entry))]
        if rows:
            note = "Means over recordings, with their 95 % intervals."
            tables.append(Table("How hearts beat", ("Measure", "Synthetic", "Real"), rows, note))
    return tables


def _part_tables(part: str, record: Mapping[str, Any]) -> list[Table]:
    distances = [distance.row() for distance in _distances(record)]
    names = {row.name for row in distances}
    classes, others = [], []
    for name, entry in record.items():
        row = None if name in names else _metric_row(str(name), entry)
        if row is None:
            continue
        if name.startswith(AGREEMENT):
            class_name = name.removeprefix(AGREEMENT).lstrip(", ")
            classes.append(replace(row, name=class_name or "Overall", meaning="" if class_name else row.meaning))
        else:
            others.append(row)
    columns, tables = ("Metric", "Synthetic", "Real (floor)"), []
    if distances:
        note = "In multiples of the floor: the distance of real training patients to real test patients."
        tables.append(Table(f"Distance of {part}", columns, _with_shared_axis(distances), note, " ×"))
    if others:
        tables.append(Table(f"Likeness of {part}", columns, others))
    if classes:
        tables.append(Table(f"Class asked for is class seen, {part}", ("Class", "Synthetic", "Real"), classes))
    return tables


def _metric_row(name: str, entry: Any) -> Row | None:
    """A metric in its own unit; None if ``entry`` is no metric or has no value."""
    if not isinstance(entry, Mapping) or "value" not in entry:
        return None
    value, floor = parse_interval(entry), parse_interval(entry.get("floor"))
    if value is None:
        return None
    ends = [end for interval in (value, floor) if interval for end in (interval.low, interval.high)]
    low = -axis_end(-min(ends)) if min(ends) < 0 else 0.0
    scale = SHARE if low == 0 and max(ends) <= 1 and max(ends) > 0.1 else (low, axis_end(max(*ends, 1e-9)))
    return Row(name if "[" in name else capitalized(name), value, floor, metric_meaning(name), _warning(entry), scale)


def _with_shared_axis(rows: list[Row]) -> list[Row]:
    ends = [max(row.value.high, row.reference.high if row.reference else 0) for row in rows]
    return [replace(row, scale=(0.0, axis_end(1.02 * max(ends)))) for row in rows]


def _warning(entry: Mapping[str, Any]) -> str:
    return str(entry.get("warning") or "")


def _frame_change_chart(sources: Sources) -> Markup | None:
    """Mean absolute difference of each frame to the one before, of synthetic and real videos."""
    curves = {}
    with sources.parsing("evaluation"):
        record = (sources.records["evaluation"].get("curves") or {}).get("frame difference") or {}
        for group in ("synthetic", "real"):
            if group in record and len(record[group]["value"]) > 1:
                y, low, high = (np.array(record[group][key], float) for key in ("value", "low", "high"))
                curves[group] = Curve(y, low, high, group)
    high_end = axis_end(max([1e-9, *(float(curve.high.max()) for curve in curves.values())]))
    return line_chart(curves, (0.0, high_end), "Change from each frame to the next") if curves else None


SECTION = Section("fidelity", "Fidelity", build, verdict)
