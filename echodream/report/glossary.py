"""Explanations of metrics and of copies of training patients, for the page."""

import re

from echodream.metrics.fidelity import fidelity_metric

_METRICS = (
    (
        r"class (agreement|adherence)",
        "How often a classifier trained on real patients sees the class that was asked for.",
    ),
    (r"EF (agreement|adherence)", "How close the ejection fraction that a network measures is to the one asked for."),
    (
        r"speckle SNR",
        "Mean over standard deviation of gray levels in small patches of tissue, in the near, middle or far third.",
    ),
    (r"speckle width", "Full width at half maximum of the autocorrelation of speckle, in pixels."),
    (r"heart rate", "Beats per minute, from the pixels."),
    (r"periodicity", "How alike one beat is to the next; 1 is a perfect rhythm."),
    (r"area swing", "By how much the dark chambers grow and shrink, as a share of the picture."),
    (r"frame difference", "How much changes from one frame to the next, in grey levels of 255."),
    (r"jump ratio", "The largest changes between frames over the usual one; high where a video jumps between poses."),
    (r"seam ratio", "Change where generated windows join over change elsewhere; 1 where no seam can be seen."),
    (r"identity", "For how long a video still looks like the same patient."),
    (r"^auc$|roc", "Chance that a patient with the disease gets a higher score than one without; 0.5 is chance."),
    (
        r"average.precision",
        "Precision averaged over all thresholds; a random guess scores the share of patients with the disease.",
    ),
    (r"balanced.accuracy", "Mean of sensitivity and specificity."),
    (r"sensitivity|recall", "Share of patients with the disease who are found."),
    (r"specificity", "Share of patients without the disease who are left alone."),
    (r"^f1", "Balance of precision and sensitivity."),
    (r"calibration|^ece", "How far stated probabilities are from what happens; 0 is best."),
    (r"^r2", "Share of the variation of the ejection fraction that is explained; 1 is perfect."),
    (r"^mae", "Mean error of the ejection fraction, in points."),
    (r"^rmse", "Root of the mean squared error of the ejection fraction, in points."),
)

_LABELS = {
    "auc": "AUC",
    "r2": "R²",
    "f1": "F1",
    "mae": "mean absolute error",
    "rmse": "RMSE",
    "ece": "calibration error",
}


def metric_label(name: str) -> str:
    """The name of a metric on the page; ``name`` is that in the record."""
    return _LABELS.get(name.lower(), name.replace("_", " "))


def metric_meaning(name: str) -> str:
    """The meaning of a metric in one sentence; empty for an unknown one. Fidelity metrics: ``metrics.fidelity``."""
    if (metric := fidelity_metric(name)) is not None:
        return metric.description
    return next((text for pattern, text in _METRICS if re.search(pattern, name, re.IGNORECASE)), "")


def is_distance(name: str) -> bool:
    """Whether a metric is a distance above 0, which can be given as a multiple of its floor."""
    metric = fidelity_metric(name)
    return metric is not None and metric.is_distance
