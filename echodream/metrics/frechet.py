"""The Frechet distance between two sets of features.

Features are an argument: whose they are belongs into the metric's name (``frechet[classifier]``).
"""

import numpy as np

from echodream.metrics.bootstrap import Estimate


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Frechet distance between the Gaussians fitted to features ``x``, (N, D), and ``y``, (M, D); squared units.

    |m_x - m_y|^2 + tr(S_x) + tr(S_y) - 2 tr((S_x S_y)^(1/2)) with unbiased covariances (Dowson and Landau 1982), in
    float64. The last trace is the sum of the singular values of A_x A_y', where S = A' A and A has a row for each
    sample, so that no root of a matrix is taken and singular covariances (N <= D) need no care. Raises ``ValueError``.
    """
    x, y = _checked(x, y)
    a, b = _root(x), _root(y)
    overlap = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    means = float(((x.mean(axis=0) - y.mean(axis=0)) ** 2).sum())
    return max(means + float((a**2).sum() + (b**2).sum() - 2 * overlap), 0.0)


def frechet_estimate(x: np.ndarray, y: np.ndarray) -> Estimate:
    """``frechet`` with the influence of each sample on it.

    The sum of the singular values of M = A_x A_y' = U s V' changes with the weight of sample i of ``x`` as (U s U')_ii
    does; the centres move it not at all, because the columns of A add up to zero.
    """
    x, y = _checked(x, y)
    a, b = ((side - side.mean(axis=0)) / np.sqrt(len(side) - 1) for side in (x, y))
    u, s, v = _svd(a, b)
    apart = x.mean(axis=0) - y.mean(axis=0)
    value = float((apart**2).sum() + (a**2).sum() + (b**2).sum() - 2 * s.sum())
    influences = []
    for root, vectors, way in ((a, u, apart), (b, v, -apart)):
        n = len(root)
        moved = n * ((root**2).sum(axis=1) - (vectors**2 * s).sum(axis=1)) + 2 * np.sqrt(n - 1) * (root @ way)
        influences.append(moved - moved.mean())
    return Estimate(max(value, 0.0), influences[0], influences[1], bounds=(0.0, np.inf))


def _svd(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of A B', (N, M), without that matrix where there are fewer dimensions than samples: U (N, k), s, V (M, k)."""
    if min(len(a), len(b)) <= a.shape[1]:
        u, s, vt = np.linalg.svd(a @ b.T, full_matrices=False)
        return u, s, vt.T
    (qa, ra), (qb, rb) = np.linalg.qr(a), np.linalg.qr(b)
    u, s, vt = np.linalg.svd(ra @ rb.T)
    return qa @ u, s, qb @ vt.T


def _checked(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(f"features are {x.shape} and {y.shape}, not (N, D) and (M, D) with N and M at least 2")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("features are not finite")
    return x, y


def _root(x: np.ndarray) -> np.ndarray:
    """A matrix A with A' A the covariance of ``x``, (N, D): at most D rows."""
    centred = (x - x.mean(axis=0)) / np.sqrt(len(x) - 1)
    return np.asarray(np.linalg.qr(centred, mode="r")) if len(x) > x.shape[1] else centred
