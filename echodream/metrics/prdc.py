"""Precision, recall, density and coverage (PRDC) of synthetic samples (Naeem et al., arXiv 2002.09797).

The radius of the ball of a row is the distance of the row to its k-th nearest neighbor in the same set.
"""

from dataclasses import replace

import numpy as np

from echodream.metrics.bootstrap import Estimate, mean_estimate


def prdc_rows(in_real_ball: np.ndarray, in_synthetic_ball: np.ndarray, k: int) -> dict[str, np.ndarray]:
    """Values whose means are precision, recall, density and coverage.

    Precision and density have a value per sample, (N,), recall and coverage per real row, (M,). ``in_real_ball``:
    whether sample i lies in the ball of real row j, bool (N, M). ``in_synthetic_ball``: whether real row j lies in the
    ball of sample i, bool (N, M).
    """
    return {
        "precision": in_real_ball.any(axis=1).astype(np.float64),
        "recall": in_synthetic_ball.any(axis=0).astype(np.float64),
        "density": in_real_ball.sum(axis=1) / k,
        "coverage": in_real_ball.any(axis=0).astype(np.float64),
    }


def prdc_estimates(within: np.ndarray, between: np.ndarray, within_real: np.ndarray, k: int) -> dict[str, Estimate]:
    """PRDC from squared distances: within samples, (N, N), from samples to real rows, (N, M), within real rows, (M, M).

    Influences are computed with fixed radii: the ball of a row has an influence through the rows of the other set that
    only this ball contains. Raises ``ValueError`` unless 1 <= ``k`` < N, M.
    """
    if not 1 <= k < min(between.shape):
        raise ValueError(f"k={k} neighbors need more than {k} rows, and there are {between.shape}")
    in_real_ball = between < squared_radii(within_real, k)[None]
    in_synthetic_ball = between < squared_radii(within, k)[:, None]
    rows = prdc_rows(in_real_ball, in_synthetic_ball, k)
    density_of_real = mean_estimate(in_real_ball.mean(axis=0) * (in_real_ball.shape[1] / k))
    return {
        "precision": _coverage_estimate(rows["precision"], in_real_ball.T),
        "recall": _exchange_sets(_coverage_estimate(rows["recall"], in_synthetic_ball)),
        "density": replace(mean_estimate(rows["density"]), y=density_of_real.x, bounds=(0.0, np.inf)),
        "coverage": _exchange_sets(_coverage_estimate(rows["coverage"], in_real_ball)),
    }


def squared_radii(within: np.ndarray, k: int) -> np.ndarray:
    """Squared distance of each row to its ``k``-th nearest other row: (N, N) to (N,)."""
    distances = within.copy()
    np.fill_diagonal(distances, np.inf)
    return np.asarray(np.partition(distances, k - 1, axis=1)[:, k - 1])


def _coverage_estimate(is_covered: np.ndarray, balls: np.ndarray) -> Estimate:
    """Proportion of C rows that lie in any of the R ``balls`` of the other set, (R, C), from ``is_covered``, (C,)."""
    estimate = mean_estimate(is_covered, proportion=True)
    if estimate.value in (0.0, 1.0):
        return estimate  # a proportion of 0 or 1 has an exact interval
    covered_by_one = mean_estimate((balls & (balls.sum(axis=0) == 1)).mean(axis=1) * len(balls))
    return replace(estimate, y=covered_by_one.x)


def _exchange_sets(estimate: Estimate) -> Estimate:
    """``estimate`` with exchanged first and second set."""
    return replace(estimate, x=estimate.y, y=estimate.x)
