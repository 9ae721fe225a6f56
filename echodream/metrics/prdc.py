"""Precision, recall, density and coverage of synthetic samples (Naeem et al., arXiv 2002.09797).

The ball of a row reaches to its k-th nearest neighbor in its own set.
"""

from dataclasses import dataclass

import numpy as np

from echodream.metrics.bootstrap import Estimate, mean_estimate


@dataclass(frozen=True)
class BallMembership:
    """Which synthetic samples, N, and real rows, M, lie in each other's balls: bool (N, M) both."""

    in_real_ball: np.ndarray
    """Whether sample i lies in the ball of real row j."""
    in_synthetic_ball: np.ndarray
    """Whether real row j lies in the ball of sample i."""

    def per_row(self, k: int) -> dict[str, np.ndarray]:
        """Rows whose mean is the metric: precision and density of samples, (N,), recall and coverage of real rows."""
        return {
            "precision": self.in_real_ball.any(axis=1).astype(np.float64),
            "recall": self.in_synthetic_ball.any(axis=0).astype(np.float64),
            "density": self.in_real_ball.sum(axis=1) / k,
            "coverage": self.in_real_ball.any(axis=0).astype(np.float64),
        }


def prdc_estimates(within: np.ndarray, between: np.ndarray, others: np.ndarray, k: int) -> dict[str, Estimate]:
    """The four metrics from squared distances within and between samples and real rows: (N, N), (N, M), (M, M).

    Influences keep the radii fixed: a row of the other set matters by the rows that only its ball contains. Raises
    ``ValueError`` unless 1 <= ``k`` < N, M.
    """
    if not 1 <= k < min(between.shape):
        raise ValueError(f"k={k} neighbors need more than {k} rows, and there are {between.shape}")
    balls = BallMembership(between < squared_radii(others, k)[None], between < squared_radii(within, k)[:, None])
    rows = balls.per_row(k)
    density = mean_estimate(rows["density"])
    density_of_real = mean_estimate(balls.in_real_ball.mean(axis=0) * (balls.in_real_ball.shape[1] / k))
    return {
        "precision": _covered(rows["precision"], balls.in_real_ball.T),
        "recall": _exchanged(_covered(rows["recall"], balls.in_synthetic_ball)),
        "density": Estimate(density.value, density.x, density_of_real.x, (0.0, np.inf)),
        "coverage": _exchanged(_covered(rows["coverage"], balls.in_real_ball)),
    }


def squared_radii(within: np.ndarray, k: int) -> np.ndarray:
    """Squared distance of each row to its ``k``-th nearest other row: (N, N) to (N,)."""
    distances = within.copy()
    np.fill_diagonal(distances, np.inf)
    radii: np.ndarray = np.partition(distances, k - 1, axis=1)[:, k - 1]
    return radii


def _covered(covered: np.ndarray, balls: np.ndarray) -> Estimate:
    """Proportion of the first set, (C,), that is ``covered`` by the ``balls`` of the second, bool (R, C)."""
    estimate = mean_estimate(covered, proportion=True)
    if estimate.value in (0.0, 1.0):
        return estimate  # its interval is exact
    only_ball = mean_estimate((balls & (balls.sum(axis=0) == 1)).mean(axis=1) * len(balls))
    return Estimate(estimate.value, estimate.x, only_ball.x, estimate.bounds, estimate.proportion)


def _exchanged(estimate: Estimate) -> Estimate:
    """The estimate with first and second set exchanged."""
    return Estimate(estimate.value, estimate.y, estimate.x, estimate.bounds, estimate.proportion)
