"""The privacy part of a page: the filter's guarantee, what it cost, what it does not cover, and the audit."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from echodream.metrics.bootstrap import Interval
from echodream.report.charts_svg import Curve, Ridge
from echodream.report.figures import SHARE, Row, Table, Verdict, between, count, interval, percent, round_up, within
from echodream.report.glossary import copy
from echodream.report.sources import Sources

WEAKEST = "weakest of all"
KIND = {"image": "image", "video": "video"}


@dataclass(frozen=True)
class Step:
    """How many samples there were, and how many the filter took away."""

    name: str
    drawn: int
    kept: int

    @property
    def rejected(self) -> int:
        return self.drawn - self.kept


@dataclass(frozen=True)
class Scores:
    """How close samples, new patients and copies come to the training patients."""

    on: str
    groups: Sequence[Ridge]
    threshold: float
    scale: tuple[float, float]


def last_filter(sources: Sources) -> str | None:
    """The filter that decided on what the page shows, or on what there is."""
    return sources.filtered() or next((on for on in ("video", "image") if f"filter_{on}" in sources.records), None)


def verdict(sources: Sources) -> Verdict:
    """What a reader must know first."""
    on = last_filter(sources)
    if on is None or f"filter_{on}" not in sources.records:
        what = "No filter has looked at these samples, so nothing can be promised about them."
        return Verdict("Privacy", "missing", "Not known", missing=[sources.missing("filter_image", what)])
    with sources.reading(f"filter_{on}"):
        found = _guarantee(sources.records[f"filter_{on}"], on)
    unfiltered = sources.synthetic is not None and sources.filtered() is None
    if unfiltered and found.numbers["passed"]:
        line = "The videos on this page are not the ones that passed the filter: the statement is not about them."
        found = replace(found, state="bad", word="Not for these videos", figure="", unit="", sentence=line, more=[])
    more, missing = list(found.more), []
    for name in ("audit_image", "audit_video"):
        if name in sources.records:
            with sources.reading(name):
                line, alarming = _audit_line(sources.records[name], name)
            more.append(line)
            if alarming and found.state == "good":
                found = replace(found, state="note", word="Guarantee holds; the audit has a finding")
    if not {"audit_image", "audit_video"} & set(sources.records):
        what = "What the set still says about its patients has not been measured."
        missing.append(sources.missing("audit_image", what))
    if unfiltered and "filter_video" not in sources.records:
        missing.append(sources.missing("filter_video", "The videos themselves have not been filtered."))
    return replace(found, more=more, missing=missing)


def _guarantee(record: Mapping[str, Any], on: str) -> Verdict:
    decision = record["decision"]
    drawn, kept, statement = int(decision["drawn"]), int(decision["kept"]), str(decision["statement"])
    numbers: dict[str, Any] = {"on": on, "rule": decision["rule"], "passed": decision["passed"], "statement": statement}
    numbers |= {"drawn": drawn, "kept": kept, "tau": decision["tau"]}
    if decision["rule"] != "calibrated" or not decision["passed"]:
        word = "Nothing was let through" if not decision["passed"] else "No guarantee"
        return Verdict("Privacy", "bad", word, sentence=statement, quote=statement, numbers=numbers)
    settings, tries = decision["settings"], int(decision.get("tries", 1))
    beta, confidence = float(settings["beta"]), max(0.0, 1 - tries * float(settings["delta"]))
    ways = [row for row in decision["table"] if row["transform"] != WEAKEST]
    ways_said = f"any of {len(ways)} declared ways" if len(ways) > 1 else f"the declared way ({ways[0]['transform']})"
    tested = min(int(row["controls"]) for row in ways)
    numbers |= {"beta": beta, "confidence": confidence, "decisions": tries, "alpha": settings["alpha"]}
    more = [
        f"Stated with {percent(confidence)} confidence"
        + (f" ({percent(1 - settings['delta'])} for each of {tries} decisions)" if tries > 1 else "")
        + f", from copies of {count(tested, 'training patient')}.",
        "It covers these ways (they stand below) and this identity network. It is not differential privacy.",
    ]
    return Verdict(
        "Privacy",
        "good",
        "Guarantee holds",
        f"≤ {percent(beta)}",
        "of copies pass",
        f"A copy of a training patient, made in {ways_said}, gets past the filter with a probability of at most "
        f"{percent(beta)}.",
        more,
        quote=statement,
        numbers=numbers,
    )


def _audit_line(record: Mapping[str, Any], name: str) -> tuple[str, bool]:
    asked = [entry for entry in record["measures"] if entry["about"] == "privacy"]
    worse = [entry for entry in asked if entry["stands_out"]]
    what = f"The audit of {name.removeprefix('audit_')}s"
    if not worse:
        return f"{what}: none of {len(asked)} privacy measures stands out. That is no proof.", False
    values = "; ".join(
        f"{entry['name']} {within(value)} ({between(value)})"
        for entry in worse
        if (value := interval(entry["value"])) is not None
    )
    verb = "stands" if len(worse) == 1 else "stand"
    return f"{what}: {len(worse)} of {len(asked)} privacy measures {verb} out: {values}.", True


def funnel(sources: Sources) -> list[Step]:
    """Drawn, rejected and kept, of images and of videos."""
    found = []
    for on in ("image", "video"):
        if (record := sources.records.get(f"filter_{on}")) is not None:
            with sources.reading(f"filter_{on}"):
                found.append(Step(f"{on}s", int(record["decision"]["drawn"]), int(record["decision"]["kept"])))
    return found


def copies(sources: Sources, on: str) -> list[Table]:
    """Under each transform the share of copies that pass: those of the guarantee, then those that are not covered."""
    record = sources.records[f"filter_{on}"]
    with sources.reading(f"filter_{on}"):
        decision, controls = record["decision"], record.get("controls", {})
        covered, others = list(decision.get("table", [])), list(decision.get("reported", []))
        limit = decision.get("settings", {}).get("beta")
        most = max([float(row["bound"]) for row in [*covered, *others]] + [0.0])
        scale = SHARE if most > 0.5 else (0.0, round_up(most))
        tables = []
        for title, rows, note in (
            (
                "Covered by the guarantee",
                covered,
                f"The band ends at the {percent(limit)} that is allowed." if limit else "",
            ),
            ("Measured, and not covered", others, "No promise is made about these."),
        ):
            lines = [_copy_row(row, controls, scale, limit if rows is covered else None) for row in rows]
            if lines:
                tables.append(Table(title, ("Copy", "Passed", "At most"), lines, note, "%"))
    return tables


def _copy_row(row: Mapping[str, Any], controls: Mapping[str, Any], scale: tuple[float, float], limit: Any) -> Row:
    name = str(row["transform"])
    value = Interval(float(row["rate"]), float(row["lower"]), float(row["bound"]))
    allowed = None if limit is None else Interval(float(limit), 0.0, float(limit))
    said = f"{row['passes']} of {row['controls']}"
    words = copy(name, controls.get(name) or {})
    return Row(
        words[:1].upper() + words[1:],
        value,
        allowed,
        scale=scale,
        side="copy",
        text=said,
        beside_text=percent(value.high),
    )


def scores(sources: Sources, on: str) -> Scores | None:
    """Of samples, new patients and copies under the covered transforms; None where the filter kept no evidence."""
    record = sources.records[f"filter_{on}"]
    folder = sources.paths[f"filter_{on}"].parent
    if not (folder / "evidence.csv").is_file() or not (folder / "scores.csv").is_file():
        return None
    evidence, samples = sources.evidence(on), sources.scores(on)
    with sources.reading(f"filter_{on}"):
        tau = record["decision"]["tau"]
        covered = {row["transform"] for row in record["decision"].get("table", [])}
        kinds = evidence["Kind"].astype(str)
        groups = [
            Ridge(f"Synthetic {on}s", samples["Score"].to_numpy(float), "synthetic"),
            Ridge("New patients", evidence["Score"][kinds == "calibration"].to_numpy(float), "real"),
            Ridge("Copies of training patients", evidence["Score"][kinds.isin(covered)].to_numpy(float), "copy"),
        ]
    groups = [group for group in groups if len(group.values)]
    if tau is None or not groups:
        return None
    low = min(float(np.min(group.values)) for group in groups)
    high = max(float(tau), *(float(np.max(group.values)) for group in groups))
    return Scores(on, groups, float(tau), (math.floor(low * 20) / 20, math.ceil(high * 20) / 20))


def audit(sources: Sources, name: str) -> list[Table]:
    """The measures of an audit: those of privacy, then those of quality."""
    record, tables = sources.records[name], []
    with sources.reading(name):
        for about, title in (("privacy", "Does it give patients away?"), ("quality", "Is it varied?")):
            rows = [row for entry in record["measures"] if entry["about"] == about and (row := _measure(entry))]
            rows.sort(key=lambda row: not row.stands_out)
            if rows:
                tables.append(Table(title, ("Measure", "Synthetic", "Expected"), rows))
    return tables


def _measure(entry: Mapping[str, Any]) -> Row | None:
    value, expected = interval(entry["value"]), None if entry["expected"] is None else interval(entry["expected"])
    if value is None:
        return None
    means, harmless = str(entry["means"]), str(entry["harmless"])
    ends = [value.low, value.high, *((expected.low, expected.high) if expected else ())]
    scale = SHARE if min(ends) >= 0 and max(ends) <= 1 else (0.0, round_up(max(ends)))
    if min(ends) < 0 or str(entry["name"]).startswith("data copying"):
        reach = round_up(max(abs(end) for end in ends))
        scale = (-reach, reach)
    text = f"{means[:1].upper()}{means[1:]}. Harmless: {harmless}."
    name = str(entry["name"])
    return Row(name[:1].upper() + name[1:], value, expected, text, scale=scale, stands_out=bool(entry["stands_out"]))


def unmeasured(sources: Sources, name: str) -> list[str]:
    """What an audit could not measure, and why."""
    with sources.reading(name):
        return [f"{what}: {reason}" for what, reason in (sources.records[name].get("not measured") or {}).items()]


def drift(sources: Sources, name: str) -> dict[str, Curve]:
    """How like its first frame each frame of a sample is, to the identity network, beside recordings of patients."""
    found: dict[str, Curve] = {}
    with sources.reading(name):
        for entry in sources.records[name]["measures"]:
            if not str(entry["name"]).startswith("identity lost"):
                continue
            for who, side in (("samples", "synthetic"), ("new patients", "real")):
                lines = entry["details"].get(who)
                if lines and len(lines["curve"]) > 3:
                    y, low, high = (np.array(lines[key], float) for key in ("curve", "low", "high"))
                    found[who] = Curve(y, low, high, side)
    return found
