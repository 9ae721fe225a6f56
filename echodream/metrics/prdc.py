"""Precision, recall, density and coverage (arXiv 2002.09797) from matrices of squared distances.

``privacy.audit.fidelity`` finds the same by exact distances, row by row, for the few features of an identity network;
here thousands of features are compared, and a matrix product is a hundred times faster.
"""

import numpy as np

from echodream.metrics.bootstrap import Estimate, mean

NAMES = ("precision", "recall", "density", "coverage")


def neighbours(within: np.ndarray, between: np.ndarray, others: np.ndarray, k: int) -> dict[str, Estimate]:
    """Of samples against real rows: squared distances (N, N), (N, M), (M, M), and ``k`` neighbours.

    ``precision``: share of samples inside a real row's ball, which reaches to its k-th nearest other real row;
    ``recall``: share of real rows inside a sample's ball; ``density``: balls around a sample, over k; ``coverage``:
    share of real rows with a sample in their ball. Intervals take radii as they are: a row of the other set matters by
    what it alone holds, and would be lost without it. Raises ``ValueError``.
    """
    if not 1 <= k < min(between.shape):
        raise ValueError(f"k={k} neighbours need more than {k} rows, and there are {between.shape}")
    inside = between < radii(others, k)[None]
    balls = between < radii(within, k)[:, None]
    dense, each = mean(inside.sum(axis=1) / k), mean(inside.mean(axis=0) * (inside.shape[1] / k))
    return {
        "precision": _held(inside.T),
        "recall": _of_real(_held(balls)),
        "density": Estimate(dense.value, dense.x, each.x, (0.0, np.inf)),
        "coverage": _of_real(_held(inside)),
    }


def radii(within: np.ndarray, k: int) -> np.ndarray:
    """Squared distance of each row to its ``k``-th nearest other row: (N, N) to (N,)."""
    apart = within.copy()
    np.fill_diagonal(apart, np.inf)
    found: np.ndarray = np.partition(apart, k - 1, axis=1)[:, k - 1]
    return found


def _held(by: np.ndarray) -> Estimate:
    """Share of columns that a row holds, bool (R, C): the first set are the columns, the second the rows."""
    found = mean(by.any(axis=0).astype(float), counted=True)
    if found.value in (0.0, 1.0):
        return found  # its interval is exact
    alone = mean((by & (by.sum(axis=0) == 1)).mean(axis=1) * len(by))
    return Estimate(found.value, found.x, alone.x, found.bounds, found.counted)


def _of_real(found: Estimate) -> Estimate:
    """With the sets exchanged: a share of real rows."""
    return Estimate(found.value, found.y, found.x, found.bounds, found.counted)
