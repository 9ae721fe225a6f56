"""Synthetic-data card by the seven Cs (arXiv 2406.11143, by authors of the FDA), with the figures of a study.

The card lists figures (numbers) from the records of a study, and counts rows, empty cells and classes of its stores.
Figures that do not exist are listed as not measured.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from echodream.metrics.bootstrap import Interval
from echodream.report.mismatches import find_mismatches
from echodream.report.number_format import capitalized, format_count, format_interval, format_percent, format_value
from echodream.report.sections import fidelity, privacy, usefulness
from echodream.report.sections.verdict import split_counts
from echodream.report.sources import Sources
from echodream.report.tables import MissingRecord, Row
from echodream.runs.atomic_folder import write_record, write_text
from echodream.store.schema import REJECTED, REJECTED_COLUMNS
from echodream.store.table import read_text_table

if TYPE_CHECKING:
    import pandas as pd

CARD, SCHEMA = "card.json", "card.schema.json"
SCHEMA_FILE = Path(__file__).with_name(SCHEMA)
QUESTIONS = {
    "congruence": "Does the set have the same distribution as real patients?",
    "coverage": "Does the set have the variety of real patients?",
    "constraint": "Do the samples agree with anatomy and physiology?",
    "completeness": "Does the set have what its use needs?",
    "compliance": "Does the set comply with rules on privacy and format?",
    "comprehension": "Does the card say how the set was made, and what it is for?",
    "consistency": "Are the figures stable over samples, classes and time?",
}
"""The seven Cs, in the order of the paper, with the question that each answers."""
_CONGRUENCE, _COVERAGE = ("precision", "density"), ("recall", "coverage")
_AUDIT_COVERAGE = (*_COVERAGE, "image retrieval score", "training patients covered", "collisions between seeds")
_CONSISTENCY_OVER_TIME = ("seam ratio", "identity lost along a sample")
_SAMPLING_COLUMNS = ("Seed", "Sampler", "Steps", "Guidance")
_MAX_LISTED_VALUES = 4
"""Maximum number of different values of a sampling column that are listed."""
_RAW_COLUMNS = ("RawFrames", "RawSeconds")
"""Columns about raw files, which samples do not have."""


@dataclass(frozen=True)
class CardEntry:
    """A number of the synthetic-data card, with its texts on the page. ``source``: record of the number, or "store"."""

    name: str
    text: str
    source: str
    reference_text: str = ""
    meaning: str = ""
    warning: str = ""
    value: Interval | None = None
    reference: Interval | None = None
    """The value of real recordings, or the value expected of a harmless generator."""


@dataclass
class Criterion:
    """One of the seven Cs with its figures, and the figures that do not exist in this study."""

    name: str
    figures: list[CardEntry] = field(default_factory=list)
    missing_records: list[MissingRecord] = field(default_factory=list)

    @property
    def question(self) -> str:
        return QUESTIONS[self.name]


def seven_cs(
    sources: Sources, part: str = "videos", columns: Sequence[str] | None = None, extra: Iterable[CardEntry] = ()
) -> list[Criterion]:
    """The seven criteria with the figures of the ``part`` "videos" or "images".

    ``columns``: published columns of the set; None: all columns. ``extra``: further figures of compliance.
    Records of stores that are not in ``sources`` are not used. Raises ``UserError`` for invalid records.
    """
    mismatches = dict(find_mismatches(sources, part))
    sources = replace(sources, records={k: v for k, v in sources.records.items() if k not in mismatches})
    card = {name: Criterion(name) for name in QUESTIONS}
    missing = {name: MissingRecord(message, "") for name, message in mismatches.items()}
    _add_evaluation(card, sources, part, missing)
    _add_audit(card, sources, part, missing)
    table = None if sources.synthetic is None else sources.synthetic.table[columns or [*sources.synthetic.table]]
    _add_content(card["completeness"], sources, table)
    _add_utility(card["completeness"], sources, missing)
    _add_privacy(card["compliance"], sources, part)
    card["compliance"].figures += extra
    _add_origin(card["comprehension"], sources, table)
    _add_repetitions(card["consistency"], sources, part, table)
    return list(card.values())


def _add_evaluation(
    card: Mapping[str, Criterion], sources: Sources, part: str, missing: Mapping[str, MissingRecord]
) -> None:
    """Add figures of evaluation.json: distances, precision and recall, plausibility, cardiac cycle, and spread."""
    record: Mapping[str, Any] = sources.records.get("evaluation", {})
    names = ("congruence", "coverage", "constraint", "consistency")
    if part not in record:
        message = f"Fidelity, variety and plausibility of the {part} are not measured."
        for name in names:
            card[name].missing_records.append(missing.get("evaluation", sources.missing_record("evaluation", message)))
        return
    with sources.report_parse_errors("evaluation"):
        metrics: Mapping[str, Any] = record[part]
        for name, distance in fidelity.verdict_distances(sources).items():
            if name.startswith(f"{part}, "):
                row = replace(distance.row(), name=distance.metric)
                card["congruence"].figures.append(_card_entry(row, "evaluation"))
                if distance.spread is not None:
                    text = " to ".join(format_value(Interval(end, end, end)) for end in distance.spread)
                    figure = CardEntry(f"{distance.metric} of random subsets of the samples", text, "evaluation")
                    card["consistency"].figures.append(figure)
        absent = [name for name in fidelity.VERDICT_METRICS if name not in metrics]
        absent = [name for name in absent if part == "videos" or not name.startswith("temporal")]
        if absent:
            card["congruence"].missing_records.append(MissingRecord(f"Not measured: {', '.join(absent)}.", ""))
        card["congruence"].figures += _metric_entries(metrics, _CONGRUENCE)
        card["coverage"].figures += _metric_entries(metrics, _COVERAGE)
        agreements = _metric_entries(metrics, (fidelity.CLASS_AGREEMENT,))
        card["constraint"].figures += [each for each in agreements if "," not in each.name]
        card["consistency"].figures += [each for each in agreements if "," in each.name]
        if not agreements:
            message = "Agreement with the requested class is not measured: it needs a classifier (artifact=)."
            card["constraint"].missing_records.append(MissingRecord(message, ""))
        if part == "videos":
            beat = record.get("beat") or {}
            _add_plausibility(card["constraint"], sources, record)
            other = tuple(name for name in beat if name not in _CONSISTENCY_OVER_TIME)
            card["constraint"].figures += _metric_entries(beat, other)
            card["consistency"].figures += _metric_entries(beat, _CONSISTENCY_OVER_TIME)


def _add_plausibility(criterion: Criterion, sources: Sources, record: Mapping[str, Any]) -> None:
    """Add shares of videos outside the range of training recordings, and list quantities that were not computed."""
    metrics: Mapping[str, Any] = record.get("plausibility") or {}
    criterion.figures += _metric_entries(metrics, ("",))
    if not metrics:
        message = "Whether each video lies within the range of training recordings is not measured."
        criterion.missing_records.append(sources.missing_record("evaluation", message))
    for name, reason in metrics.get("range", {}).get("not computed", {}).items():
        message = f"{capitalized(name)} of the videos is not measured: {reason}."
        criterion.missing_records.append(MissingRecord(message, ""))
    if sources.synthetic is not None:
        gate = sources.synthetic.dataset.settings.get("plausibility")
        text = f"outside the range of {format_percent(gate['coverage'])} of training recordings" if gate else "none"
        criterion.figures.append(CardEntry("Samples rejected as implausible", text, "store"))


def _metric_entries(metrics: Mapping[str, Any], names: tuple[str, ...]) -> list[CardEntry]:
    """The figures of the ``metrics`` whose names begin with one of ``names``."""
    rows = [fidelity.metric_row(name, entry) for name, entry in metrics.items() if name.startswith(names)]
    return [_card_entry(row, "evaluation") for row in rows if row is not None]


def _add_audit(
    card: Mapping[str, Criterion], sources: Sources, part: str, missing: Mapping[str, MissingRecord]
) -> None:
    """Add the variety of identities, and the findings of the audits of all kinds of samples."""
    own = f"audit_{part.removesuffix('s')}"
    audits = [f"audit_{kind}" for kind in privacy.KINDS if f"audit_{kind}" in sources.records]
    for name in audits:
        with sources.report_parse_errors(name):
            record = sources.records[name]
            sentence, _ = privacy.audit_sentence(record, name.removeprefix("audit_"))
            card["compliance"].figures.append(CardEntry("Audit", sentence, name))
            for measure in record["measures"] if name == own else ():
                if str(measure["name"]) in _AUDIT_COVERAGE and (row := privacy.measure_row(measure)) is not None:
                    row = replace(row, name=f"{row.name} of identities" if measure["name"] in _COVERAGE else row.name)
                    card["coverage"].figures.append(_card_entry(row, name))
    message = f"What the {part} reveal about training patients, and the variety of their identities, is not measured."
    if own not in audits:
        for each in ("coverage", "compliance"):
            card[each].missing_records.append(missing.get(own, sources.missing_record(own, message)))


def _add_content(criterion: Criterion, sources: Sources, table: "pd.DataFrame | None") -> None:
    """Add numbers of recordings, classes, empty cells, and samples that were left out; ``table``: rows of the set."""
    for kind in privacy.KINDS:
        if f"filter_{kind}" in sources.records:
            with sources.report_parse_errors(f"filter_{kind}"):
                decision = sources.records[f"filter_{kind}"]["decision"]
                drawn, kept = int(decision["drawn"]), int(decision["kept"])
            text = f"{drawn} sampled, {drawn - kept} rejected by the filter, {kept} kept"
            criterion.figures.append(CardEntry(f"{capitalized(kind)}s", text, f"filter_{kind}"))
    if sources.synthetic is None or table is None:
        criterion.missing_records.append(sources.missing_record("videos", "There is no synthetic set to count."))
        return
    real = sources.real
    frames = format_count(int(table["NumberOfFrames"].sum()), "frame")
    facts = {"Recordings of the set": f"{format_count(len(table), 'recording')}, {frames}"}
    left_out = read_text_table(sources.synthetic.root / REJECTED, REJECTED_COLUMNS)
    facts["Left out after the filter"] = str(len(left_out)) if len(left_out) else "none"
    empty = {str(name): int((table[name].isna() | (table[name].astype(str) == "")).sum()) for name in table}
    cells = ", ".join(f"{name} in {count} of {len(table)}" for name, count in empty.items() if count)
    facts["Empty cells"] = cells or "none"
    if real is not None:
        trained = real.table[real.table["Split"] == "TRAIN"]
        columns = [str(name) for name in real.table if name not in (*table, *_RAW_COLUMNS)]
        facts["Columns of real recordings that the set lacks"] = ", ".join(columns) or "none"
        if {"class_name"} <= set(table) & set(trained):
            absent = sorted(set(trained["class_name"].dropna().astype(str)) - set(table["class_name"].astype(str)))
            facts["Classes of training patients without a sample"] = ", ".join(absent) or "none"
    criterion.figures += [CardEntry(name, text, "store") for name, text in facts.items()]


def _add_utility(criterion: Criterion, sources: Sources, missing: Mapping[str, MissingRecord]) -> None:
    """Add ratios of the metrics of models trained on the set to those of models trained on real recordings."""
    tables = usefulness.overview_tables(sources) if "utility" in sources.records else []
    rows = [row for table in tables if table.columns[1] == "Ratio" for row in table.rows]
    criterion.figures += [_card_entry(replace(row, reference_text="1"), "utility") for row in rows]
    if not rows:
        message = "Whether models learn a task from the set is not measured."
        criterion.missing_records.append(missing.get("utility", sources.missing_record("utility", message)))


def _add_privacy(criterion: Criterion, sources: Sources, part: str) -> None:
    """Insert the decision and statement of the filter that the set passed, before the findings of the audits."""
    kind = sources.passed_filter_kind()
    own = f"filter_{kind or part.removesuffix('s')}"
    figures = []
    if kind is None or own not in sources.records:
        message = "This set was not decoded from samples that passed the filter: no guarantee covers it."
        criterion.missing_records.insert(0, sources.missing_record(own, message))
    else:
        with sources.report_parse_errors(own):
            decision = sources.records[own]["decision"]
            if decision["rule"] == "calibrated":
                bound = privacy.certified_probability(decision)
                text = f"at most {bound['beta']}, with confidence {bound['confidence']}"
                name = "Probability that a copy under a declared transform passes the filter"
                meaning = "Only the transforms that the statement names; not differential privacy."
                figures.append(CardEntry(name, text, own, meaning=meaning))
            figures.append(CardEntry("Statement of the filter", str(decision["statement"]), own))
            figures += [CardEntry("Not known", str(text), own) for text in decision.get("unknown", ())]
    criterion.figures[:0] = figures
    message = "Whether consent and law allow sharing of the set is not measured: the controller decides."
    criterion.missing_records.append(MissingRecord(message, ""))


def _add_origin(criterion: Criterion, sources: Sources, table: "pd.DataFrame | None") -> None:
    """Add intended use, numbers of recordings, generators, columns and code version."""
    use = "Research on methods; not for diagnosis, and not for the frequency of a disease."
    criterion.figures.append(CardEntry("Intended use", use, "card"))
    generators = {kind: sources.records.get(f"filter_{kind}", {}).get("generator") for kind in reversed(privacy.KINDS)}
    known = [f"{kind}s: weights {str(weights)[:12]}" for kind, weights in generators.items() if weights]
    for name, size, explanation in split_counts(sources):
        is_origin = bool(known) or not name.startswith("Training")
        criterion.figures.append(CardEntry(name, f"{size}: {explanation}" if is_origin else size, "store"))
    if known:
        criterion.figures.append(CardEntry("Generators", ", ".join(known), "filter"))
    else:
        criterion.missing_records.append(MissingRecord("The generator of the samples is not recorded.", ""))
    if sources.synthetic is not None and table is not None:
        criterion.figures.append(CardEntry("Columns of the set", ", ".join(map(str, table)), "store"))
        version = sources.synthetic.dataset.code_version or "unknown"
        criterion.figures.append(CardEntry("Code version of the set", version, "store"))
    message = "Whether readers understand the card, or mistake samples for patients, is not measured."
    criterion.missing_records.append(MissingRecord(message, ""))


def _add_repetitions(criterion: Criterion, sources: Sources, part: str, table: "pd.DataFrame | None") -> None:
    """Add seeds, samplers, and the number of decisions of the filter on the same patients."""
    name = f"filter_{sources.passed_filter_kind() or part.removesuffix('s')}"
    for column in _SAMPLING_COLUMNS:
        if table is not None and column in table:
            values = sorted(set(table[column].astype(str)))
            text = ", ".join(values) if len(values) <= _MAX_LISTED_VALUES else f"{len(values)} different values"
            criterion.figures.append(CardEntry(f"{column} of the samples", text, "store"))
    if name in sources.records:
        with sources.report_parse_errors(name):
            decision = sources.records[name]["decision"]
            tries = format_count(int(decision.get("tries", 1)), "decision")
            criterion.figures.append(CardEntry("Decisions of the filter on these patients", tries, name))
            if networks := decision.get("disagreement"):
                text = f"{networks['by_some']} of {networks['samples']} samples"
                criterion.figures.append(CardEntry("Disagreement of the identity networks", text, name))
    message = "Figures of a second set, from another seed or another training, are not measured."
    criterion.missing_records.append(MissingRecord(message, ""))


def _card_entry(row: Row, source: str) -> CardEntry:
    """The figure of a table row, in its measured unit."""
    value, reference = row.raw_value or row.value, row.raw_reference or row.reference
    reference_text = row.reference_text or ("" if reference is None else format_interval(reference))
    text = row.value_text or format_interval(value)
    return CardEntry(row.name, text, source, reference_text, row.meaning, row.warning, value, reference)


def card_record(card: Sequence[Criterion], sources: Sources, command: str, code_version: str) -> dict[str, Any]:
    """The content of card.json, which conforms to card.schema.json."""
    criteria = {
        each.name: {
            "question": each.question,
            "figures": [{k: v for k, v in asdict(figure).items() if v not in ("", None)} for figure in each.figures],
            "not measured": [{"what": one.message, "command": one.command or None} for one in each.missing_records],
        }
        for each in card
    }
    head = {"$schema": SCHEMA, "framework": "seven Cs, arXiv:2406.11143", "study": sources.study}
    record = {**head, "command": command, "code_version": code_version, "criteria": criteria}
    return dict(json.loads(json.dumps(record, allow_nan=False)))


def write_card(folder: Path, record: Mapping[str, Any]) -> None:
    """Write card.json and its schema to ``folder``."""
    write_record(folder / CARD, record)
    write_text(folder / SCHEMA, SCHEMA_FILE.read_text(encoding="utf-8"))
