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


def rank_grid(count: int) -> np.ndarray:
    """Where ``rank_scores`` puts ``count`` different calibration scores: 1 / (count + 1), 2 / (count + 1), ..."""
    return np.arange(1, count + 1) / (count + 1)


def rank_scores(scores: np.ndarray, calibration: np.ndarray, highest: float) -> np.ndarray:
    """Scores, (n,), of one network on a scale that several networks share: increasing, from 0 to 1; NaN stays NaN.

    The calibration scores lie at ``rank_grid``, equal ones at the lowest of their ranks, so that the conformal p-value
    by ``calibration`` is at most that of the result by ``rank_grid``. Between them, and from the highest of them to
    ``highest``, the largest possible score, the scale is linear.
    """
    ordered, count = np.sort(calibration), len(calibration)
    values = np.unique(ordered)
    ranks = 1 + np.searchsorted(ordered, values, side="left")
    inner = np.interp(scores, values, ranks / (count + 1), left=0.0)
    beyond = np.clip((scores - values[-1]) / max(highest - values[-1], 1e-12), 0, 1)
    return np.where(scores > values[-1], (count + beyond) / (count + 1), inner)


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
