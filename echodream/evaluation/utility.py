"""Utility of synthetic videos: classifiers trained on real or synthetic videos or both, tested on real patients."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import softmax

from echodream.errors import UserError
from echodream.evaluation.classifier_inference import LoadedClassifier
from echodream.metrics.bootstrap import bootstrap_interval, bootstrap_weights, paired_ratio
from echodream.metrics.classification import binary_metrics, binary_patients
from echodream.metrics.regression import regression_metrics

TRAINING_SETS = ("real", "synthetic", "both")
"""Training sets of classifiers: real recordings, synthetic recordings, or both."""
RATIO_METRICS = ("auc", "average_precision", "sensitivity", "specificity", "balanced_accuracy", "f1", "r2")
"""Metrics that are also divided by the metric of the classifier trained on real recordings; higher is better."""
SUMMARY_METRICS = ("auc", "average_precision", "balanced_accuracy", "r2", "mae")


@dataclass(frozen=True)
class Task:
    """Class ``positive`` against ``negative`` (None: all other classes), or regression of the column ``name``."""

    name: str
    positive: str | None = None
    """Name of the positive class; None for regression."""
    negative: str | None = None


@dataclass(frozen=True)
class ClassifierOutputs:
    """Outputs of a classifier for the TEST recordings."""

    classifier: LoadedClassifier
    table: pd.DataFrame
    """Rows of the N TEST recordings in FileList.csv."""
    outputs: np.ndarray
    """Logits, (N, K), or predicted values, (N, 1)."""

    def supports(self, task: Task) -> bool:
        """Whether the classifier predicts the classes or the column of ``task``."""
        metadata = self.classifier.metadata
        if task.positive is None:
            return metadata.get("column") == task.name and task.name in self.table
        if task.negative is not None:
            return {task.positive, task.negative} <= set(metadata["class_names"])
        present = set(self.table["class_id"].dropna().astype(int))
        return task.positive in metadata["class_names"] and set(metadata["class_ids"]) >= present

    def truth(self, task: Task) -> tuple[np.ndarray, np.ndarray]:
        """Mask of the task's rows, bool (N,), and ground truth, (N,): value, or whether the class is ``positive``."""
        if task.positive is None:
            values = self.table[task.name].to_numpy(np.float64)
            return np.isfinite(values), values
        metadata = self.classifier.metadata
        ids = dict(zip(metadata["class_names"], metadata["class_ids"], strict=True))
        class_id = self.table["class_id"].to_numpy(np.float64)
        positive = class_id == ids[task.positive]
        if task.negative is None:
            return np.isfinite(class_id), positive
        return positive | (class_id == ids[task.negative]), positive

    def predictions(self, task: Task) -> np.ndarray:
        """Predicted values, or probabilities of ``positive``, (N,); renormalized for a pair of classes."""
        if task.positive is None:
            return self.outputs[:, 0]
        names = self.classifier.metadata["class_names"]
        k = names.index(task.positive)
        others = [names.index(task.negative)] if task.negative is not None else [*range(len(names))]
        classes = sorted({k, *others})
        return np.asarray(softmax(self.outputs[:, classes], axis=1)[:, classes.index(k)])


def select_tasks(tasks: Sequence[Any] | None, outputs: Sequence[ClassifierOutputs]) -> list[Task]:
    """The tasks that ``tasks`` gives as names or pairs of names. Raises ``UserError`` for an unknown name.

    If ``tasks`` is None: each class X against Non-X, or each class if there is no Non-X; and each regression.
    """
    metadata_list = [each.classifier.metadata for each in outputs]
    columns = list(dict.fromkeys(metadata["column"] for metadata in metadata_list if metadata["task"] == "regression"))
    names = list(dict.fromkeys(name for metadata in metadata_list for name in metadata["class_names"]))
    if tasks is None:
        pairs = [Task(name, name, f"Non-{name}") for name in names if f"Non-{name}" in names]
        single = [] if pairs else [Task(name, name) for name in (names[:1] if len(names) == 2 else names)]
        return [*pairs, *single, *map(Task, columns)]
    return [_parse_task(task, names, columns) for task in ([tasks] if isinstance(tasks, str) else tasks)]


def _parse_task(task: Any, names: Sequence[str], columns: Sequence[str]) -> Task:
    pair = [str(task)] if isinstance(task, str | int) else [str(name) for name in task]
    if len(pair) == 1 and pair[0] in columns:
        return Task(pair[0])
    if not 1 <= len(pair) <= 2 or any(name not in names for name in pair):
        raise UserError(f"tasks has {task}: give a name, or a pair of names, of {', '.join([*names, *columns])}")
    if len(pair) == 2:
        return Task(f"{pair[0]} against {pair[1]}", *pair)
    negative = f"Non-{pair[0]}"
    return Task(pair[0], pair[0], negative if negative in names else None)


def utility_metrics(task: Task, outputs: Mapping[str, ClassifierOutputs], repeats: int, seed: int) -> dict[str, Any]:
    """Metrics of each training set, and ratios to the training set "real", with paired bootstrap intervals."""
    first = next(iter(outputs.values()))
    rows, truth = first.truth(task)
    patients = first.table["PatientID"].astype(str).to_numpy()[rows]
    if task.positive is not None and not 0 < truth[rows].sum() < rows.sum():
        raise UserError(f"{task.name}: all TEST patients have the same class: choose other tasks=")
    weights = bootstrap_weights(patients, repeats, seed)
    function = regression_metrics if task.positive is None else binary_metrics
    metrics = {
        role: function(each.predictions(task)[rows], each.truth(task)[1][rows], weights)
        for role, each in outputs.items()
    }
    counts = {} if task.positive is None else binary_patients(truth[rows], patients)
    entry: dict[str, Any] = {
        role: {name: asdict(bootstrap_interval(values, patients=counts.get(name))) for name, values in named.items()}
        for role, named in metrics.items()
    }
    if "real" in metrics:
        entry["ratio"] = {
            role: {
                name: asdict(bootstrap_interval(paired_ratio(values, metrics["real"][name])))
                for name, values in named.items()
                if name in RATIO_METRICS
            }
            for role, named in metrics.items()
            if role != "real"
        }
    entry["test"] = {"recordings": int(rows.sum()), "patients": len(set(patients.tolist()))}
    if task.positive is not None:
        entry["test"]["positive"] = int(truth[rows].sum())
    entry["note"] = _limitations(entry, outputs)
    return entry


def _limitations(entry: Mapping[str, Any], outputs: Mapping[str, ClassifierOutputs]) -> str:
    """Sentences about the limits of the metrics."""
    notes = []
    perfect = [role for role in outputs if (entry[role].get("auc") or {}).get("value") == 1]
    if perfect:
        notes.append(
            f"Trained on {' or '.join(perfect)}, the classifier ranks all {entry['test']['patients']} patients "
            "correctly: the AUC has an exact (Clopper-Pearson) interval."
        )
    for role, each in outputs.items():
        if (labels := each.classifier.metadata.get("synthetic_labels", "asked")) != "asked":
            notes.append(f"Classes of synthetic videos in the set {role} are predictions of the classifier {labels}.")
    return " ".join(notes)


def summary_lines(task_results: Mapping[str, Any]) -> dict[str, str]:
    """A line for each task, training set and metric of ``SUMMARY_METRICS``."""
    lines = {}
    for task, entry in task_results.items():
        lines[task] = f"{entry['test']['recordings']} recordings of {entry['test']['patients']} TEST patients"
        roles = [role for role in TRAINING_SETS if role in entry]
        for name in (name for name in SUMMARY_METRICS if name in entry[roles[0]]):
            for role in roles:
                ratio = entry.get("ratio", {}).get(role, {}).get(name)
                times = f"  {_interval_text(ratio)} times real" if ratio and np.isfinite(ratio["value"]) else ""
                lines[f"{task} {name}, {role}"] = _interval_text(entry[role][name]) + times
        if entry["note"]:
            lines[f"{task} note"] = entry["note"]
    return lines


def _interval_text(interval: Mapping[str, float]) -> str:
    if not np.isfinite(interval["value"]):
        return "-"
    ends = f" ({interval['low']:.3f} to {interval['high']:.3f})" if np.isfinite(interval["low"]) else ""
    return f"{interval['value']:.3f}{ends}"
