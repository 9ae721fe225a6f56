"""Unbiased squared maximum mean discrepancies (MMD) between two sets of features; 0 for equal distributions.

All kernels are functions of dot products of features, which ``DotProducts`` computes once.
"""

from dataclasses import dataclass

import numpy as np

from echodream.metrics.bootstrap import Estimate
from echodream.metrics.frechet import check_features


@dataclass(frozen=True)
class DotProducts:
    """Dot products of features x, (N, D), and y, (M, D): ``xx``, (N, N), ``xy``, (N, M), ``yy``, (M, M), in float64."""

    xx: np.ndarray
    xy: np.ndarray
    yy: np.ndarray
    dimensions: int

    @classmethod
    def from_features(cls, x: np.ndarray, y: np.ndarray) -> "DotProducts":
        """The dot products of ``x`` and ``y``. Raises ``ValueError`` for invalid features."""
        x, y = check_features(x, y)
        return cls(x @ x.T, x @ y.T, y @ y.T, x.shape[1])

    def squared_distances(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Squared Euclidean distances within x, (N, N), between x and y, (N, M), and within y, (M, M)."""
        x, y = self.xx.diagonal(), self.yy.diagonal()
        within_x = np.maximum(x[:, None] + x - 2 * self.xx, 0.0)
        between = np.maximum(x[:, None] + y - 2 * self.xy, 0.0)
        within_y = np.maximum(y[:, None] + y - 2 * self.yy, 0.0)
        np.fill_diagonal(within_x, 0.0)
        np.fill_diagonal(within_y, 0.0)
        return within_x, between, within_y


def polynomial_mmd(products: DotProducts, degree: int = 3, offset: float = 1.0) -> Estimate:
    """Squared MMD with the kernel (x'y / D + offset)^degree.

    The defaults give the kernel inception distance (arXiv 1801.01401); ``degree`` 2 and ``offset`` 0 give the kernel of
    JEDi (arXiv 2410.05203), up to a constant factor.
    """
    matrices = (products.xx, products.xy, products.yy)
    return mmd_from_kernels(*((matrix / products.dimensions + offset) ** degree for matrix in matrices))


def gaussian_mmd(products: DotProducts) -> Estimate:
    """Squared MMD with the kernel exp(-|x - y|^2 / (2 s^2)) as in CMMD (arXiv 2401.09603).

    s^2 is the median squared distance within ``y``, so the metric does not depend on the scale of the features.
    """
    distances = products.squared_distances()
    width = float(np.median(distances[2][np.triu_indices(len(products.yy), 1)])) or 1.0
    return mmd_from_kernels(*(np.exp(squared / (-2 * width)) for squared in distances))


def mmd_from_kernels(xx: np.ndarray, xy: np.ndarray, yy: np.ndarray) -> Estimate:
    """Unbiased squared MMD from kernel matrices within and between the sets, (N, N), (N, M) and (M, M)."""
    n, m = xy.shape
    x = (xx.sum(axis=1) - xx.diagonal()) / (n - 1)
    y = (yy.sum(axis=1) - yy.diagonal()) / (m - 1)
    value = float(x.mean() + y.mean() - 2 * xy.mean())
    influence_x, influence_y = 2 * (x - xy.mean(axis=1)), 2 * (y - xy.mean(axis=0))
    return Estimate(value, influence_x - influence_x.mean(), influence_y - influence_y.mean())
