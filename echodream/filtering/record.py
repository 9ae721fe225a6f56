"""Records of a decision of the filter: private folder, store of the samples that passed, and summary."""

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from echodream.errors import UserError
from echodream.filtering.ledger import AttemptCounts
from echodream.filtering.scoring import FilterScores
from echodream.privacy import statements
from echodream.privacy.decision import Decision, disagreement, passing_copies
from echodream.privacy.rules import Calibrated, Rule
from echodream.runs.atomic_folder import read_record, write_record
from echodream.store import Dataset, Store, StoreWriter
from echodream.store.schema import FILE_COLUMN, partial_path, read_dataset, write_atomically
from echodream.store.table import write_table

RECORD, SCORES, EVIDENCE = "filter.json", "scores.csv", "evidence.csv"
"""Names of the files in the private folder of the filter."""
EARLIER = "earlier"
"""Name of the folder, in the private folder, with the files about earlier batches of samples."""


def count_decisions_without_ledger(previous: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> int:
    """Number of decisions of a study without a ledger: those in the record ``previous``, and the current decision.

    The number is 0 if ``previous`` is about other patients or networks, or has been counted in a ledger.
    """
    same_patients = previous is not None and all(previous.get(key) == settings[key] for key in ("real", "reid"))
    if previous is None or not same_patients or "evidence" in previous:
        return 0
    return int(previous.get("decision", {}).get("tries", 1)) + bool(_different_settings(previous, settings))


def completed_batch_folder(dst: Path, private: Path, settings: Mapping[str, Any]) -> Path | None:
    """The ``batch_folder`` of the samples if this folder and ``dst`` are complete, else None.

    Raises ``UserError`` if ``dst`` or ``private`` has other settings. The decision in ``private`` may be about other
    samples.
    """
    shared = read_dataset(dst).settings if dst.exists() else None
    if shared is not None and (different := _different_settings(shared, settings, with_source=True)):
        raise UserError(f"{dst} already exists, made with another {different[0]}: choose another dst=, or remove it")
    latest = _passed_record(private)
    if latest is not None and (different := _different_settings(latest, settings)):
        raise UserError(
            f"{private} already exists, made with another {different[0]}: choose another private=; ledger= counts the "
            "decisions in all folders, and further samples with the same settings need no new decision"
        )
    batch = None if shared is None else batch_folder(private, settings["source"])
    if batch is not None:
        shutil.rmtree(partial_path(dst), ignore_errors=True)
    return batch


def _different_settings(record: Mapping[str, Any], settings: Mapping[str, Any], with_source: bool = False) -> list[str]:
    """Names of ``settings`` whose values differ in ``record``; "source" (the samples) is ignored by default."""
    expected = json.loads(json.dumps(settings))
    return [name for name in expected if (name != "source" or with_source) and record.get(name) != expected[name]]


def _passed_record(folder: Path) -> dict[str, Any] | None:
    record = read_record(folder / RECORD)
    return record if record is not None and record.get("decision", {}).get("passed") else None


def batch_folder(private: Path, source: str) -> Path | None:
    """Folder of the decision about samples whose store has the checksum ``source``; None unless passed."""
    folders = (private, _folder_of_earlier_samples(private, source))
    return next((one for one in folders if (_passed_record(one) or {}).get("source") == source), None)


def _folder_of_earlier_samples(private: Path, source: str) -> Path:
    """Folder for the files about earlier samples whose store has the checksum ``source``."""
    return private / EARLIER / source[:16]


def public_decision(
    decision: Decision,
    scores: FilterScores,
    rule: Rule,
    attempts: AttemptCounts,
    generator_known: bool,
    untested_controls: Sequence[str] | None = None,
    other_splits: Sequence[str] = (),
) -> dict[str, Any]:
    """The part of the decision that may be shared, without names and paths.

    Thresholds are scores of patients who are not named. ``generator_known``: whether the training patients of the
    generator were checked. For samples of an unknown generator, ``untested_controls`` lists the controls that need a
    generator, and ``other_splits`` the further splits with which the samples were compared.
    """
    record = decision.as_dict()
    is_rejected = decision.rejected(scores.samples.score)
    rejected, unknown = int(is_rejected.sum()), list[str]()
    if untested_controls is not None:
        nearest = scores.samples.score if scores.to_training is None else scores.to_training
        by_others = int((is_rejected & ~decision.rejected(nearest)).sum())
        patients = scores.other_patients
        unknown = statements.unknown_generator(untested_controls, other_splits, patients, by_others)
        record |= {"unknown": unknown, "not_tested": [*untested_controls], "other_patients": patients}
        record["rejected_by_others"] = by_others
    kept, copies = len(scores.names) - rejected, None
    if decision.passed and isinstance(rule, Calibrated):
        copies = passing_copies(kept, rejected, rule.beta, rule.delta)
        sentences = [
            statements.compared_frames(scores.frames, scores.frames_per_sample),
            statements.copies_in_the_set(copies, rule.delta),
            "" if generator_known or unknown else statements.UNKNOWN_GENERATOR,
            statements.number_of_decisions(attempts.same_networks, attempts.other_networks, rule.delta),
        ]
        record["statement"] = " ".join([record["statement"], *filter(None, sentences)])
    record["statement"] = " ".join([record["statement"], *unknown])
    if decision.outliers and decision.passed and scores.ranks is not None:
        record["rejected_as_outliers"] = int((is_rejected & (scores.ranks.max(axis=0) < decision.tau)).sum())
    several = decision.passed and scores.ranks is not None and len(scores.ranks) > 1
    networks = asdict(disagreement(scores.ranks, decision.tau)) if several and scores.ranks is not None else None
    return {
        **record,
        "disagreement": networks,
        "drawn": len(scores.names),
        "rejected": rejected,
        "kept": kept,
        "copies": None if copies is None else asdict(copies),
        "frames": scores.frames,
        "frames_per_sample": scores.frames_per_sample,
        "references": scores.samples.references,
        "training_patients": scores.samples.patients,
        "copied_patients": scores.evidence.copied_patients,
        "tries": attempts.same_networks,
        "tries_with_other_networks": attempts.other_networks,
    }


def write_private_folder(
    folder: Path, scores: FilterScores, decision: Decision, record: Mapping[str, Any], files: Mapping[str, str]
) -> None:
    """Write the scores of samples, calibration patients and copies atomically, and the ``record`` last.

    ``files``: for samples of another program, the raw file of each sample, by FileName. The files about an earlier
    batch of samples are moved to the folder ``EARLIER``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    earlier = _passed_record(folder)
    if earlier is not None and earlier.get("source") != record["source"]:
        batch = _folder_of_earlier_samples(folder, str(earlier.get("source")))
        batch.mkdir(parents=True, exist_ok=True)
        for name in (SCORES, EVIDENCE, RECORD):
            if (folder / name).is_file():
                (folder / name).replace(batch / name)
    samples, rejected = scores.samples, decision.rejected(scores.samples.score)
    p_values = decision.p_values(samples.score)
    rows = [
        {
            "FileName": name,
            **({FILE_COLUMN: files[name]} if files else {}),
            "Score": float(samples.score[number]),
            **{f"Score_{network}": float(part[number]) for network, part in scores.by_network.items()},
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
        write_atomically(write_table, folder / name, table)
    write_record(folder / RECORD, record)


def add_memorization_result(
    folder: Path, result: Mapping[str, Any], evidence: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Add the ``result`` of ``memoriser=true`` and its ``evidence`` to the files in ``folder``; returns the record."""
    with (folder / EVIDENCE).open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if not row["Kind"].startswith("memoriser")]
    write_atomically(write_table, folder / EVIDENCE, [*rows, *evidence])
    record = {**(read_record(folder / RECORD) or {}), "memoriser": result}
    write_record(folder / RECORD, record)
    return record


def write_passed_samples(store: Store, dst: Path, dataset: Dataset, decision: Decision, scores: FilterScores) -> None:
    """Write the samples that passed to the store ``dst``, in the order of ``store``, with unchanged media files."""
    score, p_values = scores.samples.score, decision.p_values(scores.samples.score)
    rejected = dict(zip(scores.names, decision.rejected(score).tolist(), strict=True))
    measured = {"PrivacyScore": score} | ({} if p_values is None else {"PrivacyP": p_values})
    columns = {name: {key: round(float(x[i]), 6) for key, x in measured.items()} for i, name in enumerate(scores.names)}
    passed = {name: row for name, row in store.rows().items() if not rejected[name]}
    for row in passed.values():
        row.pop(FILE_COLUMN, None)  # file names of another program may contain patient names
    with StoreWriter(dst, dataset) as writer:
        if writer.complete:
            return
        for name, row in passed.items():
            if name not in writer.done:
                writer.copy(store.path(name), {**row, **columns[name]})
        writer.finish(list(passed), store.dataset.statistics)


def summary_lines(record: Mapping[str, Any]) -> dict[str, object]:
    """Lines of the command-line summary about the decision in ``record``."""
    decision, tau = record["decision"], record["decision"]["tau"]
    scale = " on the scale of ranks" if decision.get("networks", 1) > 1 else ""
    lines: dict[str, object] = {
        "samples": f"{decision['drawn']} drawn, {decision['rejected']} rejected, {decision['kept']} kept",
        "compared with": f"{decision['references']} frames of {decision['training_patients']} training patients",
        "threshold": f"{tau:.4f}{scale}, set by {decision['decisive']}" if tau is not None else "none",
    }
    if cost := decision["cost"]:
        lines["new patients"] = f"{cost['rejected']} of {cost['patients']} rejected"
    for rows, note in ((decision["table"], ""), (decision["reported"], ", reported only")):
        for row in rows:
            passes = f"{row['passes']} of {row['controls']} pass, at most {100 * row['bound']:.3g} %"
            lines[f"copies: {row['transform']}"] = passes + note
    for row in (record.get("memoriser") or {}).get("table", []):
        lines[row["transform"]] = f"{row['passes']} of {row['controls']} pass, at most {100 * row['bound']:.3g} %"
    if copies := decision.get("copies"):
        lines["copies in the set"] = f"at most {copies['expected']:.2g} expected; bound {copies['bound']}"
    if decision.get("unknown"):
        patients = f"{decision['other_patients']} other patients of the study"
        lines["generator"] = f"unknown; {decision['rejected_by_others']} rejected for similarity to {patients} only"
    if (outliers := decision.get("rejected_as_outliers")) is not None:
        lines["outliers"] = f"{outliers} rejected by the outlier test only"
    if networks := decision.get("disagreement"):
        by_all = f"{networks['by_all']} are rejected by all networks"
        lines["networks disagree"] = f"on {networks['by_some']} of {networks['samples']} samples; {by_all}"
    lines["statement"] = decision["statement"]
    return lines
