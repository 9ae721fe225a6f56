"""Section "Anonymized images": linkability to patients, distance to originals, and utility."""

from collections.abc import Iterator, Mapping
from typing import Any

from markupsafe import Markup

from echodream.metrics.bootstrap import Interval
from echodream.report.number_format import axis_end, capitalized
from echodream.report.section import PageContext, Section, SectionContent
from echodream.report.sources import Sources
from echodream.report.svg_primitives import Point, scatter_chart
from echodream.report.tables import PROPORTION_AXIS, Row, Table, parse_interval

CHANCE_AUC = Interval(0.5, 0.5, 0.5)
PAIR_SETS = {
    "originals": ("two originals", "real"),
    "inner": ("inner: two versions", "both"),
    "outer": ("outer: an original and its version", "synthetic"),
}
"""Name and color on the page of each set of pairs in linkability.json."""
PAIR_RATES = {"recall": "linked, of one patient", "far": "falsely linked, of two patients"}
"""Names of recall and false accept rate on the page."""


def build(context: PageContext) -> SectionContent | None:
    """Linkability, anonymity and their trade-off with utility, without patient names; None without records."""
    sources = context.sources
    tables: list[Table] = []
    for name, build_tables in (("linkability", _linkability_tables), ("anonymity", _anonymity_tables)):
        if name in sources.records:
            with sources.report_parse_errors(name):
                tables += build_tables(sources.records[name])
    chart = _tradeoff_chart(sources)
    if not tables and chart is None:
        return None
    return SectionContent({"tables": tables, "tradeoff": chart}, {"anonymised images": tables} if tables else {})


def _linkability_tables(record: Mapping[str, Any]) -> Iterator[Table]:
    sets = [(record["sets"][key], *pairs) for key, pairs in PAIR_SETS.items()]
    rows = []
    for entry, name, color in sets:
        value = parse_interval(entry["AUC"])
        if value is not None:
            text = "upper limit for this network" if color == "real" else ""
            reference = None if color == "real" else CHANCE_AUC
            rows.append(Row(name, value, reference, str(entry["means"]), color=color, reference_text=text))
    note = f"Compared by {record['compared by']}."
    yield Table(
        "Can images be linked to their patient?", ("Verification of pairs", "AUC", "Without a link"), rows, note
    )
    for criterion in (name for name, threshold in record["thresholds"].items() if "threshold" in threshold):
        rates = [
            Row(f"{name}: {rate_name}", value, color=color)
            for entry, name, color in sets
            for rate, rate_name in PAIR_RATES.items()
            if (value := parse_interval(entry[criterion][rate])) is not None
        ]
        note = "Chosen on pairs of originals. Compare the two shares: if all versions look alike, all pairs are linked."
        yield Table(f"At the threshold of {criterion}", ("Pairs", "Share", ""), rates, note)
    if (risk := record.get("residual risk")) is not None and (value := parse_interval(risk["risk"])) is not None:
        meaning = "Risk that an attacker links two originals of a patient because the set has an anonymized version."
        row = Row("beyond a control group", value, meaning=meaning)
        yield Table("Residual risk of linkability", ("Share of patients", "Risk", ""), [row])


def _anonymity_tables(record: Mapping[str, Any]) -> Iterator[Table]:
    for name, space in record["spaces"].items():
        rows = []
        for measure in space["measures"]:
            value, target = parse_interval(measure), measure["target"]
            if value is None:
                continue
            text = "none stated" if target is None else f"{target}: {'met' if measure['met'] else 'not met'}"
            is_percent = measure["unit"] == "%"
            scale = (0.0, 100.0) if is_percent else (min(0.0, value.low), axis_end(max(value.high, 1e-9)))
            label = f"{measure['name']}, %" if is_percent else str(measure["name"])
            rows.append(Row(label, value, reference_text=text, scale=scale))
        columns, note = ("Measure", "Value", "Target in the literature"), f"{capitalized(str(record['assignment']))}."
        yield Table(f"Distance to the originals, {name} space", columns, rows, note)


def _tradeoff_chart(sources: Sources) -> tuple[Markup, str, str] | None:
    """A chart of utility against linkability, name of the swept setting, name of the metric; None without a record."""
    if (record := sources.records.get("curve")) is None:
        return None
    with sources.report_parse_errors("curve"):
        series: dict[str, list[Point]] = {}
        for entry in record["points"]:
            utility = parse_interval(entry["utility"])
            for key in ("outer", "inner"):
                linkability = parse_interval(entry.get(key))
                if utility is not None and linkability is not None:
                    series.setdefault(key, []).append(Point(str(entry["value"]), linkability, utility))
        intervals = [interval for points in series.values() for point in points for interval in (point.x, point.y)]
        low, high = min(each.low for each in intervals), max(each.high for each in intervals)
        scale = (min(int(10 * low) / 10, CHANCE_AUC.value), max(PROPORTION_AXIS[1], high))
        metric, swept = str(record["utility"]), str(record["swept"])
        metric = "the AUC of utility" if metric == "utility: auc" else metric
    groups = {key: (PAIR_SETS[key][1], points) for key, points in series.items()}
    label = f"{capitalized(metric)} over the AUC of linkability, by {swept}"
    return scatter_chart(groups, scale, ("AUC of linkability", capitalized(metric)), label), swept, metric


SECTION = Section("anonymized", "Anonymized images", build)
