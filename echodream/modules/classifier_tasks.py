"""What a network of clips is trained towards: classes, a number, labels. Loss, what is measured, what is told of it."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from echodream.datamodules.real_and_synthetic import RealAndSyntheticData
from echodream.datamodules.tasks import Classification, Labels
from echodream.errors import UserError
from echodream.metrics.classification import (
    confusion_matrix,
    decided,
    multiclass,
    multilabel,
    multilabel_units,
    roc,
    units,
)
from echodream.metrics.regression import regression
from echodream.networks.classifiers import Classifier
from echodream.plotting import plot_confusion_matrix, plot_predictions, plot_roc


class ClassifierTask(Protocol):
    """Of a network with ``outputs`` outputs, (B, outputs)."""

    outputs: int

    def target(self, batch: Any) -> Tensor:
        """What is true of each sample: (B,), or (B, outputs)."""

    def loss(self, out: Tensor, target: Tensor) -> Tensor:
        """What is made small in training."""

    def measure(self, out: np.ndarray, target: np.ndarray, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Figures of outputs (N, outputs) and truth (N, ...), each (R,) for weights (R, N)."""

    def units(self, target: np.ndarray, patients: np.ndarray) -> dict[str, int]:
        """How many patients a figure without error is of, by its name."""

    def finish(self, network: Classifier) -> None:
        """Change ``network`` so that it says what is meant."""

    def facts(self) -> dict[str, Any]:
        """What goes into config.json."""

    def pictures(self, out: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
        """Pictures by name, each uint8 (height, width, 3)."""


class ClassificationTask:
    """Cross-entropy of classes ``ids``, called ``names``, each counted by its ``weight``."""

    def __init__(self, ids: Sequence[int], names: Sequence[str], weight: Sequence[float]) -> None:
        self.ids, self.names, self.weight = [*ids], [*names], torch.tensor(weight, dtype=torch.float32)
        self.outputs = len(self.ids)
        self._order = np.argsort(self.ids)

    def target(self, batch: Any) -> Tensor:
        """The place of each sample's class_id among the classes: int64, (B,)."""
        given = torch.as_tensor(batch["columns"]["class_id"]).long()
        order = torch.from_numpy(self._order).to(given.device)
        known = torch.tensor(self.ids, device=given.device)[order]
        return order[torch.bucketize(given, known)]

    def loss(self, out: Tensor, target: Tensor) -> Tensor:
        """Weighted cross-entropy."""
        return functional.cross_entropy(out, target, self.weight.to(out.device))

    def measure(self, out: np.ndarray, target: np.ndarray, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """From probabilities; see ``metrics.classification.multiclass``."""
        return multiclass(_softmax(out), target, self.names, weights)

    def units(self, target: np.ndarray, patients: np.ndarray) -> dict[str, int]:
        """See ``metrics.classification.units``."""
        return units(target, self.names, patients)

    def finish(self, network: Classifier) -> None:
        """Nothing: logits are what is meant."""

    def facts(self) -> dict[str, Any]:
        """The classes, in the order of the logits."""
        return {"task": "classification", "class_ids": self.ids, "class_names": self.names}

    def pictures(self, out: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
        """The confusion matrix, and the ROC curve of each class against the rest."""
        table = confusion_matrix(out.argmax(axis=1), target, self.outputs)
        p, areas = _softmax(out), self.measure(out, target)
        shown = [k for k in range(self.outputs) if np.isfinite(areas[f"auc_{self.names[k]}"][0])]
        shown = shown[:1] if self.outputs == 2 else shown
        curves = {
            f"{self.names[k]}  AUC {areas[f'auc_{self.names[k]}'][0]:.3f}": roc(p[:, k], target == k) for k in shown
        }
        return {"confusion": plot_confusion_matrix(table, self.names), "roc": plot_roc(curves)}


class RegressionTask:
    """Squared error of the number in ``column``, brought to mean 0 and standard deviation 1 while it is learnt."""

    outputs = 1

    def __init__(self, column: str, mean: float, std: float) -> None:
        self.column, self.mean, self.std = column, mean, std

    def target(self, batch: Any) -> Tensor:
        """The number: float32, (B,)."""
        return torch.as_tensor(batch["columns"][self.column]).float()

    def loss(self, out: Tensor, target: Tensor) -> Tensor:
        """Mean squared error in units of the standard deviation."""
        return functional.mse_loss(out[:, 0], (target - self.mean) / self.std)

    def measure(self, out: np.ndarray, target: np.ndarray, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """R2, MAE and RMSE in the number's own unit."""
        return regression(out[:, 0] * self.std + self.mean, target, weights)

    def units(self, target: np.ndarray, patients: np.ndarray) -> dict[str, int]:
        """None: a squared error has no bound."""
        return {}

    def finish(self, network: Classifier) -> None:
        """Let the last layer answer in the number's own unit."""
        with torch.no_grad():
            network.head.weight.mul_(self.std)
            network.head.bias.mul_(self.std).add_(self.mean)

    def facts(self) -> dict[str, Any]:
        """The column."""
        return {"task": "regression", "column": self.column, "class_ids": [], "class_names": []}

    def pictures(self, out: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
        """What was said against what is true."""
        return {"predicted": plot_predictions(self.column, target, out[:, 0] * self.std + self.mean)}


class MultilabelTask:
    """Binary cross-entropy of each of the labels ``names``; where a label is NaN, not known, it does not count.

    A positive counts ``weight`` times as much as a negative, label by label. Loss: the mean over what is known.
    """

    def __init__(self, names: Sequence[str], weight: Sequence[float]) -> None:
        self.names, self.weight = [*names], torch.tensor(weight, dtype=torch.float32)
        self.outputs = len(self.names)

    def target(self, batch: Any) -> Tensor:
        """From 0 to 1, or NaN: float32, (B, K)."""
        return torch.stack([torch.as_tensor(batch["columns"][name]).float() for name in self.names], dim=1)

    def loss(self, out: Tensor, target: Tensor) -> Tensor:
        """Masked binary cross-entropy."""
        known = torch.isfinite(target)
        each = functional.binary_cross_entropy_with_logits(
            out, target.nan_to_num(), pos_weight=self.weight.to(out.device), reduction="none"
        )
        return (each * known).sum() / known.sum().clamp(min=1)

    def measure(self, out: np.ndarray, target: np.ndarray, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """From logits, which order images as probabilities do; see ``metrics.classification.multilabel``."""
        return multilabel(out, target, self.names, weights)

    def units(self, target: np.ndarray, patients: np.ndarray) -> dict[str, int]:
        """See ``metrics.classification.multilabel_units``."""
        return multilabel_units(target, self.names, patients)

    def finish(self, network: Classifier) -> None:
        """Nothing: logits are what is meant."""

    def facts(self) -> dict[str, Any]:
        """The labels, in the order of the logits."""
        return {"task": "labels", "labels": self.names, "class_ids": [], "class_names": []}

    def pictures(self, out: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
        """The ROC curve of each label of which there are both kinds."""
        areas, curves = self.measure(out, target), {}
        for k, name in enumerate(self.names):
            rows, positive = decided(target[:, k])
            if np.isfinite(area := areas[f"auc_{name}"][0]):
                curves[f"{name}  AUC {area:.3f}"] = roc(out[rows, k], positive)
        return {"roc": plot_roc(curves)}

    def counts(self, target: np.ndarray, patients: np.ndarray) -> dict[str, dict[str, int]]:
        """Of each label how many images say yes and how many no, and how many patients have one that does."""
        found = {}
        for k, name in enumerate(self.names):
            rows, positive = decided(target[:, k])
            of = {"positive": positive, "negative": ~positive}
            found[name] = {kind: int(part.sum()) for kind, part in of.items()}
            found[name] |= {f"patients_{kind}": len(np.unique(patients[rows][part])) for kind, part in of.items()}
        return found


def goal_of(data: RealAndSyntheticData, balanced: bool) -> ClassifierTask:
    """What ``data`` ask for. A class counts by the inverse of its frequency in training if ``balanced``.

    Raises ``UserError`` when there is nothing to tell apart in training.
    """
    task, train, root = data.task, data.trained(), data.store.root
    often = train["Weight"].to_numpy() if "Weight" in train else np.ones(len(train))
    if isinstance(task, Labels):
        return _shares(data, [*data.known.values()], balanced)
    if not isinstance(task, Classification):
        values = train[task.column].to_numpy(np.float64)
        mean = float(np.average(values, weights=often))
        std = float(np.sqrt(np.average((values - mean) ** 2, weights=often)))
        if not std > 0:
            raise UserError(
                f"{root}: {task.column} is the same for all that is trained on: nothing can be learnt of it"
            )
        return RegressionTask(task.column, mean, std)
    trained = set(train["class_id"].tolist())
    if len(trained) < 2:
        raise UserError(f"{root} has {len(trained)} class_id in split TRAIN: a classifier needs two or more")
    there = set(data.store.table.loc[data.store.table["Split"] != "TRAIN", "class_id"].tolist())
    if unseen := sorted((there | (set(data.known) if task.classes is not None else set())) - trained):
        raise UserError(f"{root} has class_id {unseen[0]}, of which no recording is in split TRAIN, or none synthetic")
    known = {number: name for number, name in data.known.items() if number in trained}
    counts = np.array([often[train["class_id"] == number].sum() for number in known])
    weight = counts.sum() / len(counts) / counts if balanced else np.ones(len(counts))
    return ClassificationTask([*known], [*known.values()], weight.tolist())


def _shares(data: RealAndSyntheticData, names: list[str], balanced: bool) -> MultilabelTask:
    """The labels ``names``; if ``balanced``, a positive counts as often as there are negatives for each in training."""
    given = data.trained()[names].to_numpy(np.float64)
    yes, no = np.nansum(given, axis=0), np.nansum(1 - given, axis=0)
    if alike := [name for name, *sums in zip(names, yes, no, strict=True) if not all(sums)]:
        others = ",".join(name for name in names if name not in alike)
        remedy = f"leave it out, as task.labels=[{others}]" if others else "choose other task.labels"
        raise UserError(
            f"{data.store.root}: {alike[0]} is the same for all that is trained on, so nothing can be learnt: {remedy}"
        )
    return MultilabelTask(names, (no / yes).tolist() if balanced else [1.0] * len(names))


def _softmax(out: np.ndarray) -> np.ndarray:
    return torch.from_numpy(out).double().softmax(dim=1).numpy()
