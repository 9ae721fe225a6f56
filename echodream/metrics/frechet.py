"""Frechet distance between two sets of features."""

import numpy as np

from echodream.metrics.bootstrap import Estimate


def frechet_estimate(x: np.ndarray, y: np.ndarray) -> Estimate:
    """Squared Frechet distance of the rows ``x`` and the rows ``y``, as in FID, with the influence of each row.

    |m_x - m_y|^2 + tr(S_x) + tr(S_y) - 2 tr((S_x S_y)^(1/2)) with means m and unbiased covariances S (Dowson and
    Landau 1982). The last trace is the sum of the singular values s of A_x A_y' = U s V', where S = A' A, also for
    singular covariances (N <= D). The derivative of this trace by the weight of sample i of ``x`` is (U s U')_ii.
    Raises ``ValueError`` as ``check_features`` does.
    """
    x, y = check_features(x, y)
    a, b = ((rows - rows.mean(axis=0)) / np.sqrt(len(rows) - 1) for rows in (x, y))
    u, s, v = _svd_of_product(a, b)
    difference = x.mean(axis=0) - y.mean(axis=0)
    value = float((difference**2).sum() + (a**2).sum() + (b**2).sum() - 2 * s.sum())
    influences = []
    for factor, vectors, direction in ((a, u, difference), (b, v, -difference)):
        n = len(factor)
        influence = n * ((factor**2).sum(axis=1) - (vectors**2 * s).sum(axis=1))
        influence = influence + 2 * np.sqrt(n - 1) * (factor @ direction)
        influences.append(influence - influence.mean())
    return Estimate(max(value, 0.0), influences[0], influences[1], bounds=(0.0, np.inf))


def _svd_of_product(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """SVD of A B', (N, M): U (N, k), s (k,), V (M, k). If D < N and D < M, QR decompositions shrink A and B first."""
    if min(len(a), len(b)) <= a.shape[1]:
        u, s, vt = np.linalg.svd(a @ b.T, full_matrices=False)
        return u, s, vt.T
    (qa, ra), (qb, rb) = np.linalg.qr(a), np.linalg.qr(b)
    u, s, vt = np.linalg.svd(ra @ rb.T)
    return qa @ u, s, qb @ vt.T


def check_features(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``x``, (N, D), and ``y``, (M, D), as float64. Raises ``ValueError`` unless values are finite and N, M >= 2."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(f"features are {x.shape} and {y.shape}, not (N, D) and (M, D) with N and M at least 2")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("features are not finite")
    return x, y
