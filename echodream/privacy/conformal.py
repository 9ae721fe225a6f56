"""What a threshold costs: conformal p-values of samples against patients whom neither network ever saw."""

import math

import numpy as np

from echodream.errors import UserError


def finite(scores: np.ndarray | list[float], what: str) -> np.ndarray:
    """Scores as float64, (n,); ``UserError`` where one is NaN or infinite, or there is none."""
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise UserError(f"There are no {what} to work with: give at least one score.")
    if not np.isfinite(values).all():
        raise UserError(f"Some {what} are NaN or infinite: the embeddings are broken, and nothing can be decided.")
    return values


def p_values(scores: np.ndarray, calibration: np.ndarray) -> np.ndarray:
    """p(x) = (1 + #{c_j >= s(x)}) / (n_cal + 1): (n,) scores against (n_cal,), one per calibration patient.

    Of a sample that is no closer to the training patients than a new patient is, p <= alpha with probability at most
    alpha, on average over calibration sets (Vovk et al. 2005). Ties count against rejection.
    """
    ordered = np.sort(calibration)
    above = len(ordered) - np.searchsorted(ordered, scores, side="left")
    return (1 + above) / (len(ordered) + 1)


def conformal_threshold(calibration: np.ndarray, alpha: float) -> float:
    """The tau for which s >= tau is the same as p(s) <= alpha; infinite where there are too few patients for alpha."""
    rank = math.floor(
        alpha * (len(calibration) + 1) + 1e-9
    )  # p <= alpha: fewer than this many scores are at s or above
    if rank < 1:
        return math.inf
    if rank > len(calibration):
        return -math.inf
    return float(np.nextafter(np.sort(calibration)[-rank], math.inf))


def benjamini_hochberg(p: np.ndarray, alpha: float) -> float:
    """The largest p-value that is rejected at false discovery rate ``alpha``; 0 where none is (Benjamini 1995)."""
    ordered = np.sort(p)
    small = ordered <= alpha * np.arange(1, len(p) + 1) / len(p) + 1e-12
    return float(ordered[small][-1]) if small.any() else 0.0
