"""Section "Fidelity": metrics of the synthetic set against real test patients, with real training patients as floor."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, astuple, dataclass, replace
from typing import Any

import numpy as np
from markupsafe import Markup

from echodream.metrics.bootstrap import Interval
from echodream.report.glossary import is_distance, metric_meaning
from echodream.report.media import png_uri
from echodream.report.number_format import axis_end, capitalized, format_interval, format_percent, format_ratio
from echodream.report.section import PageContext, Section, SectionContent
from echodream.report.sources import Sources
from echodream.report.svg_primitives import line_chart
from echodream.report.tables import PROPORTION_AXIS, Row, StillImage, Table, Verdict, parse_interval
from echodream.store import Store

EVALUATED_KINDS = ("videos", "images")
"""Kinds of synthetic samples in an evaluation record."""
CLASS_AGREEMENT = "class agreement"
_RECORDING_METRICS = (("beat", "Cardiac cycle"), ("texture", "Speckle"), ("plausibility", "Plausibility"))
"""Parts of an evaluation record with means over recordings, and the titles of their tables."""


@dataclass(frozen=True)
class Distance:
    """A distance of synthetic samples to real test patients; ``floor``: the distance of real training patients."""

    metric: str
    value: Interval
    floor: Interval
    warning: str
    spread: tuple[float, float] | None = None
    """Lowest and highest value over random subsets of the samples."""
    autoencoder: Interval | None = None
    """Distance of real test recordings after encoding and decoding by the autoencoder."""

    @property
    def grade_of_lowest_value(self) -> int:
        """The grade of the lowest value over random subsets of the samples."""
        return grade((self.spread[0] if self.spread else self.value.value) / self.floor.value)

    @property
    def ratio(self) -> float:
        return self.value.value / self.floor.value

    def row(self) -> Row:
        """The distance as a table row, in multiples of the floor, with the measured numbers."""
        value, floor = (
            Interval(*(end / self.floor.value for end in astuple(interval))) for interval in (self.value, self.floor)
        )
        meaning = metric_meaning(self.metric)
        return Row(self.metric, value, floor, meaning, self.warning, raw_value=self.value, raw_reference=self.floor)


GRADES = ((1.5, "good", "Close to real"), (3.0, "note", "Visibly different"), (math.inf, "bad", "Not usable as images"))
"""Maximum multiple of the floor, state and label of each grade."""
VERDICT_METRICS = ("frechet[lite0]", "log-spectral distance", "temporal log-spectral distance")
"""The distances that decide the verdict; not those on features of a classifier of the study, which can miss texture."""


def grade(ratio: float) -> int:
    """Index in ``GRADES`` of a distance that is ``ratio`` times its floor."""
    return next(number for number, (limit, _, _) in enumerate(GRADES) if ratio <= limit)


def verdict_distances(sources: Sources) -> dict[str, Distance]:
    """The distances that decide the verdict, by name, such as "images, log-spectral distance"."""
    record = sources.records.get("evaluation", {})
    with sources.report_parse_errors("evaluation"):
        return {
            f"{part}, {distance.metric}": distance
            for part in EVALUATED_KINDS
            if part in record
            for distance in _distances_with_floor(record[part])
            if distance.metric in VERDICT_METRICS
        }


def synthetic_set_is_unusable(sources: Sources) -> bool:
    """Whether the synthetic set has the worst of the ``GRADES``: not usable as images."""
    return any(distance.grade_of_lowest_value == len(GRADES) - 1 for distance in verdict_distances(sources).values())


def verdict(sources: Sources) -> Verdict:
    """The verdict by the largest of ``verdict_distances`` of videos and images, in multiples of the floor."""
    if "evaluation" not in sources.records:
        message = "The distance between the synthetic set and real patients has not been measured."
        return sources.unknown_verdict("Fidelity", "evaluation", message)
    distances = verdict_distances(sources)
    if not distances:
        metrics = ", ".join(VERDICT_METRICS)
        message = f"None of {metrics} has been measured: add lite0, spectrum, temporal_spectrum to extractors="
        return sources.unknown_verdict("Fidelity", "evaluation", message)
    certain_grade = max(each.grade_of_lowest_value for each in distances.values())
    name, worst = max(distances.items(), key=lambda item: item[1].ratio)
    part, _, metric = name.partition(", ")
    ratio = format_ratio(worst.ratio)
    sentence = (
        f"Synthetic {part} are {ratio} times as far from real test patients as real training patients are, by "
        f"{metric}: {format_interval(worst.value)} against {format_interval(worst.floor)}."
    )
    _, state, label = GRADES[certain_grade]
    settled = certain_grade == grade(worst.ratio)
    if not settled:
        state, label = "note", f"Not settled: {label.lower()} or {GRADES[grade(worst.ratio)][2].lower()}"
    record: Mapping[str, Any] = sources.records["evaluation"]
    with sources.report_parse_errors("evaluation"):
        notes = [note for each in EVALUATED_KINDS if each in record for note in _agreement_note(record[each], each)]
    if not settled:
        notes.insert(0, "The verdict differs between random subsets of the samples: more samples are needed.")
    if absent := [name for name in VERDICT_METRICS if not any(key.endswith(f", {name}") for key in distances)]:
        notes.append(f"Metrics that were not measured, and are not part of this verdict: {', '.join(absent)}.")
    rows = [replace(each.row(), name=capitalized(key)) for key, each in distances.items()]
    return Verdict(
        "Fidelity",
        state,
        label,
        f"{ratio} ×" if settled else "",
        "the floor; 1 is as close as real patients" if settled else "",
        sentence,
        [*[f"{capitalized(worst.warning)}."] * bool(worst.warning), *notes],
        _with_shared_axis(rows),
        numbers={key: {**asdict(each.value), "floor": each.floor.value} for key, each in distances.items()},
        still_images=_middle_frames(sources),
    )


def _middle_frames(sources: Sources) -> list[StillImage]:
    """Middle frames of a real test recording (not on a shared page) and of a synthetic recording of the same class."""
    synthetic, real = sources.synthetic, sources.real
    if synthetic is None:
        return []
    row = synthetic.table.iloc[0]
    still_images = [_middle_frame(synthetic, row, "Synthetic")]
    if real is not None and not sources.share:
        rows = real.table[real.table["Split"] == "TEST"]
        if {"class_id"} <= set(rows) & set(synthetic.table) and (rows["class_id"] == row["class_id"]).any():
            rows = rows[rows["class_id"] == row["class_id"]]
        if len(rows):
            still_images.insert(0, _middle_frame(real, rows.iloc[0], "Real"))
    return still_images


def _middle_frame(store: Store, row: Any, label: str) -> StillImage:
    pixels = store.frames(str(row["FileName"]), [int(row["NumberOfFrames"]) // 2])[0]
    return StillImage(label, png_uri(pixels), pixels.shape[1], pixels.shape[0])


def _distances_with_floor(metrics: Mapping[str, Any]) -> Iterator[Distance]:
    """The distances among ``metrics`` whose floor is positive."""
    for name, entry in metrics.items():
        if is_distance(name) and isinstance(entry, Mapping) and entry.get("floor") is not None:
            value, floor = parse_interval(entry), parse_interval(entry["floor"])
            if value is not None and floor is not None and floor.value > 0:
                spread, autoencoder = entry.get("spread"), parse_interval(entry.get("autoencoder"))
                yield Distance(name, value, floor, _warning_text(entry), tuple(spread) if spread else None, autoencoder)


def _agreement_note(metrics: Mapping[str, Any], kind: str) -> list[str]:
    entry = metrics.get(CLASS_AGREEMENT)
    if not isinstance(entry, Mapping) or "value" not in entry or (synthetic := parse_interval(entry)) is None:
        return []
    share, reference = format_percent(synthetic.value), ""
    if (real := parse_interval(entry.get("floor"))) is not None:
        reference = f", and their true class for {format_percent(real.value)} of real ones"
    return [f"A classifier predicts the requested class for {share} of synthetic {kind}{reference}."]


def build(context: PageContext) -> SectionContent:
    """Tables of all metrics of the evaluation, and the chart of frame differences."""
    sources = context.sources
    measured = "evaluation" in sources.records
    tables, chart = (fidelity_tables(sources), _frame_change_chart(sources)) if measured else ([], None)
    missing = {}
    if not tables:
        message = "The synthetic set has not been compared with real patients."
        missing["fidelity"] = sources.missing_record("evaluation", message)
    return SectionContent({"tables": tables, "frame_change": chart}, {"fidelity": tables}, missing_records=missing)


def fidelity_tables(sources: Sources) -> list[Table]:
    """Tables of all metrics of videos and images, of the cardiac cycle, of speckle, and of plausibility."""
    record: Mapping[str, Any] = sources.records["evaluation"]
    tables: list[Table] = []
    with sources.report_parse_errors("evaluation"):
        for part in EVALUATED_KINDS:
            tables += _metric_tables(part, record.get(part, {}))
        for key, title in _RECORDING_METRICS:
            if rows := [row for name, entry in (record.get(key) or {}).items() if (row := metric_row(name, entry))]:
                note = "Means over recordings, with their 95 % intervals."
                tables.append(Table(title, ("Measure", "Synthetic", "Real"), rows, note))
    return tables


def _metric_tables(part: str, metrics: Mapping[str, Any]) -> list[Table]:
    distances = list(_distances_with_floor(metrics))
    names = {distance.metric for distance in distances}
    class_rows, other_rows = [], []
    for name, entry in metrics.items():
        row = None if name in names else metric_row(str(name), entry)
        if row is None:
            continue
        if name.startswith(CLASS_AGREEMENT):
            class_name = name.removeprefix(CLASS_AGREEMENT).lstrip(", ")
            class_rows.append(replace(row, name=class_name or "Overall", meaning="" if class_name else row.meaning))
        else:
            other_rows.append(row)
    columns, tables = ("Metric", "Synthetic", "Real (floor)"), []
    if rows := [distance.row() for distance in distances]:
        note = "In multiples of the floor: the distance of real training patients to real test patients."
        tables.append(Table(f"Distance of {part}", columns, _with_shared_axis(rows), note, " ×"))
    if rows := [replace(each, value=each.autoencoder).row() for each in distances if each.autoencoder is not None]:
        note = "Distance of real test recordings that were encoded and decoded, in multiples of the same floor."
        tables.append(Table(f"Error of the autoencoder, {part}", columns, _with_shared_axis(rows), note, " ×"))
    if other_rows:
        tables.append(Table(f"Likeness of {part}", columns, other_rows))
    if class_rows:
        tables.append(Table(f"Class agreement, {part}", ("Class", "Synthetic", "Real"), class_rows))
    return tables


def metric_row(name: str, entry: Any) -> Row | None:
    """The row of a metric in its own unit; None if ``entry`` is not a metric or has no value."""
    if not isinstance(entry, Mapping) or "value" not in entry:
        return None
    value, floor = parse_interval(entry), parse_interval(entry.get("floor"))
    if value is None:
        return None
    ends = [end for interval in (value, floor) if interval for end in (interval.low, interval.high)]
    low = -axis_end(-min(ends)) if min(ends) < 0 else 0.0
    scale = PROPORTION_AXIS if low == 0 and max(ends) <= 1 and max(ends) > 0.1 else (low, axis_end(max(*ends, 1e-9)))
    return Row(
        name if "[" in name else capitalized(name), value, floor, metric_meaning(name), _warning_text(entry), scale
    )


def _with_shared_axis(rows: list[Row]) -> list[Row]:
    ends = [max(row.value.high, row.reference.high if row.reference else 0) for row in rows]
    return [replace(row, scale=(0.0, axis_end(1.02 * max(ends)))) for row in rows]


def _warning_text(entry: Mapping[str, Any]) -> str:
    return str(entry.get("warning") or "")


def _frame_change_chart(sources: Sources) -> Markup | None:
    """Chart of the mean absolute difference of consecutive frames of synthetic and real videos."""
    curves = {}
    with sources.report_parse_errors("evaluation"):
        record = (sources.records["evaluation"].get("curves") or {}).get("frame difference") or {}
        for group in ("synthetic", "real"):
            if group in record and len(record[group]["value"]) > 1:
                curves[group] = np.array([record[group][key] for key in ("value", "low", "high")], float)
    high_end = axis_end(max([1e-9, *(float(curve.max()) for curve in curves.values())]))
    return line_chart(curves, (0.0, high_end), "Change from each frame to the next") if curves else None


SECTION = Section("fidelity", "Fidelity", build, verdict)
