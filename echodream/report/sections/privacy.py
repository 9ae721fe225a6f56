"""Section "Privacy": guarantee and rejections of the filter, copies that pass, nearest samples, and audits."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from echodream.artifact import METADATA_FILE
from echodream.auditing.measure import exact_interval
from echodream.auditing.record import group_difference
from echodream.metrics.bootstrap import Interval
from echodream.privacy.certification import WEAKEST
from echodream.privacy.private_steps import describe_budget
from echodream.report.number_format import (
    axis_end,
    capitalized,
    format_count,
    format_ends,
    format_percent,
    format_value,
)
from echodream.report.section import PageContext, Section, SectionContent
from echodream.report.sections.fidelity import synthetic_set_is_unusable
from echodream.report.sources import Sources
from echodream.report.svg_primitives import ScoreGroup, line_chart
from echodream.report.tables import PROPORTION_AXIS, Row, Table, Verdict, parse_interval
from echodream.runs.atomic_folder import read_record

KINDS = ("video", "image")
"""Kinds of samples that are filtered and audited."""
SIMILARITY = "Similarity to training patients"
RISKS: dict[str, tuple[tuple[str, ...], str]] = {
    "Singling out": (
        ("training patients singled out",),
        "Does a sample show one training patient and nobody else? The filter bounds this risk for its transforms.",
    ),
    "Linkability": (("linkability",), "Do the samples link two recordings of a training patient?"),
    "Inference: membership": (("membership",), "Does the set, or the generator, reveal who was in training?"),
    "Inference: attributes": (
        ("attribute disclosure",),
        "Is an attribute guessed more often for training patients than for new patients?",
    ),
    SIMILARITY: ((), "Similarity is no risk by itself, and its absence is no proof of privacy."),
}
"""Risks of Article 29 Working Party Opinion 05/2014 (WP 216): first words of their measures, and a question."""


def verdict(sources: Sources) -> Verdict:
    """The verdict on the filter that the videos passed, or on the last filter, with the findings of the audits."""
    existing = [kind for kind in KINDS if f"filter_{kind}" in sources.records]
    kind = sources.passed_filter_kind() or next(iter(existing), "")
    if f"filter_{kind}" not in sources.records:
        message = "The samples have not been filtered, so they have no privacy guarantee."
        return sources.unknown_verdict("Privacy", "filter_image", message)
    with sources.report_parse_errors(f"filter_{kind}"):
        result = _guarantee_verdict(sources.records[f"filter_{kind}"], kind)
    unfiltered = sources.synthetic is not None and sources.passed_filter_kind() is None
    if unfiltered and result.numbers["passed"]:
        sentence = "The videos on this page are not those that passed the filter, so the guarantee does not cover them."
        result = replace(
            result, state="bad", label="Not for these videos", main_number="", unit="", sentence=sentence, notes=[]
        )
    notes, missing = list(result.notes), []
    audited_kinds = [kind for kind in reversed(KINDS) if f"audit_{kind}" in sources.records]
    for kind in audited_kinds:
        with sources.report_parse_errors(f"audit_{kind}"):
            sentence, has_finding = audit_sentence(sources.records[f"audit_{kind}"], kind)
        notes.append(sentence)
        if has_finding and result.label.startswith("Guarantee holds") and "finding" not in result.label:
            result = replace(result, state="note", label=f"{result.label}; the audit has a finding")
    notes += [*training_guarantees(sources), *canary_statements(sources)]
    if not audited_kinds:
        message = "What the synthetic set reveals about training patients has not been measured."
        missing.append(sources.missing_record("audit_image", message))
    if unfiltered and "filter_video" not in sources.records:
        missing.append(sources.missing_record("filter_video", "The videos themselves have not been filtered."))
    if synthetic_set_is_unusable(sources):
        notes.insert(0, "The certified samples are not usable as images: see Fidelity.")
    return replace(result, notes=notes, missing_records=missing)


def training_guarantees(sources: Sources) -> list[str]:
    """Differential privacy guarantees of the generators to which the records of filter and audit refer."""
    models = {str(record.get("generator")) for record in sources.records.values()}
    statements = []
    for name in ("lidm", "lvdm"):
        artifact = read_record(sources.folders.get("models", Path()) / name / METADATA_FILE) or {}
        if artifact.get("privacy") and artifact.get("fingerprint") in models:
            statements.append(describe_budget(artifact["privacy"], name))
    return statements


def canary_statements(sources: Sources, kinds: Iterable[str] = KINDS) -> list[str]:
    """Statements of the audits with canaries, for the generators of ``kinds``."""
    names = [f"canaries_{kind}" for kind in kinds if f"canaries_{kind}" in sources.records]
    statements = []
    for name in names:
        with sources.report_parse_errors(name):
            statements.append(str(sources.records[name]["statement"]))
    return statements


def _guarantee_verdict(record: Mapping[str, Any], kind: str) -> Verdict:
    decision = record["decision"]
    drawn, kept, statement = int(decision["drawn"]), int(decision["kept"]), str(decision["statement"])
    numbers: dict[str, Any] = {"on": kind, "rule": decision["rule"], "passed": decision["passed"]}
    numbers |= {"statement": statement, "drawn": drawn, "kept": kept, "tau": decision["tau"]}
    if decision["rule"] != "calibrated" or not decision["passed"]:
        label = "No sample passed" if not decision["passed"] else "No guarantee"
        return Verdict("Privacy", "bad", label, sentence=statement, statement=statement, numbers=numbers)
    settings, decisions = decision["settings"], int(decision.get("tries", 1))
    beta, confidence = float(settings["beta"]), _joint_confidence(decision)
    covered = [row for row in decision["table"] if row["transform"] != WEAKEST]
    transforms = (
        f"any of {len(covered)} declared ways" if len(covered) > 1 else f"the declared way ({covered[0]['transform']})"
    )
    copied_patients = min(int(row["controls"]) for row in covered)
    numbers |= {"beta": beta, "confidence": confidence, "decisions": decisions, "alpha": settings["alpha"]}
    single = f" ({format_percent(1 - settings['delta'])} for each of {decisions} decisions)" if decisions > 1 else ""
    notes = [
        f"Stated with {format_percent(confidence)} confidence{single}, "
        f"from copies of {format_count(copied_patients, 'training patient')}.",
        "The guarantee covers only the transforms listed below and this identity network"
        f"{' and outlier test' if decision.get('outliers') else ''}. It is not differential privacy.",
    ]
    if (outliers := decision.get("rejected_as_outliers")) is not None:
        notes.append(
            f"An outlier test also rejects {kind}s with a large residual outside the principal components of the "
            f"training frames: {outliers} were rejected by this test alone."
        )
    frames, total, copies = decision.get("frames"), decision.get("frames_per_sample"), decision.get("copies")
    if total is not None and frames < total:
        notes.append(f"The filter compares {frames} of the {total} frames of each {kind}.")
    if networks := decision.get("disagreement"):
        count = decision["networks"] - decision.get("outliers", False)
        notes.append(
            f"The filter's {count} networks disagree on {networks['by_some']} of {networks['samples']} samples "
            f"({format_percent(float(networks['share']['value']))}); a sample passes only if all networks accept it."
        )
    if copies:
        notes.append(
            f"Of the {format_count(kept, 'sample')} that passed, at most {copies['expected']:.2g} are expected to be "
            f"such copies; with {format_percent(1 - settings['delta'])} confidence, at most {copies['bound']} are, if "
            "copies pass independently of each other."
        )
    unknown = [str(sentence) for sentence in decision.get("unknown", ())]
    state, label = ("note", "Guarantee holds; the generator is unknown") if unknown else ("good", "Guarantee holds")
    return Verdict(
        "Privacy",
        state,
        label,
        f"≤ {format_percent(beta)}",
        "of copies pass",
        f"A copy of a training patient, made in {transforms}, passes the filter with a probability of at most "
        f"{format_percent(beta)}.",
        [*notes, *unknown],
        statement=statement,
        numbers=numbers,
    )


def certified_probability(decision: Mapping[str, Any]) -> dict[str, str]:
    """Texts of the bound on the probability that a copy passes, and of the joint confidence of all decisions."""
    beta = format_percent(float(decision["settings"]["beta"]))
    return {"beta": beta, "confidence": format_percent(_joint_confidence(decision))}


def _joint_confidence(decision: Mapping[str, Any]) -> float:
    """Confidence that the bounds of all decisions on the same patients hold at the same time."""
    return max(0.0, 1 - int(decision.get("tries", 1)) * float(decision["settings"]["delta"]))


def audit_sentence(record: Mapping[str, Any], kind: str) -> tuple[str, bool]:
    """A sentence on the audit of images or videos, and whether a privacy measure stands out."""
    measures = [measure for measure in record["measures"] if measure["about"] == "privacy"]
    findings = [measure for measure in measures if measure["stands_out"]]
    subject = f"The audit of {kind}s"
    if not findings:
        return f"{subject}: none of {len(measures)} privacy measures stands out. This proves nothing.", False
    values = "; ".join(
        f"{measure['name']} {format_value(value)} ({format_ends(value)})"
        for measure in findings
        if (value := parse_interval(measure["value"])) is not None
    )
    verb = "stands" if len(findings) == 1 else "stand"
    return f"{subject}: {len(findings)} of {len(measures)} privacy measures {verb} out: {values}.", True


def build(context: PageContext) -> SectionContent:
    """Results of all filters and audits with a record."""
    sources, missing = context.sources, {}
    filters = [kind for kind in KINDS if f"filter_{kind}" in sources.records]
    rejections = {}
    for kind in reversed(filters):
        with sources.report_parse_errors(f"filter_{kind}"):
            decision = sources.records[f"filter_{kind}"]["decision"]
            drawn, kept = int(decision["drawn"]), int(decision["kept"])
        rejections[kind] = {"drawn": drawn, "rejected": drawn - kept, "kept": kept}
    copies = {kind: tables for kind in filters if (tables := copy_tables(sources, kind))}
    audits = {kind: _read_audit(sources, f"audit_{kind}") for kind in KINDS if f"audit_{kind}" in sources.records}
    if not copies:
        missing["filter"] = sources.missing_record("filter_image", "The privacy filter has not been run.")
    if not audits:
        missing["audit"] = sources.missing_record("audit_image", "The audit has not been run.")
    data = {
        "rejections": rejections,
        "unknown": {
            kind: each for kind in filters if (each := sources.records[f"filter_{kind}"]["decision"].get("unknown"))
        },
        "scores": [scores for kind in filters if (scores := _read_scores(sources, kind)) is not None],
        "copies": copies,
        "pairs": context.clips.pairs,
        "audits": audits,
    }
    all_tables = {f"filter of {kind}s": tables for kind, tables in copies.items()}
    all_tables |= {f"audit of {kind}s": audit["tables"] for kind, audit in audits.items()}
    counts = {f"{kind}s": each for kind, each in rejections.items()}
    return SectionContent(data, all_tables, {"funnel": counts}, missing)


def copy_tables(sources: Sources, kind: str) -> list[Table]:
    """Tables of the shares of copies that pass the filter: transforms that the guarantee covers, then all others."""
    record = sources.records[f"filter_{kind}"]
    tables: list[Table] = []
    with sources.report_parse_errors(f"filter_{kind}"):
        decision, controls = record["decision"], record.get("controls", {})
        covered, others = list(decision.get("table", [])), list(decision.get("reported", []))
        beta = decision.get("settings", {}).get("beta")
        memorized = record.get("memoriser") or {}
        tested = [memorized["together"]] if memorized and memorized["together"]["controls"] else []
        largest = max([float(row["bound"]) for row in [*covered, *others, *tested]], default=0.0)
        scale = PROPORTION_AXIS if largest > 0.5 else (0.0, axis_end(largest))
        columns = ("Copy", "Passed", "At most")
        if rows := [_copy_row(row, controls, scale, beta) for row in covered]:
            note = f"The band ends at the allowed {format_percent(beta)}." if beta else ""
            tables.append(Table("Covered by the guarantee", columns, rows, note, "%", collapsible=bool(beta)))
        rows = [_copy_row(row, controls, scale, None) for row in others]
        rows += [_memorized_row(memorized, row, scale) for row in tested]
        if rows:
            note = "These transforms are measured, but the guarantee does not cover them."
            tables.append(Table("Not covered by the guarantee", columns, rows, note, "%"))
    return tables


def _copy_row(row: Mapping[str, Any], controls: Mapping[str, Any], scale: tuple[float, float], beta: Any) -> Row:
    from echodream.filtering.positive_controls import describe_control

    name = str(row["transform"])
    value = Interval(float(row["rate"]), float(row["lower"]), float(row["bound"]))
    allowed = None if beta is None else Interval(float(beta), 0.0, float(beta))
    return Row(
        capitalized(describe_control(name, controls.get(name) or {})),
        value,
        allowed,
        scale=scale,
        color="copy",
        value_text=f"{row['passes']} of {row['controls']}",
        reference_text=format_percent(value.high),
    )


def _memorized_row(record: Mapping[str, Any], total: Mapping[str, Any], scale: tuple[float, float]) -> Row:
    """Table row of the samples that a fine-tuned generator copied from training patients, wholly or in part."""
    parts = [f"{row['transform']}: {row['passes']} of {row['controls']} pass" for row in record["table"]]
    patients = format_count(int(record["settings"]["patients"]), "patient")
    row = _copy_row({**total, "transform": f"samples of a generator that memorizes {patients}"}, {}, scale, None)
    return replace(row, meaning=f"{capitalized('; '.join(parts))}.")


def _read_scores(sources: Sources, kind: str) -> dict[str, Any] | None:
    """Data of the histograms of the similarity of samples, new patients and copies to the nearest training patient.

    None if the filter's folder has no scores.
    """
    record = sources.records[f"filter_{kind}"]
    folder = sources.paths[f"filter_{kind}"].parent
    if not (folder / "evidence.csv").is_file() or not (folder / "scores.csv").is_file():
        return None
    evidence, samples = sources.evidence(kind), sources.scores(kind)
    with sources.report_parse_errors(f"filter_{kind}"):
        tau = record["decision"]["tau"]
        covered = {row["transform"] for row in record["decision"].get("table", [])}
        kinds, values = evidence["Kind"].astype(str), evidence["Score"]
        groups = [
            ScoreGroup(f"Synthetic {kind}s", samples["Score"].to_numpy(float), "synthetic"),
            ScoreGroup("New patients", values[kinds == "calibration"].to_numpy(float), "real"),
            ScoreGroup("Copies of training patients", values[kinds.isin(covered)].to_numpy(float), "copy"),
        ]
    groups = [group for group in groups if len(group.values)]
    if tau is None or not groups:
        return None
    low = min(float(np.min(group.values)) for group in groups)
    high = max(float(tau), *(float(np.max(group.values)) for group in groups))
    scale = (math.floor(low * 20) / 20, math.ceil(high * 20) / 20)
    return {"kind": kind, "groups": groups, "threshold": float(tau), "scale": scale}


def _read_audit(sources: Sources, name: str) -> dict[str, Any]:
    """Tables, chart of identity drift, and reasons for missing measures, of the audit record ``name``."""
    with sources.report_parse_errors(name):
        reasons = sources.records[name].get("not measured") or {}
        not_measured = [f"{measure}: {reason}" for measure, reason in reasons.items()]
        difference = group_difference(sources.records[name]["measures"])
    tables, drift = audit_tables(sources, name), _drift_chart(sources, name)
    audit = {"tables": tables, "drift": drift, "not_measured": not_measured, "difference": difference}
    return {**audit, "unknown": sources.records[name].get("unknown", "")}


def audit_tables(sources: Sources, name: str) -> list[Table]:
    """Tables of the audit record ``name``: privacy measures by risk (``RISKS``), quality measures, power."""
    tables = []
    with sources.report_parse_errors(name):
        measures = sources.records[name]["measures"]
        for title, (_, note) in {**RISKS, "Is it varied?": ((), "")}.items():
            rows = [row for measure in measures if _risk_title(measure) == title and (row := measure_row(measure))]
            rows.sort(key=lambda row: not row.stands_out)
            if rows:
                tables.append(Table(title, ("Measure", "Synthetic", "Expected"), rows, note))
        if rows := [row for measure in measures if (row := _power_row(measure, sources.records[name].get("power")))]:
            note = (
                "The audit planted copies of training patients among the samples: 1, 5 and 10 %. The table has the "
                "smallest share that each measure found; none: no power at 10 %."
            )
            tables.append(Table("What can this audit find?", ("Measure", "Smallest share found", ""), rows, note, "%"))
    return tables


def _risk_title(measure: Mapping[str, Any]) -> str:
    """Title of the table of a ``measure``."""
    if measure["about"] != "privacy":
        return "Is it varied?"
    return next((title for title, (names, _) in RISKS.items() if str(measure["name"]).startswith(names)), SIMILARITY)


def _power_row(measure: Mapping[str, Any], record: Mapping[str, Any] | None) -> Row | None:
    """Smallest shares of planted copies that a privacy measure detects; the chart shows the share of exact copies."""
    from echodream.auditing.planted_copies import SHARES, power_text

    if not record or not record.get("copies") or measure["about"] != "privacy":
        return None
    name, power, largest = capitalized(str(measure["name"])), measure.get("power"), SHARES[-1]
    if not power:
        text = "stands out without copies" if measure["stands_out"] else "not tested: the samples are not its input"
        return Row(name, Interval(largest, 0.0, largest), scale=(0.0, largest), value_text=text)
    share = next(iter(power.values()))
    interval = Interval(largest, 0.0, largest) if share is None else exact_interval(float(share))
    return Row(name, interval, scale=(0.0, largest), color="copy", value_text=power_text(power))


def measure_row(measure: Mapping[str, Any]) -> Row | None:
    name, value, expected = str(measure["name"]), parse_interval(measure["value"]), parse_interval(measure["expected"])
    if value is None:
        return None
    ends = [value.low, value.high, *((expected.low, expected.high) if expected else ())]
    scale = PROPORTION_AXIS if min(ends) >= 0 and max(ends) <= 1 else (0.0, axis_end(max(ends)))
    if min(ends) < 0 or name.startswith("data copying"):
        limit = axis_end(max(abs(end) for end in ends))
        scale = (-limit, limit)
    meaning = f"{capitalized(str(measure['means']))}. Harmless: {measure['harmless']}."
    return Row(capitalized(name), value, expected, meaning, scale=scale, stands_out=bool(measure["stands_out"]))


def _drift_chart(sources: Sources, name: str) -> Markup | None:
    """Chart of the similarity of each frame to the first frame, of samples and of new patients."""
    curves: dict[str, np.ndarray] = {}
    with sources.report_parse_errors(name):
        for measure in sources.records[name]["measures"]:
            if not str(measure["name"]).startswith("identity lost"):
                continue
            for key, group in (("samples", "synthetic"), ("new patients", "real")):
                curve = measure["details"].get(key)
                if curve and len(curve["curve"]) > 3:
                    curves[group] = np.array([curve["curve"], curve["low"], curve["high"]], float)
    low_end = min([0.0, *(float(curve.min()) for curve in curves.values())])
    return line_chart(curves, (low_end, 1.0), "Similarity to the first frame, frame by frame") if curves else None


SECTION = Section("privacy", "Privacy", build, verdict)
