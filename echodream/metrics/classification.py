"""Classification metrics from probabilities of N rows, with optional weights of ``bootstrap.bootstrap_weights``.

Weights (R, N) give R values of a metric; without weights, R is 1 and each row has weight 1. An undefined metric, such
as the ROC AUC of a class without samples, is NaN.
"""

import math
from collections.abc import Callable

import numpy as np

from echodream.metrics.bootstrap import CONFIDENCE, Interval, bootstrap_interval

CALIBRATION_BINS = 10
"""Number of equal bins of the confidence, from 0 to 1."""
THRESHOLD = 0.5
"""Threshold of the probability of the positive class."""


def confusion_matrix(predicted: np.ndarray, target: np.ndarray, classes: int) -> np.ndarray:
    """Number of samples of class i (row) that are predicted as class j (column), int64 (K, K)."""
    return np.bincount(target * classes + predicted, minlength=classes**2).reshape(classes, classes)


def roc_auc(score: np.ndarray, positive: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Area under the ROC curve, (R,): share of positive-negative pairs in correct order; ties count one half."""
    positives, negatives = _weight_per_score(score, positive, weights)
    positives, negatives = positives[:, ::-1], negatives[:, ::-1]  # from the lowest score
    ordered = (positives * (np.cumsum(negatives, axis=1) - negatives / 2)).sum(axis=1)
    return _safe_ratio(ordered, positives.sum(axis=1) * negatives.sum(axis=1))


def auc_interval(positives: np.ndarray, negatives: np.ndarray, confidence: float = CONFIDENCE) -> Interval:
    """ROC AUC of independent scores of positives, (N,), and negatives, (M,), with its interval (DeLong et al. 1988)."""
    from scipy.special import ndtri

    shares, counts = (
        (_share_below(positives, negatives), _share_below(negatives, positives)),
        (len(positives), len(negatives)),
    )
    value = float(roc_auc(np.concatenate([positives, negatives]), np.arange(sum(counts)) < counts[0])[0])
    if value in (0.0, 1.0):
        return bootstrap_interval(np.full(2, value), confidence, min(counts))
    if min(counts) < 2:
        return Interval(value, 0.0, 1.0)
    error = math.sqrt(sum(np.var(share, ddof=1) / count for share, count in zip(shares, counts, strict=True)))
    half_width = float(ndtri((1 + confidence) / 2)) * error
    return Interval(value, max(value - half_width, 0.0), min(value + half_width, 1.0))


def _share_below(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Share of ``reference``, (M,), below each of ``values``, (N,); ties count one half."""
    ordered = np.sort(reference)
    ranks = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    share: np.ndarray = ranks / (2 * len(reference))
    return share


def average_precision(score: np.ndarray, positive: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Average precision, (R,): mean of the precision at each threshold, weighted by the increase of recall."""
    positives, negatives = _weight_per_score(score, positive, weights)
    true_positives, predicted = np.cumsum(positives, axis=1), np.cumsum(positives + negatives, axis=1)
    precision = np.divide(true_positives, predicted, out=np.zeros_like(true_positives), where=predicted > 0)
    average = _safe_ratio((positives * precision).sum(axis=1), true_positives[:, -1])
    return np.where(negatives.sum(axis=1) > 0, average, np.nan)


def roc_curve(
    score: np.ndarray, positive: np.ndarray, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates, (U + 1,) each, from 0 to 1: one threshold for each of U distinct scores."""
    totals = _weight_per_score(score, positive, weights)
    true, false = (np.append(0.0, np.cumsum(total[0])) for total in totals)
    return _safe_ratio(false, false[-1:]), _safe_ratio(true, true[-1:])


def sensitivity(predicted: np.ndarray, positive: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Share of positives that are ``predicted`` positive, (R,), from two boolean arrays (N,)."""
    w = _weights_or_ones(weights, len(predicted))
    return _safe_ratio(w @ (predicted & positive), w @ positive)


def specificity(predicted: np.ndarray, positive: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Share of negatives that are ``predicted`` negative, (R,), from two boolean arrays (N,)."""
    return sensitivity(~predicted, ~positive, weights)


def f1(predicted: np.ndarray, positive: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Harmonic mean of precision and sensitivity, (R,); 0 if no positive is predicted positive."""
    w = _weights_or_ones(weights, len(predicted))
    ratio = _safe_ratio(2 * (w @ (predicted & positive)), w @ predicted + w @ positive)
    return np.where(w @ positive > 0, ratio, np.nan)


def calibration_error(confidence: np.ndarray, is_correct: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Expected calibration error, (R,): mean over bins of |mean ``confidence`` - share of correct rows|."""
    w = _weights_or_ones(weights, len(is_correct))
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    bins = np.clip(np.digitize(confidence, edges[1:-1]), 0, CALIBRATION_BINS - 1)
    errors = [abs((w * (bins == b)) @ (confidence - is_correct.astype(np.float64))) for b in range(CALIBRATION_BINS)]
    return _safe_ratio(np.sum(errors, axis=0), w.sum(axis=1))


def binary_metrics(
    probability: np.ndarray, positive: np.ndarray, weights: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """All metrics of a binary classifier, (R,) each, from the ``probability`` of the positive class, (N,)."""
    positive = positive.astype(bool)
    metrics = _one_vs_rest_metrics(probability, probability >= THRESHOLD, positive, weights)
    metrics["balanced_accuracy"] = (metrics["sensitivity"] + metrics["specificity"]) / 2
    metrics["calibration_error"] = calibration_error(probability, positive, weights)
    return metrics


def _one_vs_rest_metrics(
    score: np.ndarray, predicted: np.ndarray, positive: np.ndarray, weights: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Metrics of one class against all others, (R,) each."""
    return {
        "auc": roc_auc(score, positive, weights),
        "average_precision": average_precision(score, positive, weights),
        "sensitivity": sensitivity(predicted, positive, weights),
        "specificity": specificity(predicted, positive, weights),
        "f1": f1(predicted, positive, weights),
    }


def multiclass_metrics(
    probabilities: np.ndarray, target: np.ndarray, names: list[str], weights: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """One-vs-rest metrics of each class (``auc_<name>``) and their means over classes (``auc``), (R,) each.

    ``probabilities``: (N, K); ``target``: int (N,). The prediction is the most probable class. Means omit undefined
    values. ``accuracy_<name>`` is the sensitivity of a class; the balanced accuracy is the mean of all sensitivities.
    """
    prediction = probabilities.argmax(axis=1)
    per_class: dict[str, list[np.ndarray]] = {}
    for k in range(probabilities.shape[1]):
        metrics = _one_vs_rest_metrics(probabilities[:, k], prediction == k, target == k, weights)
        for name, values in metrics.items():
            per_class.setdefault(name.replace("sensitivity", "accuracy"), []).append(values)
    means = {name.replace("accuracy", "balanced_accuracy"): _mean_of_finite(each) for name, each in per_class.items()}
    means["calibration_error"] = calibration_error(probabilities.max(axis=1), prediction == target, weights)
    return means | _by_class(per_class, names)


def multiclass_patients(target: np.ndarray, names: list[str], patients: np.ndarray) -> dict[str, int]:
    """Number of patients for the exact interval of each multiclass metric; ``target`` and ``patients`` are (N,)."""
    counts: dict[str, int] = {}
    for k, name in enumerate(names):
        class_counts = binary_patients(target == k, patients)
        counts |= {f"auc_{name}": class_counts["auc"], f"accuracy_{name}": class_counts["sensitivity"]}
        counts[f"specificity_{name}"] = class_counts["specificity"]
    smallest_class = min((counts[f"auc_{name}"] for name in names if counts[f"auc_{name}"]), default=0)
    return {**counts, "auc": smallest_class, "balanced_accuracy": smallest_class, "specificity": smallest_class}


def multilabel_metrics(
    probabilities: np.ndarray, target: np.ndarray, names: list[str], weights: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """ROC AUC and average precision of each label (``auc_<name>``) and their means over labels (``auc``), (R,) each.

    Inputs: (N, K). A metric of a label uses the rows where the label is known. Means omit undefined values.
    """
    functions: dict[str, Callable[..., np.ndarray]] = {"auc": roc_auc, "average_precision": average_precision}
    per_label: dict[str, list[np.ndarray]] = {name: [] for name in functions}
    for k in range(len(names)):
        rows, positive = known_labels(target[:, k])
        w = _weights_or_ones(weights, len(target))[:, rows]
        for name, function in functions.items():
            value = function(probabilities[rows, k], positive, w) if len(positive) else np.full(len(w), np.nan)
            per_label[name].append(value)
    return {name: _mean_of_finite(values) for name, values in per_label.items()} | _by_class(per_label, names)


def multilabel_patients(target: np.ndarray, names: list[str], patients: np.ndarray) -> dict[str, int]:
    """Number of patients for the exact interval of each multilabel AUC; ``target``: (N, K), ``patients``: (N,)."""
    counts = {}
    for k, name in enumerate(names):
        rows, positive = known_labels(target[:, k])
        counts[f"auc_{name}"] = binary_patients(positive, patients[rows])["auc"]
    return {**counts, "auc": min((count for count in counts.values() if count), default=0)}


def known_labels(soft_labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mask of the rows with a known soft label, bool (N,), and whether each of the n known labels is positive, (n,).

    ``soft_labels``: (N,). A label of 0.5 or NaN is unknown; a label above 0.5 is positive.
    """
    rows = np.isfinite(soft_labels) & (soft_labels != THRESHOLD)
    return rows, soft_labels[rows] > THRESHOLD


def binary_patients(positive: np.ndarray, patients: np.ndarray) -> dict[str, int]:
    """Number of patients for the exact interval of each binary metric; ``positive`` and ``patients``: (N,)."""
    positives, negatives = (len(np.unique(patients[part])) for part in (positive, ~positive))
    smaller = min(positives, negatives)
    return {"auc": smaller, "balanced_accuracy": smaller, "sensitivity": positives, "specificity": negatives}


def _by_class(metrics: dict[str, list[np.ndarray]], class_names: list[str]) -> dict[str, np.ndarray]:
    """Values of each metric and class, (R,) each, by the name ``<metric>_<class>``."""
    return {
        f"{metric}_{name}": value
        for metric, values in metrics.items()
        for name, value in zip(class_names, values, strict=True)
    }


def _mean_of_finite(values: list[np.ndarray]) -> np.ndarray:
    """Mean of the finite values of K classes: K arrays (R,) to (R,); NaN without a finite value."""
    return np.asarray(np.ma.masked_invalid(np.stack(values)).mean(axis=0).filled(np.nan))


def _weight_per_score(
    score: np.ndarray, positive: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Total weight of positives and of negatives at each of U distinct scores, in descending order: (R, U) each."""
    w = _weights_or_ones(weights, len(score))
    order = np.argsort(-score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=np.inf))
    w, is_positive = w[:, order], positive[order].astype(bool)
    positives, negatives = (np.add.reduceat(w * part, starts, axis=1) for part in (is_positive, ~is_positive))
    return positives, negatives


def _weights_or_ones(weights: np.ndarray | None, count: int) -> np.ndarray:
    return np.ones((1, count)) if weights is None else weights


def _safe_ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """``numerator / denominator``; NaN where ``denominator`` is 0."""
    denominator = np.broadcast_to(np.asarray(denominator, np.float64), np.shape(numerator))
    return np.divide(numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=denominator > 0)
