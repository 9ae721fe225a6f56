"""Names and explanations of metrics on the page."""

import re

from echodream.metrics.fidelity import fidelity_metric

_EXPLANATIONS = (
    (r"outside the training range", "Share of videos outside the range of nearly all training recordings."),
    (r"class (agreement|adherence)", "Share of samples for which a classifier predicts the requested class."),
    (r"EF (agreement|adherence)", "Agreement of the requested with the predicted ejection fraction."),
    (
        r"speckle SNR",
        "Mean over standard deviation of gray levels in small patches of tissue, in the near, middle or far third.",
    ),
    (r"speckle width", "Full width at half maximum of the autocorrelation of speckle, in pixels."),
    (r"heart rate", "Beats per minute, detected in the pixels."),
    (r"periodicity", "Correlation of consecutive beats; 1 is a perfect rhythm."),
    (r"area swing", "Range of the area of the dark chambers over the video, as a share of the ultrasound sector."),
    (r"frame difference", "Mean absolute difference of consecutive frames, in gray levels of 255."),
    (r"jump ratio", "95th percentile of frame differences over their median; high if a video jumps between poses."),
    (r"seam ratio", "Change where generated windows join, divided by the change elsewhere; 1 if no seam is visible."),
    (r"identity", "Loss of similarity to the first frame along the video, measured by the identity network."),
    (r"^auc$|roc", "Probability that a patient with the disease has a higher score than one without; 0.5 is chance."),
    (r"average.precision", "Precision averaged over all thresholds; chance is the share of patients with the disease."),
    (r"balanced.accuracy", "Mean of sensitivity and specificity."),
    (r"sensitivity|recall", "Share of patients with the disease who are detected."),
    (r"specificity", "Share of patients without the disease who are classified correctly."),
    (r"^f1", "Harmonic mean of precision and sensitivity."),
    (r"calibration|^ece", "Mean difference of predicted probability and observed frequency; 0 is best."),
    (r"^r2", "Explained share of the variance of the ejection fraction; 1 is perfect."),
    (r"^mae", "Mean absolute error of the ejection fraction, in percentage points."),
    (r"^rmse", "Root mean squared error of the ejection fraction, in percentage points."),
)
"""Regular expression for the names of a metric in records, and the explanation on the page."""

_LABELS = {
    "auc": "AUC",
    "r2": "R²",
    "f1": "F1",
    "mae": "mean absolute error",
    "rmse": "RMSE",
    "ece": "calibration error",
}


def metric_label(name: str) -> str:
    """The name that the page shows for the metric ``name`` of a record."""
    return _LABELS.get(name.lower(), name.replace("_", " "))


def metric_meaning(name: str) -> str:
    """The explanation of the metric ``name`` in one sentence; empty for an unknown metric."""
    if (metric := fidelity_metric(name)) is not None:
        return metric.description
    return next((text for pattern, text in _EXPLANATIONS if re.search(pattern, name, re.IGNORECASE)), "")


def is_distance(name: str) -> bool:
    """Whether the metric ``name`` is a nonnegative distance, which the page shows as a multiple of its floor."""
    metric = fidelity_metric(name)
    return metric is not None and metric.is_distance
