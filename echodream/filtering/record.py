"""Records of a filter's decision: private folder, store of samples that passed, and summary."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from echodream.errors import UserError
from echodream.filtering.scoring import FilterScores
from echodream.privacy.decision import Decision
from echodream.privacy.rules import Calibrated, Rule
from echodream.privacy.statements import percent
from echodream.runs.atomic_folder import TEMPORARY_PREFIX, read_record, write_record
from echodream.store import Dataset, Store, StoreWriter
from echodream.store.schema import partial_path, read_dataset
from echodream.store.table import write_table

RECORD, SCORES, EVIDENCE = "filter.json", "scores.csv", "evidence.csv"
"""Files of the private folder."""


def count_decisions(previous: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> int:
    """Number of decisions in a private folder with the record ``previous``; the same settings count only once."""
    if previous is None:
        return 1
    repeated = all(previous.get(name) == value for name, value in json.loads(json.dumps(settings)).items())
    return int(previous.get("decision", {}).get("tries", 1)) + (0 if repeated else 1)


def is_complete(dst: Path, private: Path, settings: Mapping[str, Any]) -> bool:
    """Whether both folders are complete. Raises ``UserError`` if one of them has other settings."""
    expected = json.loads(json.dumps(settings))
    records = {dst: read_dataset(dst).settings} if dst.exists() else {}
    record = read_record(private / RECORD)
    if record is not None and record.get("decision", {}).get("passed"):
        records[private] = record
    for folder, recorded in records.items():
        if different := [name for name, value in expected.items() if recorded.get(name) != value]:
            key = "private" if folder == private else "dst"
            raise UserError(
                f"{folder} already exists, made with another {different[0]}: choose another {key}=, or remove it"
            )
    if len(records) == 2:
        shutil.rmtree(partial_path(dst), ignore_errors=True)
    return len(records) == 2


def public_decision(decision: Decision, scores: FilterScores, rule: Rule, number: int) -> dict[str, Any]:
    """The part of decision ``number`` that may be shared: no names, no paths. Thresholds are left out,
    because each is the score of one patient."""
    record = decision.as_dict()
    if decision.passed and isinstance(rule, Calibrated):
        record["statement"] += (
            " This is the first decision that was written to its private folder; decisions in other folders are not "
            "counted."
            if number == 1
            else f" This was decision number {number} of those written to its private folder, with other settings than "
            "before, on the same patients: the confidence of all of them together is "
            f"{percent(max(0.0, 1 - number * rule.delta))}. Decisions in other folders are not counted."
        )
    rejected = int(decision.rejected(scores.samples.score).sum())
    return {
        **record,
        "drawn": len(scores.names),
        "rejected": rejected,
        "kept": len(scores.names) - rejected,
        "frames": scores.frames,
        "references": scores.samples.references,
        "training_patients": scores.samples.patients,
        "tries": number,
    }


def write_private_folder(folder: Path, scores: FilterScores, decision: Decision, record: Mapping[str, Any]) -> None:
    """Write the scores of samples, calibration patients and copies; each file atomically, the ``record`` last."""
    folder.mkdir(parents=True, exist_ok=True)
    samples, rejected = scores.samples, decision.rejected(scores.samples.score)
    p_values = decision.p_values(samples.score)
    rows = [
        {
            "FileName": name,
            "Score": float(samples.score[number]),
            "PValue": None if p_values is None else float(p_values[number]),
            "Kept": str(not rejected[number]).lower(),
            "NearestPatient": str(samples.patient[number]),
            "NearestRecording": str(samples.recording[number]),
            "NearestFrame": int(samples.frame[number]),
        }
        for number, name in enumerate(scores.names)
    ]
    groups = {"calibration": scores.evidence.calibration, **scores.evidence.controls, **scores.evidence.reported}
    patients = [
        {"Kind": kind, "PatientID": patient, "Score": value}
        for kind, group in groups.items()
        if group is not None
        for patient, value in zip(group.patients.tolist(), group.values.tolist(), strict=True)
    ]
    for name, table in ((SCORES, rows), (EVIDENCE, patients)):
        write_table(folder / f"{TEMPORARY_PREFIX}{name}", table)
        (folder / f"{TEMPORARY_PREFIX}{name}").replace(folder / name)
    write_record(folder / RECORD, record)


def write_passed_samples(store: Store, dst: Path, dataset: Dataset, decision: Decision, scores: FilterScores) -> None:
    """Write the store of samples that passed, in the order of ``store``, with unchanged media files."""
    score, p_values = scores.samples.score, decision.p_values(scores.samples.score)
    rejected = dict(zip(scores.names, decision.rejected(score).tolist(), strict=True))
    measured = {"PrivacyScore": score} | ({} if p_values is None else {"PrivacyP": p_values})
    columns = {name: {key: round(float(x[i]), 6) for key, x in measured.items()} for i, name in enumerate(scores.names)}
    passed = {name: row for name, row in store.rows().items() if not rejected[name]}
    with StoreWriter(dst, dataset) as writer:
        if writer.complete:
            return
        for name, row in passed.items():
            if name not in writer.done:
                writer.copy(store.path(name), {**row, **columns[name]})
        writer.finish(list(passed), store.dataset.statistics)


def summary_lines(record: Mapping[str, Any]) -> dict[str, object]:
    """The decision, for the summary."""
    decision, tau = record["decision"], record["decision"]["tau"]
    lines: dict[str, object] = {
        "samples": f"{decision['drawn']} drawn, {decision['rejected']} rejected, {decision['kept']} kept",
        "compared with": f"{decision['references']} frames of {decision['training_patients']} training patients",
        "threshold": f"{tau:.4f}, set by {decision['decisive']}" if tau is not None else "none",
    }
    if cost := decision["cost"]:
        lines["new patients"] = f"{cost['rejected']} of {cost['patients']} rejected"
    for rows, note in ((decision["table"], ""), (decision["reported"], ", reported only")):
        for row in rows:
            passes = f"{row['passes']} of {row['controls']} pass, at most {100 * row['bound']:.3g} %"
            lines[f"copies: {row['transform']}"] = passes + note
    lines["statement"] = decision["statement"]
    return lines
