"""Conformal p-values, thresholds and false discovery rate, from the scores of calibration patients."""

import math

import numpy as np

from echodream.errors import UserError


def finite_scores(scores: np.ndarray | list[float], name: str) -> np.ndarray:
    """``scores`` as float64, (n,). Raises ``UserError`` about ``name`` if there is no score, or one is not finite."""
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise UserError(f"There are no {name} to work with: give at least one score.")
    if not np.isfinite(values).all():
        raise UserError(f"Some {name} are NaN or infinite: the embeddings are broken, train the network again.")
    return values


def p_values(scores: np.ndarray, calibration: np.ndarray) -> np.ndarray:
    """Conformal p-values p(x) = (1 + #{c_j >= s(x)}) / (n_cal + 1) of scores, (n,), from n_cal calibration scores c.

    For a sample that is no closer to the training patients than a new patient is, p <= alpha has a probability of at
    most alpha, on average over calibration sets (Vovk et al. 2005). A score c_j that equals s(x) counts as higher.
    """
    ordered = np.sort(calibration)
    as_close = len(ordered) - np.searchsorted(ordered, scores, side="left")
    return (1 + as_close) / (len(ordered) + 1)


def rank_grid(count: int) -> np.ndarray:
    """Values of ``rank_scores`` at ``count`` different calibration scores: 1 / (count + 1), 2 / (count + 1), ..."""
    return np.arange(1, count + 1) / (count + 1)


def rank_scores(scores: np.ndarray, calibration: np.ndarray, highest_score: float) -> np.ndarray:
    """Map scores, (n,), of one network to ranks from 0 to 1, a scale that several networks share; NaN stays NaN.

    The map is increasing. Calibration scores map to ``rank_grid``; tied calibration scores map to the lowest of their
    ranks. The conformal p-value of a score by ``calibration`` is therefore at most the p-value of its rank by
    ``rank_grid``. The map is linear between calibration scores, and between the highest calibration score and
    ``highest_score``, the largest possible score.
    """
    ordered, count = np.sort(calibration), len(calibration)
    values = np.unique(ordered)
    ranks = 1 + np.searchsorted(ordered, values, side="left")
    inner = np.interp(scores, values, ranks / (count + 1), left=0.0)
    beyond = np.clip((scores - values[-1]) / max(highest_score - values[-1], 1e-12), 0, 1)
    return np.where(scores > values[-1], (count + beyond) / (count + 1), inner)


def conformal_threshold(calibration: np.ndarray, alpha: float) -> float:
    """Threshold tau such that s >= tau if and only if p(s) <= alpha; infinite for too few calibration patients."""
    rank = math.floor(alpha * (len(calibration) + 1) + 1e-9)  # p(s) <= alpha if fewer than ``rank`` scores are >= s
    if rank < 1:
        return math.inf
    if rank > len(calibration):
        return -math.inf
    return float(np.nextafter(np.sort(calibration)[-rank], math.inf))


def benjamini_hochberg(p: np.ndarray, alpha: float) -> float:
    """Largest rejected p-value among ``p``, (n,), at false discovery rate ``alpha``; 0 if none is rejected."""
    ordered = np.sort(p)
    rejected = ordered <= alpha * np.arange(1, len(p) + 1) / len(p) + 1e-12
    return float(ordered[rejected][-1]) if rejected.any() else 0.0
