"""``stage=utility``: test classifiers trained on real videos, synthetic videos or both on the same real patients."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from echodream import validation
from echodream.config.stage_signature import InputPath, OutputPath
from echodream.errors import UserError
from echodream.evaluation.classifier_inference import LoadedClassifier, open_classifier, predict_split
from echodream.evaluation.further_patients import open_test_store
from echodream.evaluation.utility import TRAINING_SETS, ClassifierOutputs, select_tasks, summary_lines, utility_metrics
from echodream.metrics.bootstrap import CONFIDENCE
from echodream.runs.atomic_folder import write_record
from echodream.runs.summary import Summary
from echodream.store import Store

RECORD = "utility.json"
_RECORDED_KEYS = ["train_on", "trained", "ratio", "stores", "synthetic_labels", "class_names", "column"]
_RECORDED_KEYS += ["frames", "stride", "start"]


def utility(
    *,
    real: InputPath,
    further: InputPath | None,
    artifacts: Mapping[str, InputPath | Sequence[InputPath]],
    tasks: Sequence[Any] | None,
    dst: OutputPath,
    repeats: int,
    seed: int,
    batch: int,
    command: str,
    code_version: str,
) -> Summary:
    """Test the classifiers ``artifacts``, a folder or list of folders per training set, on the TEST rows of ``real``.

    ``further`` is a store of further test patients, which replace those of ``real`` (``open_test_store``). Folders that
    do not exist are ignored. ``tasks``: names of classes or pairs of names; None: each class X against Non-X, or each
    class without such pairs, and each regression. Writes utility.json to ``dst``: metrics with intervals from
    ``repeats`` bootstrap samples of patients, and ratios to the metrics of the classifier that was trained on real
    videos. Raises ``UserError`` for fewer than two training sets, and if TEST patients may be in the training set.
    """
    if tasks is not None and not tasks:
        raise UserError("tasks is empty: give names of classes, or null for all tasks")
    validation.whole_number("repeats", repeats, 100)
    store = Store(real, kind="video")
    classifiers, test_store = _open_classifiers(artifacts, store.checksum), open_test_store(store, further)
    predictions = {
        role: [ClassifierOutputs(each, *predict_split(each, test_store, "TEST", batch)) for each in loaded]
        for role, loaded in classifiers.items()
    }
    task_results = {}
    for task in select_tasks(tasks, [each for of_role in predictions.values() for each in of_role]):
        supporting = {role: [each for each in of_role if each.supports(task)] for role, of_role in predictions.items()}
        first = {role: each[0] for role, each in supporting.items() if each}
        if len(first) > 1:
            task_results[task.name] = utility_metrics(task, first, repeats, seed)
    if not task_results:
        raise UserError("the artifacts have no task in common: train them with the same task= and task.classes=")
    test = next(iter(predictions.values()))[0].table
    record = {
        "tasks": task_results,
        "sizes": {
            "test": {"recordings": len(test), "patients": test["PatientID"].nunique()},
            "trained": {role: loaded[0].metadata.get("trained") for role, loaded in classifiers.items()},
        },
        "protocol": {
            "split": "TEST",
            "models": {role: [_classifier_record(each) for each in loaded] for role, loaded in classifiers.items()},
            "real": store.checksum,
            "further": None if test_store is store else test_store.checksum,
            "interval": f"{CONFIDENCE:.0%}, {repeats} bootstrap samples of patients",
            "seed": seed,
        },
        "command": command,
        "code_version": code_version,
    }
    write_record(Path(dst) / RECORD, record)
    lines = summary_lines(task_results)
    absent = [role for role in TRAINING_SETS if role not in classifiers and artifacts.get(role) is not None]
    if further is not None and test_store is store:
        absent.append(f"further={further}")
    if absent:
        lines["missing"] = ", ".join(absent)
    return Summary(f"utility: {dst}/{RECORD} done", lines, files=(RECORD,))


def _open_classifiers(artifacts: Mapping[str, Any], source: str) -> dict[str, list[LoadedClassifier]]:
    """Open the existing classifiers by training set. Raises ``UserError`` for another training set or study."""
    if unknown := sorted(set(artifacts) - set(TRAINING_SETS)):
        raise UserError(f"artifacts.{unknown[0]} is not known: give {', '.join(TRAINING_SETS)}")
    by_role = {}
    for role in TRAINING_SETS:
        paths = [path for path in validation.path_list(artifacts.get(role)) if Path(path).is_dir()]
        if paths:
            by_role[role] = [open_classifier(path) for path in paths]
    if len(by_role) < 2:
        raise UserError(
            f"artifacts= has classifiers trained on {', '.join(by_role) or 'nothing'}, but needs at least two of "
            f"{', '.join(TRAINING_SETS)}: train more classifiers with train.py model=classifier train_on=..."
        )
    for role, loaded in by_role.items():
        for classifier in loaded:
            if (trained := classifier.metadata.get("train_on", "real")) != role:
                raise UserError(f"artifacts.{role}: {classifier.folder} was trained on {trained}: give another folder")
            is_fold = classifier.metadata.get("fold") is not None
            if is_fold or classifier.artifact.source != source:
                part = "one fold" if is_fold else "another version"
                raise UserError(
                    f"artifacts.{role}: {classifier.folder} was trained on {part} of this study, maybe with TEST "
                    "patients of real=: train a classifier with src= the same store and without folds="
                )
    return by_role


def _classifier_record(classifier: LoadedClassifier) -> dict[str, Any]:
    metadata = {name: classifier.metadata[name] for name in _RECORDED_KEYS if name in classifier.metadata}
    return {"artifact": classifier.folder, "fingerprint": classifier.artifact.fingerprint, **metadata}
