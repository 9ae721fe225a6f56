"""Classification metrics from probabilities, of rows that may be weighted (``bootstrap.bootstrap_weights``).

Weights are (R, N), R values come back; without weights each row counts once and R is 1. NaN: there is no value.
"""

from collections.abc import Callable

import numpy as np

BINS = 10
"""Of the calibration error: equal shares of the confidence from 0 to 1."""
THRESHOLD = 0.5


def confusion_matrix(predicted: np.ndarray, target: np.ndarray, classes: int) -> np.ndarray:
    """How often class i (row) is predicted as class j (column): int (N,) twice to int64 (K, K)."""
    return np.bincount(target * classes + predicted, minlength=classes**2).reshape(classes, classes)


def roc_auc(score: np.ndarray, positive: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Area under the ROC curve: share of pairs of a positive and a negative that ``score`` orders; ties count half."""
    ups, downs = _steps(score, positive, weights)
    ups, downs = ups[:, ::-1], downs[:, ::-1]  # from the lowest score
    ordered = (ups * (np.cumsum(downs, axis=1) - downs / 2)).sum(axis=1)
    return _share(ordered, ups.sum(axis=1) * downs.sum(axis=1))


def average_precision(score: np.ndarray, positive: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Precision at each threshold, weighted by what the recall gains there."""
    ups, downs = _steps(score, positive, weights)
    hits, all_ = np.cumsum(ups, axis=1), np.cumsum(ups + downs, axis=1)
    precision = np.divide(hits, all_, out=np.zeros_like(hits), where=all_ > 0)
    found = _share((ups * precision).sum(axis=1), hits[:, -1])
    return np.where(downs.sum(axis=1) > 0, found, np.nan)


def roc_curve(score: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates from the highest threshold to the lowest, both from 0 to 1."""
    ups, downs = (np.concatenate([[0.0], np.cumsum(part[0])]) for part in _steps(score, positive, None))
    return _share(downs, downs[-1:]), _share(ups, ups[-1:])


def sensitivity(said: np.ndarray, positive: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Share of the positives that are ``said`` to be positive, bool (N,) both."""
    w = _weights(weights, len(said))
    return _share(w @ (said & positive), w @ positive)


def specificity(said: np.ndarray, positive: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Share of the negatives that are ``said`` to be negative."""
    return sensitivity(~said, ~positive, weights)


def f1(said: np.ndarray, positive: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Harmonic mean of precision and sensitivity; 0 where there are positives and none is found."""
    w = _weights(weights, len(said))
    return np.where(w @ positive > 0, _share(2 * (w @ (said & positive)), w @ said + w @ positive), np.nan)


def calibration_error(confidence: np.ndarray, right: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Expected calibration error: how far ``confidence``, (N,), is from the share ``right``, in ``BINS`` bins."""
    w = _weights(weights, len(right))
    edges = np.linspace(0, 1, BINS + 1)
    bins = np.clip(np.digitize(confidence, edges[1:-1]), 0, BINS - 1)
    apart = [abs((w * (bins == b)) @ (confidence - right.astype(np.float64))) for b in range(BINS)]
    return _share(np.sum(apart, axis=0), w.sum(axis=1))


def binary_metrics(p: np.ndarray, positive: np.ndarray, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """All figures of one class against another, from its probability ``p``, (N,); decisions are at ``THRESHOLD``."""
    said, positive = p >= THRESHOLD, positive.astype(bool)
    ranked: dict[str, Callable[..., np.ndarray]] = {"auc": roc_auc, "average_precision": average_precision}
    found = {name: of(p, positive, weights) for name, of in ranked.items()}
    found |= {"sensitivity": sensitivity(said, positive, weights), "specificity": specificity(said, positive, weights)}
    found["balanced_accuracy"] = (found["sensitivity"] + found["specificity"]) / 2
    found["f1"] = f1(said, positive, weights)
    found["calibration_error"] = calibration_error(p, positive, weights)
    return found


def multiclass_metrics(
    probabilities: np.ndarray, target: np.ndarray, names: list[str], weights: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Figures of each class against the rest, (N, K) and int (N,), as ``auc_<name>``, and their means as ``auc``.

    The decision is the class of the highest probability. The mean is over classes that have a value. ``accuracy`` is
    of a class's own samples, its sensitivity; the mean of it is the balanced accuracy.
    """
    decided = probabilities.argmax(axis=1)
    each: dict[str, list[np.ndarray]] = {}
    for k in range(probabilities.shape[1]):
        p, said, positive = probabilities[:, k], decided == k, target == k
        figures = {"auc": roc_auc(p, positive, weights), "average_precision": average_precision(p, positive, weights)}
        figures["accuracy"] = sensitivity(said, positive, weights)
        figures |= {"specificity": specificity(said, positive, weights), "f1": f1(said, positive, weights)}
        for name, values in figures.items():
            each.setdefault(name, []).append(values)
    found = {("balanced_accuracy" if name == "accuracy" else name): _mean(values) for name, values in each.items()}
    found["calibration_error"] = calibration_error(probabilities.max(axis=1), decided == target, weights)
    for name, of_classes in each.items():
        found |= {f"{name}_{label}": values for label, values in zip(names, of_classes, strict=True)}
    return found


def multiclass_patients(target: np.ndarray, names: list[str], patients: np.ndarray) -> dict[str, int]:
    """How many patients each figure of ``multiclass`` is of, where it finds no error: (N,) twice to counts by name."""
    found: dict[str, int] = {}
    each: dict[int, int] = {}
    for k, name in enumerate(names):
        of, others = (len(np.unique(patients[part])) for part in (target == k, target != k))
        each[k] = min(of, others)
        found |= {f"auc_{name}": each[k], f"accuracy_{name}": of, f"specificity_{name}": others}
    least = min((count for count in each.values() if count), default=0)
    return {**found, "auc": least, "balanced_accuracy": least, "specificity": least}


def multilabel_metrics(
    probabilities: np.ndarray, target: np.ndarray, names: list[str], weights: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """AUC and average precision of each label, (N, K) both, as ``auc_<name>``, and their means as ``auc``.

    Of each label, rows count whose share in ``target`` is above one half (positive) or below; a half, or NaN, says
    neither. The mean is over labels that have a value.
    """
    each: dict[str, list[np.ndarray]] = {"auc": [], "average_precision": []}
    for k in range(len(names)):
        rows, positive = known_labels(target[:, k])
        w = _weights(weights, len(target))[:, rows]
        for name, of in (("auc", roc_auc), ("average_precision", average_precision)):
            value = of(probabilities[rows, k], positive, w) if len(positive) else np.full(len(w), np.nan)
            each[name].append(value)
    found = {name: _mean(values) for name, values in each.items()}
    for name, of_labels in each.items():
        found |= {f"{name}_{label}": values for label, values in zip(names, of_labels, strict=True)}
    return found


def multilabel_patients(target: np.ndarray, names: list[str], patients: np.ndarray) -> dict[str, int]:
    """How many patients each AUC of ``multilabel`` is of, where it finds no error: (N, K) and (N,) to counts."""
    each = {}
    for k, name in enumerate(names):
        rows, positive = known_labels(target[:, k])
        each[f"auc_{name}"] = binary_patients(positive, patients[rows])["auc"]
    return {**each, "auc": min((count for count in each.values() if count), default=0)}


def known_labels(share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which rows of a label (N,) say yes or no, bool (N,), and which of these n say yes, bool (n,)."""
    rows = np.isfinite(share) & (share != THRESHOLD)
    return rows, share[rows] > THRESHOLD


def binary_patients(positive: np.ndarray, patients: np.ndarray) -> dict[str, int]:
    """How many patients each figure of ``binary`` is of, where it finds no error."""
    of, others = (len(np.unique(patients[part])) for part in (positive, ~positive))
    least = min(of, others)
    return {"auc": least, "balanced_accuracy": least, "sensitivity": of, "specificity": others}


def _mean(values: list[np.ndarray]) -> np.ndarray:
    """Over what is not NaN: K times (R,) to (R,)."""
    stacked = np.stack(values)
    there = np.isfinite(stacked)
    return _share(np.where(there, stacked, 0).sum(axis=0), there.sum(axis=0))


def _steps(score: np.ndarray, positive: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Weight of positives and of negatives at each different score, from the highest: (R, U) twice."""
    w = _weights(weights, len(score))
    order = np.argsort(-score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=np.inf))
    w, up = w[:, order], positive[order].astype(bool)
    ups, downs = (np.add.reduceat(w * part, starts, axis=1) for part in (up, ~up))
    return ups, downs


def _weights(weights: np.ndarray | None, count: int) -> np.ndarray:
    return np.ones((1, count)) if weights is None else weights


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """``part / whole``, NaN where ``whole`` is 0."""
    whole = np.broadcast_to(np.asarray(whole, np.float64), np.shape(part))
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)
