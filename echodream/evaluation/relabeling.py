"""Labels of recordings from one or several classifiers."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import softmax

from echodream.errors import UserError
from echodream.evaluation.classifier_inference import LoadedClassifier, predict_split
from echodream.store import Store
from echodream.store.schema import SPLITS

CONFIDENCE_COLUMN = "Confidence"
"""Name of the column with the probability of the predicted class."""


@dataclass(frozen=True)
class ClassProbabilities:
    """Probabilities of one set of classes for N recordings."""

    ids: list[int]
    names: list[str]
    probabilities: np.ndarray
    """Class probabilities, (N, K), averaged over the classifiers that predict these K classes."""


def check_classes(store: Store, classifiers: Sequence[LoadedClassifier]) -> None:
    """Raise ``UserError`` if classifiers name a class differently, or if a class of ``store`` is in no classifier."""
    known: dict[int, str] = {}
    for each in classifiers:
        for number, name in zip(each.metadata["class_ids"], each.metadata["class_names"], strict=True):
            if known.setdefault(int(number), name) != name:
                names = f"{number} is {name} in {each.folder} and {known[number]} in another classifier"
                raise UserError(f"class {names}: train both with the same class names")
    if "class_id" not in store.table or not known:
        return
    if unknown := sorted(set(store.table["class_id"].dropna().astype(int)) - set(known)):
        raise UserError(
            f"src={store.root} has class_id {unknown[0]}, which is not in the classes of the artifacts, "
            f"{sorted(known)}: add a classifier with this class"
        )


def predicted_columns(store: Store, classifiers: Sequence[LoadedClassifier], batch: int) -> dict[str, dict[str, Any]]:
    """New columns of each recording, by FileName: class, confidence, all probabilities, and regressed values."""
    outputs = [_predict_store(each, store, batch) for each in classifiers]
    names = outputs[0].index.tolist()
    columns: dict[str, dict[str, Any]] = {name: {} for name in names}
    if predictions := _average_classifiers_with_equal_classes(classifiers, outputs):
        titles = _column_titles(predictions)
        for row, (index, k, p) in enumerate(zip(*most_probable_classes(predictions), strict=True)):
            chosen, cells = predictions[index], columns[names[row]]
            cells |= {"class_id": chosen.ids[k], "class_name": chosen.names[k], CONFIDENCE_COLUMN: round(float(p), 6)}
            probabilities = np.concatenate([each.probabilities[row] for each in predictions])
            cells |= {title: round(float(value), 6) for title, value in zip(titles, probabilities, strict=True)}
    for each, output in zip(classifiers, outputs, strict=True):
        if each.metadata["task"] == "regression":
            for name, value in zip(names, output.to_numpy()[:, 0], strict=True):
                columns[name][each.metadata["column"]] = round(float(value), 4)
    return columns


def most_probable_classes(predictions: Sequence[ClassProbabilities]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Most probable class of each recording: index of its set, index in the set, probability; (N,) each."""
    highest = np.stack([each.probabilities.max(axis=1) for each in predictions])
    index = highest.argmax(axis=0)
    classes = np.stack([each.probabilities.argmax(axis=1) for each in predictions])
    rows = np.arange(highest.shape[1])
    return index, classes[index, rows], highest[index, rows]


def _predict_store(classifier: LoadedClassifier, store: Store, batch: int) -> pd.DataFrame:
    """Outputs for all recordings, in the order of the store, indexed by FileName."""
    tables = []
    for split in [split for split in SPLITS if (store.table["Split"] == split).any()]:
        rows, outputs = predict_split(classifier, store, split, batch)
        tables.append(pd.DataFrame(outputs, index=rows["FileName"]))
    return pd.concat(tables).loc[store.table["FileName"]]


def _average_classifiers_with_equal_classes(
    classifiers: Sequence[LoadedClassifier], outputs: Sequence[pd.DataFrame]
) -> list[ClassProbabilities]:
    """Mean probabilities over the classifiers with the same classes, for each set of classes."""
    probabilities: dict[tuple[int, ...], list[np.ndarray]] = {}
    names: dict[tuple[int, ...], list[str]] = {}
    for each, output in zip(classifiers, outputs, strict=True):
        if each.metadata["task"] == "regression":
            continue
        ids = tuple(map(int, each.metadata["class_ids"]))
        probabilities.setdefault(ids, []).append(softmax(output.to_numpy(), axis=1))
        names[ids] = list(each.metadata["class_names"])
    return [ClassProbabilities([*ids], names[ids], np.mean(each, axis=0)) for ids, each in probabilities.items()]


def _column_titles(predictions: Sequence[ClassProbabilities]) -> list[str]:
    """A column name for each probability, such as P_Non_ASD, or P2_ASD if a second set of classes has ASD too.

    Names that are equal after characters are replaced by _ end with the class number, such as P1_Gr__e_4.
    """
    titles: list[str] = []
    for number, each in enumerate(predictions, start=1):
        for name, class_id in zip(each.names, each.ids, strict=True):
            letters = re.sub(r"\W", "_", name, flags=re.ASCII)[:50]
            options = (f"P_{letters}", f"P{number}_{letters}", f"P{number}_{letters}_{class_id}")
            titles.append(next(title for title in options if title not in titles))
    return titles
