"""Classification metrics from probabilities, of rows that may be weighted (``bootstrap.bootstrap_weights``).

Weights are (R, N) and give R values; without weights, R is 1 and each row counts once. NaN means that a metric is
undefined, as the ROC AUC of a class that has no sample.
"""

from collections.abc import Callable

import numpy as np

CALIBRATION_BINS = 10
"""Equal bins of the confidence from 0 to 1."""
THRESHOLD = 0.5


def confusion_matrix(predicted: np.ndarray, target: np.ndarray, classes: int) -> np.ndarray:
    """Counts of true class i (row) predicted as class j (column): int (N,) twice to int64 (K, K)."""
    return np.bincount(target * classes + predicted, minlength=classes**2).reshape(classes, classes)


def roc_auc(score: np.ndarray, positive: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Area under the ROC curve, (R,): share of positive-negative pairs that ``score`` orders; ties count one half."""
    positives, negatives = _weight_per_score(score, positive, weights)
    positives, negatives = positives[:, ::-1], negatives[:, ::-1]  # from the lowest score
    ordered = (positives * (np.cumsum(negatives, axis=1) - negatives / 2)).sum(axis=1)
    return _safe_ratio(ordered, positives.sum(axis=1) * negatives.sum(axis=1))


def average_precision(score: np.ndarray, positive: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Average precision, (R,): precision at each threshold, weighted by the increase of recall."""
    positives, negatives = _weight_per_score(score, positive, weights)
    true_positives, predicted = np.cumsum(positives, axis=1), np.cumsum(positives + negatives, axis=1)
    precision = np.divide(true_positives, predicted, out=np.zeros_like(true_positives), where=predicted > 0)
    average = _safe_ratio((positives * precision).sum(axis=1), true_positives[:, -1])
    return np.where(negatives.sum(axis=1) > 0, average, np.nan)


def roc_curve(score: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates from the highest threshold to the lowest, both from 0 to 1."""
    counts = _weight_per_score(score, positive, None)
    true, false = (np.concatenate([[0.0], np.cumsum(part[0])]) for part in counts)
    return _safe_ratio(false, false[-1:]), _safe_ratio(true, true[-1:])


def sensitivity(predicted: np.ndarray, positive: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Share of positives that are ``predicted`` positive: bool (N,) both to (R,)."""
    w = _weights_or_ones(weights, len(predicted))
    return _safe_ratio(w @ (predicted & positive), w @ positive)


def specificity(predicted: np.ndarray, positive: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Share of negatives that are ``predicted`` negative: bool (N,) both to (R,)."""
    return sensitivity(~predicted, ~positive, weights)


def f1(predicted: np.ndarray, positive: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Harmonic mean of precision and sensitivity, (R,); 0 if no positive is predicted positive."""
    w = _weights_or_ones(weights, len(predicted))
    ratio = _safe_ratio(2 * (w @ (predicted & positive)), w @ predicted + w @ positive)
    return np.where(w @ positive > 0, ratio, np.nan)


def calibration_error(confidence: np.ndarray, correct: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Expected calibration error, (R,): mean difference of ``confidence``, (N,), and share of ``correct`` per bin."""
    w = _weights_or_ones(weights, len(correct))
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    bins = np.clip(np.digitize(confidence, edges[1:-1]), 0, CALIBRATION_BINS - 1)
    errors = [abs((w * (bins == b)) @ (confidence - correct.astype(np.float64))) for b in range(CALIBRATION_BINS)]
    return _safe_ratio(np.sum(errors, axis=0), w.sum(axis=1))


def binary_metrics(
    probability: np.ndarray, positive: np.ndarray, weights: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """All metrics of a binary classifier from the ``probability`` of the positive class, (N,)."""
    predicted, positive = probability >= THRESHOLD, positive.astype(bool)
    metrics = {
        "auc": roc_auc(probability, positive, weights),
        "average_precision": average_precision(probability, positive, weights),
        "sensitivity": sensitivity(predicted, positive, weights),
        "specificity": specificity(predicted, positive, weights),
    }
    metrics["balanced_accuracy"] = (metrics["sensitivity"] + metrics["specificity"]) / 2
    metrics["f1"] = f1(predicted, positive, weights)
    metrics["calibration_error"] = calibration_error(probability, positive, weights)
    return metrics


def multiclass_metrics(
    probabilities: np.ndarray, target: np.ndarray, names: list[str], weights: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """One-vs-rest metrics of each class, as ``auc_<name>``, and their means, as ``auc``; (N, K) and int (N,) to (R,).

    The prediction is the most probable class. Means are over the classes that have a value. ``accuracy_<name>`` is the
    sensitivity of a class; its mean is the balanced accuracy.
    """
    prediction = probabilities.argmax(axis=1)
    per_class: dict[str, list[np.ndarray]] = {}
    for k in range(probabilities.shape[1]):
        score, predicted, positive = probabilities[:, k], prediction == k, target == k
        metrics = {
            "auc": roc_auc(score, positive, weights),
            "average_precision": average_precision(score, positive, weights),
            "accuracy": sensitivity(predicted, positive, weights),
            "specificity": specificity(predicted, positive, weights),
            "f1": f1(predicted, positive, weights),
        }
        for name, values in metrics.items():
            per_class.setdefault(name, []).append(values)
    means = {
        ("balanced_accuracy" if name == "accuracy" else name): _finite_mean(values)
        for name, values in per_class.items()
    }
    means["calibration_error"] = calibration_error(probabilities.max(axis=1), prediction == target, weights)
    return means | _with_names(per_class, names)


def multiclass_patients(target: np.ndarray, names: list[str], patients: np.ndarray) -> dict[str, int]:
    """Number of patients for the exact interval of each metric of ``multiclass_metrics``: (N,) twice to counts."""
    counts: dict[str, int] = {}
    smaller = []
    for k, name in enumerate(names):
        positive, negative = (len(np.unique(patients[part])) for part in (target == k, target != k))
        smaller.append(min(positive, negative))
        counts |= {f"auc_{name}": smaller[-1], f"accuracy_{name}": positive, f"specificity_{name}": negative}
    least = min((count for count in smaller if count), default=0)
    return {**counts, "auc": least, "balanced_accuracy": least, "specificity": least}


def multilabel_metrics(
    probabilities: np.ndarray, target: np.ndarray, names: list[str], weights: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """ROC AUC and average precision of each label, as ``auc_<name>``, and their means, as ``auc``; (N, K) both to (R,).

    Each label uses the rows where it is known (``known_labels``). Means are over the labels that have a value.
    """
    functions: dict[str, Callable[..., np.ndarray]] = {"auc": roc_auc, "average_precision": average_precision}
    per_label: dict[str, list[np.ndarray]] = {name: [] for name in functions}
    for k in range(len(names)):
        rows, positive = known_labels(target[:, k])
        w = _weights_or_ones(weights, len(target))[:, rows]
        for name, function in functions.items():
            value = function(probabilities[rows, k], positive, w) if len(positive) else np.full(len(w), np.nan)
            per_label[name].append(value)
    return {name: _finite_mean(values) for name, values in per_label.items()} | _with_names(per_label, names)


def multilabel_patients(target: np.ndarray, names: list[str], patients: np.ndarray) -> dict[str, int]:
    """Number of patients for the exact interval of each AUC of ``multilabel_metrics``: (N, K) and (N,) to counts."""
    counts = {}
    for k, name in enumerate(names):
        rows, positive = known_labels(target[:, k])
        counts[f"auc_{name}"] = binary_patients(positive, patients[rows])["auc"]
    return {**counts, "auc": min((count for count in counts.values() if count), default=0)}


def known_labels(share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows with a known label, bool (N,), from a soft label, (N,), and whether each of these n rows is positive, (n,).

    Labels of 0.5 and NaN are unknown, labels above 0.5 positive.
    """
    rows = np.isfinite(share) & (share != THRESHOLD)
    return rows, share[rows] > THRESHOLD


def binary_patients(positive: np.ndarray, patients: np.ndarray) -> dict[str, int]:
    """Number of patients for the exact interval of each metric of ``binary_metrics``: (N,) twice to counts."""
    positives, negatives = (len(np.unique(patients[part])) for part in (positive, ~positive))
    least = min(positives, negatives)
    return {"auc": least, "balanced_accuracy": least, "sensitivity": positives, "specificity": negatives}


def _with_names(metrics: dict[str, list[np.ndarray]], names: list[str]) -> dict[str, np.ndarray]:
    """Values of each class as ``<metric>_<class>``."""
    pairs = {name: zip(names, values, strict=True) for name, values in metrics.items()}
    return {f"{name}_{label}": values for name, labeled in pairs.items() for label, values in labeled}


def _finite_mean(values: list[np.ndarray]) -> np.ndarray:
    """Mean over finite values: K times (R,) to (R,)."""
    stacked = np.stack(values)
    finite = np.isfinite(stacked)
    return _safe_ratio(np.where(finite, stacked, 0).sum(axis=0), finite.sum(axis=0))


def _weight_per_score(
    score: np.ndarray, positive: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Total weight of positives and of negatives at each distinct score, from the highest: (R, U) both."""
    w = _weights_or_ones(weights, len(score))
    order = np.argsort(-score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=np.inf))
    w, is_positive = w[:, order], positive[order].astype(bool)
    positives, negatives = (np.add.reduceat(w * part, starts, axis=1) for part in (is_positive, ~is_positive))
    return positives, negatives


def _weights_or_ones(weights: np.ndarray | None, count: int) -> np.ndarray:
    return np.ones((1, count)) if weights is None else weights


def _safe_ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """``numerator / denominator``, NaN where ``denominator`` is 0."""
    denominator = np.broadcast_to(np.asarray(denominator, np.float64), np.shape(numerator))
    return np.divide(numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=denominator > 0)
