"""The Frechet distance between two sets of features, beside the distance between two sets of real ones.

Features are an argument: whose they are belongs into the metric's name (``frechet[classifier]``).
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Distance:
    """A distance to real features, with what it is to be read against."""

    value: float
    """Between the synthetic set and the real test set."""
    floor: float
    """Between the real training and the real test set."""
    count: int
    """Samples on each side of both."""
    dimensions: int
    """Of the features. With ``count`` not above it, covariances are singular and both numbers are too large."""


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    """Frechet distance between the Gaussians fitted to features ``x``, (N, D), and ``y``, (M, D); squared units.

    |m_x - m_y|^2 + tr(S_x) + tr(S_y) - 2 tr((S_x S_y)^(1/2)) with unbiased covariances (Dowson and Landau 1982), in
    float64. The last trace is the sum of the singular values of A_x A_y', where S = A' A and A has a row for each
    sample, so that no root of a matrix is taken and singular covariances (N <= D) need no care. Raises ``ValueError``.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(f"features are {x.shape} and {y.shape}, not (N, D) and (M, D) with N and M at least 2")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("features are not finite")
    a, b = _root(x), _root(y)
    overlap = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    means = float(((x.mean(axis=0) - y.mean(axis=0)) ** 2).sum())
    return max(means + float((a**2).sum() + (b**2).sum() - 2 * overlap), 0.0)


def against_floor(synthetic: np.ndarray, test: np.ndarray, train: np.ndarray) -> Distance:
    """``frechet`` of ``synthetic`` to ``test``, and of ``train`` to ``test``: features (N, D), N the same in all.

    Raises ``ValueError`` for other numbers of samples: the distance falls with N.
    """
    if not len(synthetic) == len(test) == len(train):
        raise ValueError(f"{len(synthetic)} synthetic, {len(test)} test and {len(train)} train: give as many of each")
    return Distance(frechet(synthetic, test), frechet(train, test), len(test), test.shape[1])


def _root(x: np.ndarray) -> np.ndarray:
    """A matrix A with A' A the covariance of ``x``, (N, D): at most D rows."""
    centred = (x - x.mean(axis=0)) / np.sqrt(len(x) - 1)
    return np.asarray(np.linalg.qr(centred, mode="r")) if len(x) > x.shape[1] else centred
