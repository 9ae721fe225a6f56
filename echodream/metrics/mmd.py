"""Squared maximum mean discrepancies between two sets of features: unbiased, so that equal distributions are at 0.

All kernels are functions of the products of features: ``Products`` are computed once for all of them.
"""

from dataclasses import dataclass

import numpy as np

from echodream.metrics.bootstrap import Estimate


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
        """Raises ``ValueError`` for what are no features, and for fewer than two."""
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
            raise ValueError(f"features are {x.shape} and {y.shape}, not (N, D) and (M, D) with N and M at least 2")
        return cls(x @ x.T, x @ y.T, y @ y.T, x.shape[1])

    def squares(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Squared Euclidean distances: (N, N), (N, M), (M, M)."""
        x, y = self.xx.diagonal(), self.yy.diagonal()
        parts = [x[:, None] + x - 2 * self.xx, x[:, None] + y - 2 * self.xy, y[:, None] + y - 2 * self.yy]
        for part in (parts[0], parts[2]):
            np.fill_diagonal(part, 0.0)
        within, between, others = (np.maximum(part, 0.0, out=part) for part in parts)
        return within, between, others


def polynomial_mmd(products: DotProducts, degree: int = 3, offset: float = 1.0) -> Estimate:
    """With the kernel (x'y / D + offset)^degree: by default that of the kernel inception distance (arXiv 1801.01401).

    ``degree`` 2 and ``offset`` 0 are the kernel of JEDi (arXiv 2410.05203), up to its scale.
    """
    parts = (products.xx, products.xy, products.yy)
    return mmd_from_kernels(*((part / products.dimensions + offset) ** degree for part in parts))


def gaussian_mmd(products: DotProducts) -> Estimate:
    """With the kernel exp(-|x - y|^2 / (2 s^2)) as in CMMD (arXiv 2401.09603).

    s^2 is the median squared distance within ``y``, so that no scale needs to be known of the features.
    """
    within, between, others = products.squares()
    width = float(np.median(others[np.triu_indices(len(others), 1)]))
    width = width if width > 0 else 1.0
    return mmd_from_kernels(*(np.exp(part / (-2 * width)) for part in (within, between, others)))


def mmd_from_kernels(xx: np.ndarray, xy: np.ndarray, yy: np.ndarray) -> Estimate:
    """From kernels within and between both sets, (N, N), (N, M) and (M, M); a row is not compared with itself."""
    n, m = xy.shape
    x = (xx.sum(axis=1) - xx.diagonal()) / (n - 1)
    y = (yy.sum(axis=1) - yy.diagonal()) / (m - 1)
    value = float(x.mean() + y.mean() - 2 * xy.mean())
    influence, other = 2 * (x - xy.mean(axis=1)), 2 * (y - xy.mean(axis=0))
    return Estimate(value, influence - influence.mean(), other - other.mean())
