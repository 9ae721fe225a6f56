"""Conformal p-values, thresholds and false discovery rate, from the scores of calibration patients."""

import math

import numpy as np

from echodream.errors import UserError


def finite_scores(scores: np.ndarray | list[float], name: str) -> np.ndarray:
    """Scores as float64, (n,). Raises ``UserError`` about ``name`` if there are none, or if any is NaN or infinite."""
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise UserError(f"There are no {name} to work with: give at least one score.")
    if not np.isfinite(values).all():
        raise UserError(f"Some {name} are NaN or infinite: the embeddings are broken, and nothing can be decided.")
    return values


def p_values(scores: np.ndarray, calibration: np.ndarray) -> np.ndarray:
    """Conformal p-values p(x) = (1 + #{c_j >= s(x)}) / (n_cal + 1) of scores, (n,), by those of n_cal patients.

    For a sample that is no closer to the training patients than a new patient is, p <= alpha has a probability of at
    most alpha, on average over calibration sets (Vovk et al. 2005). Ties count against rejection.
    """
    ordered = np.sort(calibration)
    as_close = len(ordered) - np.searchsorted(ordered, scores, side="left")
    return (1 + as_close) / (len(ordered) + 1)


def conformal_threshold(calibration: np.ndarray, alpha: float) -> float:
    """The threshold tau with s >= tau exactly if p(s) <= alpha; infinite if there are too few patients for alpha."""
    rank = math.floor(alpha * (len(calibration) + 1) + 1e-9)  # p <= alpha if fewer than rank scores are at least s
    if rank < 1:
        return math.inf
    if rank > len(calibration):
        return -math.inf
    return float(np.nextafter(np.sort(calibration)[-rank], math.inf))


def benjamini_hochberg(p: np.ndarray, alpha: float) -> float:
    """The largest p-value, of (n,), rejected at false discovery rate ``alpha``; 0 for none (Benjamini 1995)."""
    ordered = np.sort(p)
    rejected = ordered <= alpha * np.arange(1, len(p) + 1) / len(p) + 1e-12
    return float(ordered[rejected][-1]) if rejected.any() else 0.0
