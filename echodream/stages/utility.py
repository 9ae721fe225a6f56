"""``stage=utility``: models trained on real videos, on synthetic ones, on both, tested on the same real patients."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from echodream import validation
from echodream.config.stage_signature import InputPath, OutputPath
from echodream.errors import UserError
from echodream.evaluation.classifier_inference import OpenClassifier, open_classifier, predict_split
from echodream.metrics.bootstrap import CONFIDENCE, bootstrap_interval, bootstrap_weights, paired_ratio
from echodream.metrics.classification import binary_metrics, binary_patients
from echodream.metrics.regression import regression_metrics
from echodream.runs.atomic_folder import write_record
from echodream.runs.summary import Summary
from echodream.store import Store

REPORT = "utility.json"
ROLES = ("real", "synthetic", "both")
COMPARED = ("auc", "average_precision", "sensitivity", "specificity", "balanced_accuracy", "f1", "r2")
"""Figures of which more is better: those that have a ratio."""
SHOWN = ("auc", "average_precision", "balanced_accuracy", "r2", "mae")


@dataclass(frozen=True)
class Question:
    """A class against ``negative``, or against all others if None; or the number in the column ``name``."""

    name: str
    positive: str | None = None
    negative: str | None = None


@dataclass(frozen=True)
class Side:
    """What the models of one role say of the test patients."""

    model: OpenClassifier
    table: pd.DataFrame
    out: np.ndarray
    """(N, K)."""


def utility(
    *,
    real: InputPath,
    artifacts: Mapping[str, InputPath | Sequence[InputPath]],
    tasks: Sequence[Any] | None,
    dst: OutputPath,
    repeats: int,
    seed: int,
    batch: int,
    command: str,
    code_version: str,
) -> Summary:
    """Test the ``artifacts`` by role, a folder or a list each, those that are there, on the TEST rows of ``real``.

    ``tasks`` are names of classes, or pairs of names; None: each class X beside Non-X, or each class where there are no
    such pairs, and the column of each regression. Writes ``dst``/utility.json: figures with intervals of ``repeats``
    bootstrap samples of patients, and their ratios to the real-trained. Raises ``UserError`` for fewer than two roles,
    and for a model that may have seen the test patients.
    """
    if tasks is not None and not tasks:
        raise UserError("tasks is empty: give names of classes, or null for all")
    validation.whole_number("repeats", repeats, 100)
    store = Store(real, kind="video")
    models = _opened(artifacts, store.checksum)
    sides = {role: [Side(m, *predict_split(m, store, "TEST", batch)) for m in of] for role, of in models.items()}
    judged = {}
    for question in _questions(tasks, sides, store):
        chosen = {role: side for role, of in sides.items() if (side := _able(question, of, store)) is not None}
        if len(chosen) > 1:
            judged[question.name] = _judged(question, chosen, repeats, seed)
    if not judged:
        raise UserError("the artifacts have no task in common: train them with the same task= and task.classes=")
    every = {role: [_told(side.model) for side in of] for role, of in sides.items()}
    protocol: dict[str, Any] = {"split": "TEST", "models": every}
    protocol |= {
        "real": store.checksum,
        "interval": f"{CONFIDENCE:.0%}, {repeats} bootstrap samples of patients",
        "seed": seed,
    }
    test = next(iter(sides.values()))[0].table
    sizes: dict[str, Any] = {"test": {"recordings": len(test), "patients": test["PatientID"].nunique()}}
    sizes["trained"] = {role: of[0].model.facts.get("trained") for role, of in sides.items()}
    record = {"tasks": judged, "sizes": sizes, "protocol": protocol, "command": command, "code_version": code_version}
    Path(dst).mkdir(parents=True, exist_ok=True)
    write_record(Path(dst) / REPORT, record)
    return Summary(f"utility: {dst}/{REPORT} done", _table(judged, _absent(artifacts, models)), files=(REPORT,))


def _folders(given: Any) -> list[str]:
    return [] if given is None else [str(given)] if isinstance(given, str | Path) else [str(one) for one in given]


def _opened(artifacts: Mapping[str, Any], source: str) -> dict[str, list[OpenClassifier]]:
    """The models that are there, by role, checked: of what they were trained on, and on whom."""
    if unknown := sorted(set(artifacts) - set(ROLES)):
        raise UserError(f"artifacts.{unknown[0]} is not known: give {', '.join(ROLES)}")
    found = {
        role: [open_classifier(folder) for folder in _folders(artifacts.get(role)) if Path(folder).is_dir()]
        for role in ROLES
    }
    found = {role: models for role, models in found.items() if models}
    if len(found) < 2:
        have = ", ".join(found) or "none"
        raise UserError(
            f"artifacts= needs classifiers of two of {', '.join(ROLES)}, and has {have}: train them with "
            "train.py model=classifier train_on=..."
        )
    for role, models in found.items():
        for model in models:
            if (trained := model.facts.get("train_on", "real")) != role:
                raise UserError(f"artifacts.{role}: {model.folder} was trained on {trained}: give another folder")
            if model.artifact.source != source or model.facts.get("fold") is not None:
                what = "one fold" if model.facts.get("fold") is not None else "another version"
                raise UserError(
                    f"artifacts.{role}: {model.folder} was trained on {what} of this study, so it may have seen the "
                    "TEST patients of real=: train one with src= the same store and without folds="
                )
    return found


def _absent(artifacts: Mapping[str, Any], models: Mapping[str, Any]) -> list[str]:
    return [role for role in ROLES if role not in models and artifacts.get(role) is not None]


def _questions(tasks: Sequence[Any] | None, sides: Mapping[str, list[Side]], store: Store) -> list[Question]:
    """What the models are asked, in the order of the classes. Raises ``UserError`` for a class that is not there."""
    every = [side.model.facts for of in sides.values() for side in of]
    columns = list(dict.fromkeys(facts["column"] for facts in every if facts["task"] == "regression"))
    names = list(dict.fromkeys(name for facts in every for name in facts["class_names"]))
    if tasks is None:
        pairs = [Question(name, name, f"Non-{name}") for name in names if f"Non-{name}" in names]
        rest = [] if pairs else [Question(name, name) for name in (names[:1] if len(names) == 2 else names)]
        return [*pairs, *rest, *map(Question, columns)]
    return [_asked(task, names, columns) for task in ([tasks] if isinstance(tasks, str) else tasks)]


def _asked(task: Any, names: Sequence[str], columns: Sequence[str]) -> Question:
    pair = [str(task)] if isinstance(task, str | int) else [str(name) for name in task]
    if len(pair) == 1 and pair[0] in columns:
        return Question(pair[0])
    if not 1 <= len(pair) <= 2 or any(name not in names for name in pair):
        raise UserError(f"tasks has {task}: give a name, or a pair of names, of {', '.join([*names, *columns])}")
    if len(pair) == 2:
        return Question(f"{pair[0]} against {pair[1]}", *pair)
    other = f"Non-{pair[0]}"
    return Question(pair[0], pair[0], other if other in names else None)


def _able(question: Question, sides: Sequence[Side], store: Store) -> Side | None:
    """The first of ``sides`` whose model can answer."""
    for side in sides:
        facts = side.model.facts
        if question.positive is None:
            if facts.get("column") == question.name and question.name in store.table:
                return side
        elif question.negative is not None:
            if {question.positive, question.negative} <= set(facts["class_names"]):
                return side
        elif question.positive in facts["class_names"] and _ids(side) >= set(
            side.table["class_id"].dropna().astype(int)
        ):
            return side
    return None


def _ids(side: Side) -> set[int]:
    return set(side.model.facts["class_ids"])


def _truth(question: Question, side: Side) -> tuple[np.ndarray, np.ndarray]:
    """Which rows count, bool (N,), and what is true of each: a number, or whether it is of the class."""
    if question.positive is None:
        values = side.table[question.name].to_numpy(np.float64)
        return np.isfinite(values), values
    facts = side.model.facts
    number = dict(zip(facts["class_names"], facts["class_ids"], strict=True))
    given = side.table["class_id"].to_numpy(np.float64)
    positive = given == number[question.positive]
    if question.negative is None:
        return np.isfinite(given), positive
    return positive | (given == number[question.negative]), positive


def _said(question: Question, side: Side) -> np.ndarray:
    """What the model says, (N,): a number, or a probability, of a pair given that it is one of the two."""
    if question.positive is None:
        return side.out[:, 0]
    names = side.model.facts["class_names"]
    k = names.index(question.positive)
    others = [names.index(question.negative)] if question.negative is not None else [*range(len(names))]
    logits = side.out[:, sorted({k, *others})]
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.exp(side.out[:, k] - logits.max(axis=1)) / shares.sum(axis=1)


def _judged(question: Question, sides: Mapping[str, Side], repeats: int, seed: int) -> dict[str, Any]:
    """Figures of each role with intervals, and their ratios, over the same bootstrap samples of patients."""
    first = next(iter(sides.values()))
    counts, truth = _truth(question, first)
    patients = first.table["PatientID"].astype(str).to_numpy()[counts]
    if question.positive is not None and not 0 < truth[counts].sum() < counts.sum():
        raise UserError(f"{question.name}: TEST has patients of one of the two classes only: choose tasks=")
    weights = bootstrap_weights(patients, repeats, seed)
    measure = regression_metrics if question.positive is None else binary_metrics
    found = {}
    for role, side in sides.items():
        found[role] = measure(_said(question, side)[counts], _truth(question, side)[1][counts], weights)
    of = {} if question.positive is None else binary_patients(truth[counts], patients)
    entry: dict[str, Any] = {
        role: {name: _plain(value, of.get(name)) for name, value in values.items()} for role, values in found.items()
    }
    if "real" in found:
        entry["ratio"] = {
            role: {name: _plain(paired_ratio(values[name], found["real"][name])) for name in values if name in COMPARED}
            for role, values in found.items()
            if role != "real"
        }
    entry["test"] = {"recordings": int(counts.sum()), "patients": len(set(patients.tolist()))}
    if question.positive is not None:
        entry["test"]["positive"] = int(truth[counts].sum())
    entry["note"] = _note(entry, sides)
    return entry


def _plain(values: np.ndarray, patients: int | None = None) -> dict[str, float | None]:
    """The interval for json, which has no NaN."""
    found: dict[str, float] = asdict(bootstrap_interval(values, patients=patients))
    return {name: value if np.isfinite(value) else None for name, value in found.items()}


def _note(entry: Mapping[str, Any], sides: Mapping[str, Side]) -> str:
    """What a reader must know of the figures."""
    notes = []
    perfect = [role for role in sides if (entry[role].get("auc") or {}).get("value") == 1]
    if perfect:
        notes.append(
            f"Trained on {' or '.join(perfect)}, no two of the {entry['test']['patients']} patients are in the wrong "
            "order: the interval of the AUC is then the exact one of so few."
        )
    for role, side in sides.items():
        if (labels := side.model.facts.get("synthetic_labels", "asked")) != "asked":
            notes.append(f"Classes of the synthetic videos of {role} were given by the classifier {labels}.")
    return " ".join(notes)


def _told(model: OpenClassifier) -> dict[str, Any]:
    """What the record says of a model."""
    kept = ["train_on", "trained", "ratio", "stores", "synthetic_labels", "class_names", "column"]
    kept += ["frames", "stride", "start"]
    facts = {name: model.facts[name] for name in kept if name in model.facts}
    return {"artifact": model.folder, "fingerprint": model.artifact.fingerprint, **facts}


def _table(judged: Mapping[str, Any], absent: Sequence[str]) -> dict[str, str]:
    """A line for each role and figure of each task."""
    lines = {}
    for task, entry in judged.items():
        lines[task] = f"{entry['test']['recordings']} recordings of {entry['test']['patients']} TEST patients"
        roles = [role for role in ROLES if role in entry]
        for name in (name for name in SHOWN if name in entry[roles[0]]):
            for role in roles:
                times = entry.get("ratio", {}).get(role, {}).get(name)
                more = f"  {_text(times)} times real" if times and times["value"] is not None else ""
                lines[f"{task} {name}, {role}"] = _text(entry[role][name]) + more
        if entry["note"]:
            lines[f"{task} note"] = entry["note"]
    if absent:
        lines["not there"] = ", ".join(absent)
    return lines


def _text(found: Mapping[str, float | None]) -> str:
    if found["value"] is None:
        return "-"
    ends = "" if found["low"] is None else f" ({found['low']:.3f} to {found['high']:.3f})"
    return f"{found['value']:.3f}{ends}"
