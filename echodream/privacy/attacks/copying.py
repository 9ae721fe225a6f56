"""Data-copying test C_T: are samples closer to the training set than held-out data are?"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from echodream.errors import UserError
from echodream.metrics.bootstrap import Interval


@dataclass(frozen=True)
class Copying:
    """Data-copying score C_T of Meehan et al. (arXiv 2004.05675).

    ``score``: mean of ``cells``, weighted by the shares of the held-out data in the cells. A score of -3 or less means
    that samples are closer to the training set than held-out data are; a score above 0 means that samples are farther
    away. The interval of the score is +-1.96 standard errors under the null hypothesis. ``cells``: z-score of the
    Mann-Whitney test in each cell. ``left_out``: number of cells with too few samples or held-out rows.
    """

    score: Interval
    cells: tuple[float, ...]
    left_out: int


def mann_whitney_z(held_out: np.ndarray, samples: np.ndarray) -> float:
    """z-score of the Mann-Whitney test, positive if the distances ``samples``, (m,), exceed ``held_out``, (n,)."""
    from scipy.stats import rankdata

    n, m = len(held_out), len(samples)
    ranks = rankdata(np.concatenate([held_out, samples]))
    u = ranks[n:].sum() - m * (m + 1) / 2
    counts = np.unique(ranks, return_counts=True)[1]
    ties = (counts**3 - counts).sum() / ((n + m) * (n + m - 1))
    variance = n * m / 12 * (n + m + 1 - ties)
    return float((u - n * m / 2) / np.sqrt(variance)) if variance > 0 else 0.0


def copying_score(
    samples: tuple[np.ndarray, np.ndarray], held_out: tuple[np.ndarray, np.ndarray], cells: int, min_rows: int = 10
) -> Copying:
    """C_T of samples and of held-out rows, each given by distances to the nearest training row and k-means cells, (n,).

    Rows must be independent: one row per sample and one per held-out patient. Cells with fewer than ``min_rows``
    samples or held-out rows are left out. Raises ``UserError`` if no cell is left.
    """
    scores, weights = [], []
    for cell in range(cells):
        near, reference = (distance[cells_of == cell] for distance, cells_of in (samples, held_out))
        if min(len(near), len(reference)) >= min_rows:
            scores.append(mann_whitney_z(reference, near))
            weights.append(len(reference))
    if not scores:
        raise UserError(f"No cell has {min_rows} samples and {min_rows} held-out rows: choose fewer cells.")
    shares = np.array(weights) / sum(weights)
    score, half = float(shares @ scores), float(1.96 * np.sqrt((shares**2).sum()))
    return Copying(Interval(score, score - half, score + half), tuple(scores), cells - len(scores))


def cell_centers(train: Tensor, cells: int, seed: int) -> Tensor:
    """Centers of the k-means cells of ``train``, (m, D): (cells, D)."""
    from scipy.cluster.vq import kmeans2

    if cells == 1:
        return train.mean(dim=0, keepdim=True)
    centers, _ = kmeans2(train.cpu().numpy(), cells, minit="++", rng=np.random.default_rng(seed))
    return torch.from_numpy(centers).to(train)
