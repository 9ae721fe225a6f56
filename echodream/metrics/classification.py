"""How good a classifier is, from its probabilities: AUC and balanced accuracy. Pure functions, torchmetrics inside."""

import torch
from torch import Tensor


def auc(probabilities: Tensor, target: Tensor) -> Tensor:
    """Area under the ROC curve of each class against the rest: (N, K) and int (N,) to (K,).

    NaN for a class that ``target`` lacks, or that is all of it. Ties count one half.
    """
    from torchmetrics.functional.classification import binary_auroc

    values = []
    for index in range(probabilities.shape[1]):
        positive = target == index
        defined = bool(positive.any()) and not bool(positive.all())
        value = binary_auroc(probabilities[:, index], positive.long()) if defined else torch.tensor(float("nan"))
        values.append(value.to(torch.float64).cpu())
    return torch.stack(values)


def class_accuracy(predicted: Tensor, target: Tensor, classes: int) -> Tensor:
    """Share of each class's samples that are predicted as that class: int (N,) twice to (K,); NaN for an absent one."""
    table = confusion(predicted, target, classes).to(torch.float64)
    return table.diagonal() / table.sum(dim=1)


def balanced_accuracy(predicted: Tensor, target: Tensor, classes: int) -> float:
    """Mean of ``class_accuracy`` over the classes that are there, so that frequent classes count no more than rare."""
    return float(class_accuracy(predicted, target, classes).nanmean())


def confusion(predicted: Tensor, target: Tensor, classes: int) -> Tensor:
    """How often class i (row) was predicted as class j (column): int64, (K, K)."""
    pairs = target.long() * classes + predicted.long()
    return torch.bincount(pairs.cpu(), minlength=classes**2).reshape(classes, classes)
