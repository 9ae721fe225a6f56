"""Unbiased squared maximum mean discrepancies (MMD) between two sets of features; 0 for equal distributions.

All kernels are functions of scalar products of features, which ``DotProducts`` computes once.
"""

from dataclasses import dataclass

import numpy as np

from echodream.metrics.bootstrap import Estimate
from echodream.metrics.frechet import check_features


@dataclass(frozen=True)
class DotProducts:
    """Scalar products within and between features ``x``, (N, D), and ``y``, (M, D), in float64."""

    xx: np.ndarray
    """(N, N)."""
    xy: np.ndarray
    """(N, M)."""
    yy: np.ndarray
    """(M, M)."""
    dimensions: int

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray) -> "DotProducts":
        """From features. Raises ``ValueError`` as ``check_features``."""
        x, y = check_features(x, y)
        return cls(x @ x.T, x @ y.T, y @ y.T, x.shape[1])

    def squared_distances(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Squared Euclidean distances within x, between x and y, within y: (N, N), (N, M), (M, M)."""
        x, y = self.xx.diagonal(), self.yy.diagonal()
        parts = [x[:, None] + x - 2 * self.xx, x[:, None] + y - 2 * self.xy, y[:, None] + y - 2 * self.yy]
        for part in (parts[0], parts[2]):
            np.fill_diagonal(part, 0.0)
        within_x, between, within_y = (np.maximum(part, 0.0, out=part) for part in parts)
        return within_x, between, within_y


def polynomial_mmd(products: DotProducts, degree: int = 3, offset: float = 1.0) -> Estimate:
    """Squared MMD with the kernel (x'y / D + offset)^degree; by default the kernel inception distance (1801.01401).

    ``degree`` 2 and ``offset`` 0 are the kernel of JEDi (arXiv 2410.05203), up to its scale.
    """
    parts = (products.xx, products.xy, products.yy)
    return mmd_from_kernels(*((part / products.dimensions + offset) ** degree for part in parts))


def gaussian_mmd(products: DotProducts) -> Estimate:
    """Squared MMD with the kernel exp(-|x - y|^2 / (2 s^2)) as in CMMD (arXiv 2401.09603).

    s^2 is the median squared distance within ``y``, so the metric does not depend on the scale of the features.
    """
    within_x, between, within_y = products.squared_distances()
    width = float(np.median(within_y[np.triu_indices(len(within_y), 1)]))
    width = width if width > 0 else 1.0
    return mmd_from_kernels(*(np.exp(part / (-2 * width)) for part in (within_x, between, within_y)))


def mmd_from_kernels(xx: np.ndarray, xy: np.ndarray, yy: np.ndarray) -> Estimate:
    """Unbiased squared MMD from kernel matrices within and between the sets, (N, N), (N, M) and (M, M)."""
    n, m = xy.shape
    x = (xx.sum(axis=1) - xx.diagonal()) / (n - 1)
    y = (yy.sum(axis=1) - yy.diagonal()) / (m - 1)
    value = float(x.mean() + y.mean() - 2 * xy.mean())
    influence_x, influence_y = 2 * (x - xy.mean(axis=1)), 2 * (y - xy.mean(axis=0))
    return Estimate(value, influence_x - influence_x.mean(), influence_y - influence_y.mean())
