"""Tasks of a classifier (classes, regression, binary labels), each with its loss, metrics and plots."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from echodream.datamodules.real_and_synthetic import RealAndSyntheticData
from echodream.datamodules.tasks import Classification, Labels, Regression
from echodream.errors import UserError
from echodream.metrics import classification
from echodream.metrics.classification import known_labels, roc_curve
from echodream.metrics.regression import regression_metrics
from echodream.networks.classifiers import Classifier
from echodream.plotting import plot_confusion_matrix, plot_predictions, plot_roc


class ClassifierTask(ABC):
    """Base class of the tasks of a classifier."""

    output_count: int
    """Number of outputs K of the network."""

    @abstractmethod
    def target(self, batch: Any) -> Tensor:
        """Ground truth of a batch: (B,), or (B, K) for binary labels."""

    @abstractmethod
    def loss(self, out: Tensor, target: Tensor) -> Tensor:
        """Loss, scalar, of outputs (B, K) for targets (B,) or (B, K)."""

    @abstractmethod
    def metrics(self, out: np.ndarray, target: np.ndarray, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Metrics by name, each (R,), of outputs (N, K) and targets (N, ...), for R sets of sample weights (R, N)."""

    def patients_per_metric(self, target: np.ndarray, patients: np.ndarray) -> dict[str, int]:
        """Number of patients, by metric, for metrics that have an exact interval if there are no errors."""
        return {}

    def rescale_output(self, network: Classifier) -> None:
        """Rescale the last layer of ``network``, in place, so that outputs have the unit of the data."""
        return

    @abstractmethod
    def metadata(self) -> dict[str, Any]:
        """Entries of config.json that describe the task."""

    @abstractmethod
    def plots(self, out: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
        """Plots by name, each an RGB image, uint8 (height, width, 3)."""


class ClassificationTask(ClassifierTask):
    """Predict the class. ``ids``, ``names`` and ``weight`` are class_id, name and loss weight of each class."""

    def __init__(self, ids: Sequence[int], names: Sequence[str], weight: Sequence[float]) -> None:
        self.ids, self.names, self.weight = [*ids], [*names], torch.tensor(weight, dtype=torch.float32)
        self.output_count = len(self.ids)
        self._order = np.argsort(self.ids)

    def target(self, batch: Any) -> Tensor:
        """Position of each sample's class_id in ``ids``, int64 (B,)."""
        class_id = torch.as_tensor(batch["columns"]["class_id"]).long()
        order = torch.from_numpy(self._order).to(class_id.device)
        sorted_ids = torch.tensor(self.ids, device=class_id.device)[order]
        return order[torch.bucketize(class_id, sorted_ids)]

    def loss(self, out: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(out, target, self.weight.to(out.device))

    def metrics(self, out: np.ndarray, target: np.ndarray, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
        return classification.multiclass_metrics(_softmax(out), target, self.names, weights)

    def patients_per_metric(self, target: np.ndarray, patients: np.ndarray) -> dict[str, int]:
        return classification.multiclass_patients(target, self.names, patients)

    def metadata(self) -> dict[str, Any]:
        return {"task": "classification", "class_ids": self.ids, "class_names": self.names}

    def plots(self, out: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
        """Confusion matrix, and the one-vs-rest ROC curve of each class."""
        table = classification.confusion_matrix(out.argmax(axis=1), target, self.output_count)
        probabilities, metrics = _softmax(out), self.metrics(out, target)
        auc = {name: metrics[f"auc_{name}"][0] for name in self.names}
        defined = [(k, name) for k, name in enumerate(self.names) if np.isfinite(auc[name])]
        plotted = defined[:1] if self.output_count == 2 else defined  # the curves of two classes are equivalent
        curves = {f"{name}  AUC {auc[name]:.3f}": roc_curve(probabilities[:, k], target == k) for k, name in plotted}
        return {"confusion": plot_confusion_matrix(table, self.names), "roc": plot_roc(curves)}


class RegressionTask(ClassifierTask):
    """Predict the value of ``column``, standardized by ``mean`` and ``std`` in training."""

    output_count = 1

    def __init__(self, column: str, mean: float, std: float) -> None:
        self.column, self.mean, self.std = column, mean, std

    def target(self, batch: Any) -> Tensor:
        return torch.as_tensor(batch["columns"][self.column]).float()

    def loss(self, out: Tensor, target: Tensor) -> Tensor:
        return functional.mse_loss(out[:, 0], (target - self.mean) / self.std)

    def metrics(self, out: np.ndarray, target: np.ndarray, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """R2, MAE and RMSE, in the unit of ``column``."""
        return regression_metrics(out[:, 0] * self.std + self.mean, target, weights)

    def rescale_output(self, network: Classifier) -> None:
        with torch.no_grad():
            network.head.weight.mul_(self.std)
            network.head.bias.mul_(self.std).add_(self.mean)

    def metadata(self) -> dict[str, Any]:
        return {"task": "regression", "column": self.column, "class_ids": [], "class_names": []}

    def plots(self, out: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
        """Scatter plot of predicted against true values."""
        return {"predicted": plot_predictions(self.column, target, out[:, 0] * self.std + self.mean)}


class MultilabelTask(ClassifierTask):
    """Predict binary labels ``names``; NaN is unknown. ``weight`` is the loss weight of positives, by label."""

    def __init__(self, names: Sequence[str], weight: Sequence[float]) -> None:
        self.names, self.weight = [*names], torch.tensor(weight, dtype=torch.float32)
        self.output_count = len(self.names)

    def target(self, batch: Any) -> Tensor:
        """Labels from 0 to 1, or NaN if unknown: float32, (B, K)."""
        return torch.stack([torch.as_tensor(batch["columns"][name]).float() for name in self.names], dim=1)

    def loss(self, out: Tensor, target: Tensor) -> Tensor:
        """Mean binary cross-entropy over the known labels, scalar."""
        known = torch.isfinite(target)
        losses = functional.binary_cross_entropy_with_logits(
            out, target.nan_to_num(), pos_weight=self.weight.to(out.device), reduction="none"
        )
        return (losses * known).sum() / known.sum().clamp(min=1)

    def metrics(self, out: np.ndarray, target: np.ndarray, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
        return classification.multilabel_metrics(out, target, self.names, weights)

    def patients_per_metric(self, target: np.ndarray, patients: np.ndarray) -> dict[str, int]:
        return classification.multilabel_patients(target, self.names, patients)

    def metadata(self) -> dict[str, Any]:
        return {"task": "labels", "labels": self.names, "class_ids": [], "class_names": []}

    def plots(self, out: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
        """ROC curve of each label that has positive and negative images."""
        metrics, curves = self.metrics(out, target), {}
        for k, name in enumerate(self.names):
            rows, positive = known_labels(target[:, k])
            if np.isfinite(auc := metrics[f"auc_{name}"][0]):
                curves[f"{name}  AUC {auc:.3f}"] = roc_curve(out[rows, k], positive)
        return {"roc": plot_roc(curves)}

    def label_counts(self, target: np.ndarray, patients: np.ndarray) -> dict[str, dict[str, int]]:
        """For each label: numbers of positive images, negative images, patients with positive or negative images."""
        counts = {}
        for k, name in enumerate(self.names):
            rows, positive = known_labels(target[:, k])
            masks = {"positive": positive, "negative": ~positive}
            counts[name] = {kind: int(mask.sum()) for kind, mask in masks.items()}
            counts[name] |= {f"patients_{kind}": len(np.unique(patients[rows][mask])) for kind, mask in masks.items()}
        return counts


def build_task(data: RealAndSyntheticData, balanced: bool) -> ClassifierTask:
    """Build the task of ``data``. ``balanced``: see ``ClipClassifier``. Raises ``UserError`` for constant targets."""
    task, train = data.task, data.training_table()
    root = data.synthetic.root if data.synthetic is not None and data.train_on == "synthetic" else data.store.root
    sample_weight = train["Weight"].to_numpy() if "Weight" in train else np.ones(len(train))
    if isinstance(task, Labels):
        return _multilabel_task(data, [*data.output_names.values()], balanced)
    if isinstance(task, Regression):
        values = train[task.column].to_numpy(np.float64)
        mean = float(np.average(values, weights=sample_weight))
        std = float(np.sqrt(np.average((values - mean) ** 2, weights=sample_weight)))
        if not std > 0:
            raise UserError(f"{root}: {task.column} has one value in all training data: choose another task.column")
        return RegressionTask(task.column, mean, std)
    assert isinstance(task, Classification)
    train_ids = set(train["class_id"].tolist())
    if len(train_ids) < 2:
        raise UserError(f"{root} has {len(train_ids)} class_id in split TRAIN: a classifier needs two or more")
    held_out = set(data.store.table.loc[data.store.table["Split"] != "TRAIN", "class_id"].tolist())
    if missing := sorted((held_out | (set(data.output_names) if task.classes is not None else set())) - train_ids):
        raise UserError(f"class_id {missing[0]} of {root} has no recording in TRAIN: add recordings of this class")
    names = {number: name for number, name in data.output_names.items() if number in train_ids}
    counts = np.array([sample_weight[train["class_id"] == number].sum() for number in names])
    weight = counts.sum() / len(counts) / counts if balanced else np.ones(len(counts))
    return ClassificationTask([*names], [*names.values()], weight.tolist())


def _multilabel_task(data: RealAndSyntheticData, names: list[str], balanced: bool) -> MultilabelTask:
    """Build the task for the labels ``names``. If ``balanced``, positives weigh negatives / positives in the loss."""
    labels = data.training_table()[names].to_numpy(np.float64)
    positive, negative = np.nansum(labels, axis=0), np.nansum(1 - labels, axis=0)
    if constant := [name for name, *sums in zip(names, positive, negative, strict=True) if not all(sums)]:
        usable = ",".join(name for name in names if name not in constant)
        remedy = f"remove it by task.labels=[{usable}]" if usable else "choose other task.labels"
        raise UserError(f"{data.store.root}: label {constant[0]} has one value in all training data: {remedy}")
    return MultilabelTask(names, (negative / positive).tolist() if balanced else [1.0] * len(names))


def _softmax(logits: np.ndarray) -> np.ndarray:
    return torch.from_numpy(logits).double().softmax(dim=1).numpy()
