"""The part of a page on anonymised images: are they still linked to their patients, and what are they worth?"""

from collections.abc import Iterator, Mapping
from typing import Any

from markupsafe import Markup

from echodream.metrics.bootstrap import Interval
from echodream.report.charts_svg import Point, scatter
from echodream.report.figures import SHARE, Row, Table, interval, round_up
from echodream.report.sources import Sources

CHANCE = Interval(0.5, 0.5, 0.5)
SETS = {"originals": ("two originals", "real"), "inner": ("inner: two versions", "both")}
SETS |= {"outer": ("outer: an original and its version", "synthetic")}
"""How a set of pairs is called on the page, and whose colour it has."""
RATES = {"recall": "linked, of one patient", "far": "falsely linked, of two patients"}
NO_TARGET = "none stated"


def tables(sources: Sources) -> list[Table]:
    """What verification still says, then how near versions are to originals; without names in any case."""
    found: list[Table] = []
    if (record := sources.records.get("linkability")) is not None:
        with sources.reading("linkability"):
            found += _linked(record)
    if (record := sources.records.get("anonymity")) is not None:
        with sources.reading("anonymity"):
            found += [_near(str(name), space, str(record["assignment"])) for name, space in record["spaces"].items()]
    return found


def _linked(record: Mapping[str, Any]) -> Iterator[Table]:
    sets = [(record["sets"][key], *said) for key, said in SETS.items()]
    rows = []
    for each, said, side in sets:
        value = interval(each["AUC"])
        if value is not None:
            told = "as high as the network gets" if side == "real" else ""
            beside = None if side == "real" else CHANCE
            rows.append(Row(said, value, beside, means=str(each["means"]), side=side, beside_text=told))
    compared = f"Compared by {record['compared by']}."
    yield Table("Whose are they?", ("Verification of pairs", "AUC", "Without a link"), rows, compared)
    for cut in (cut for cut, chose in record["thresholds"].items() if "threshold" in chose):
        rates = [
            Row(f"{said}: {what}", value, side=side)
            for each, said, side in sets
            for rate, what in RATES.items()
            if (value := interval(each[cut][rate])) is not None
        ]
        note = "Chosen on pairs of originals. Versions that are all alike are all linked: read both shares."
        yield Table(f"At the threshold of {cut}", ("Pairs", "Share", ""), rates, note)
    if (risk := record.get("residual risk")) is not None and (value := interval(risk["risk"])) is not None:
        row = Row("beyond a control group", value, means="What an attacker gains by a patient's version in the set.")
        yield Table("Residual risk of linkability", ("Share of patients", "Risk", ""), [row])


def _near(name: str, space: Mapping[str, Any], note: str) -> Table:
    rows = []
    for entry in space["measures"]:
        value, target = interval(entry), entry["target"]
        if value is None:
            continue
        told = NO_TARGET if target is None else f"{target}: {'met' if entry['met'] else 'not met'}"
        percent = entry["unit"] == "%"
        scale = (0.0, 100.0) if percent else (min(0.0, value.low), round_up(max(value.high, 1e-9)))
        label = f"{entry['name']}, %" if percent else str(entry["name"])
        rows.append(Row(label, value, beside_text=told, scale=scale))
    title = f"How near are they to their originals? In {name} space"
    return Table(title, ("Measure", "Value", "Target in the literature"), rows, f"{note[:1].upper()}{note[1:]}.")


def curve(sources: Sources) -> tuple[Markup, str, str] | None:
    """Utility over linkability, what was swept, and what stands for utility; None where it was not measured."""
    if (record := sources.records.get("curve")) is None:
        return None
    with sources.reading("curve"):
        series: dict[str, list[Point]] = {}
        for point in record["points"]:
            worth = interval(point["utility"])
            for key in ("outer", "inner"):
                link = interval(point.get(key))
                if worth is not None and link is not None:
                    series.setdefault(key, []).append(Point(str(point["value"]), link, worth))
        ends = [end for spots in series.values() for spot in spots for end in (spot.x.low, spot.y.low)]
        tops = [end for spots in series.values() for spot in spots for end in (spot.x.high, spot.y.high)]
        scale = (min(int(10 * min(ends)) / 10, CHANCE.value), max(SHARE[1], *tops))
        utility, swept = str(record["utility"]), str(record["swept"])
        utility = "the AUC of utility" if utility == "utility: auc" else utility
    sides = {key: (SETS[key][1], spots) for key, spots in series.items()}
    label = f"{utility[:1].upper()}{utility[1:]} over the AUC of linkability, by {swept}"
    return scatter(sides, scale, ("AUC of linkability", utility[:1].upper() + utility[1:]), label), swept, utility
