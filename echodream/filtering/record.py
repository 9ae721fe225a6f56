"""A filter's decision as it is written to its private folder, counted there, and told."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from echodream.filtering.scoring import Scored
from echodream.privacy.certification import certify, split
from echodream.privacy.decision import Decision
from echodream.privacy.rules import Calibrated, Rule
from echodream.privacy.statements import percent
from echodream.runs.atomic_folder import FRESH, write_record
from echodream.store.table import write_table

RECORD, SCORES, EVIDENCE = "filter.json", "scores.csv", "evidence.csv"
"""Of the private folder."""


def tries(before: Mapping[str, Any] | None, asked: Mapping[str, Any]) -> int:
    """How many settings were tried with this folder: the confidence of a bound is that of the first."""
    if before is None:
        return 1
    same = all(before.get(name) == value for name, value in json.loads(json.dumps(asked)).items())
    return int(before.get("decision", {}).get("tries", 1)) + (0 if same else 1)


def decided(decision: Decision, scored: Scored, rule: Rule, number: int) -> dict[str, Any]:
    """All that may be shared of a decision: no name, no path. A threshold is a score of somebody who is not named."""
    facts = decision.as_dict()
    if decision.passed and isinstance(rule, Calibrated):
        facts["statement"] += (
            " This is the first decision that was written to its private folder; decisions in other folders are not "
            "counted."
            if number == 1
            else f" This was decision number {number} of those written to its private folder, with other settings than "
            "before, on the same patients: the confidence of all of them together is "
            f"{percent(max(0.0, 1 - number * rule.delta))}. Decisions in other folders are not counted."
        )
    rejected = int(decision.rejected(scored.samples.score).sum())
    reported = []
    if decision.table and scored.reported:
        chooses = (
            split(scored.evidence.controls, rule.choose, rule.seed)[0] if isinstance(rule, Calibrated) else frozenset()
        )
        everyone = frozenset(name for part in scored.reported.values() for name in part.patients.tolist())
        reported = [
            asdict(row)
            for row in certify(
                scored.reported,
                decision.tau,
                decision.settings["delta"],
                chooses,
                everyone - chooses,
                decision.between,
            )
        ]
    return {
        **facts,
        "reported": reported,
        "drawn": len(scored.names),
        "rejected": rejected,
        "kept": len(scored.names) - rejected,
        "frames": scored.frames,
        "references": scored.samples.references,
        "training_patients": scored.samples.patients,
    }


def write_private(
    folder: Path,
    scored: Scored,
    decision: Decision,
    record: Mapping[str, Any],
    command: str,
    code_version: str,
) -> None:
    """Scores of all samples, of new patients and of copies; each file whole or not at all, the record last."""
    folder.mkdir(parents=True, exist_ok=True)
    found, rejected = scored.samples, decision.rejected(scored.samples.score)
    p = decision.p_values(found.score)
    rows = [
        {
            "FileName": name,
            "Score": float(found.score[number]),
            "PValue": None if p is None else float(p[number]),
            "Kept": str(not rejected[number]).lower(),
            "NearestPatient": str(found.patient[number]),
            "NearestRecording": str(found.recording[number]),
            "NearestFrame": int(found.place[number]),
        }
        for number, name in enumerate(scored.names)
    ]
    sides = {"calibration": scored.evidence.calibration, **scored.evidence.controls, **scored.reported}
    evidence = [
        {"Kind": kind, "PatientID": patient, "Score": value}
        for kind, part in sides.items()
        if part is not None
        for patient, value in zip(part.patients.tolist(), part.values.tolist(), strict=True)
    ]
    for name, table in ((SCORES, rows), (EVIDENCE, evidence)):
        fresh = folder / f"{FRESH}{name}"
        write_table(fresh, table)
        fresh.replace(folder / name)
    write_record(folder / RECORD, {**record, "command": command, "code_version": code_version})


def told(record: Mapping[str, Any]) -> dict[str, object]:
    """The decision on one screen."""
    made = record["decision"]
    facts: dict[str, object] = {
        "samples": f"{made['drawn']} drawn, {made['rejected']} rejected, {made['kept']} kept",
        "compared with": f"{made['references']} frames of {made['training_patients']} training patients",
        "threshold": f"{made['tau']:.4f}, set by {made['decisive']}" if made["tau"] is not None else "none",
    }
    if cost := made["cost"]:
        facts["new patients"] = f"{cost['rejected']} of {cost['patients']} rejected"
    for row, note in [*((row, "") for row in made["table"]), *((row, ", reported only") for row in made["reported"])]:
        passes = f"{row['passes']} of {row['controls']} pass, at most {100 * row['bound']:.3g} %"
        facts[f"copies: {row['transform']}"] = passes + note
    facts["statement"] = made["statement"]
    return facts
