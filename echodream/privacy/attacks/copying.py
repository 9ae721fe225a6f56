"""The data-copying test C_T: are samples closer to the training set than unseen data are?"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from echodream.errors import UserError
from echodream.metrics.bootstrap import Interval
from echodream.privacy.nearest_neighbors import check_embeddings, nearest_rows


@dataclass(frozen=True)
class Copying:
    """C_T of Meehan et al. (arXiv 2004.05675).

    ``score``: average of ``cells`` weighted by their share of held-out data: well below 0 (-3 and less) where samples
    lie closer to the training set than held-out data do; above 0 where they lie farther away. Its interval is 1.96
    standard errors wide on both sides, those of samples that are as close as held-out data are. ``cells``: z of the
    Mann-Whitney test in each cell that was used; ``left_out``: cells with too few samples or no held-out data.
    """

    score: Interval
    cells: tuple[float, ...]
    left_out: int


def mann_whitney_z(held_out: np.ndarray, samples: np.ndarray) -> float:
    """Standardised U: of pairs, how often a sample's distance exceeds a held-out one's, ties half. (n,) and (m,)."""
    from scipy.stats import rankdata

    n, m = len(held_out), len(samples)
    ranks = rankdata(np.concatenate([held_out, samples]))
    larger = ranks[n:].sum() - m * (m + 1) / 2
    counts = np.unique(ranks, return_counts=True)[1]
    ties = (counts**3 - counts).sum() / ((n + m) * (n + m - 1))
    variance = n * m / 12 * (n + m + 1 - ties)
    return float((larger - n * m / 2) / np.sqrt(variance)) if variance > 0 else 0.0


def data_copying(
    synthetic: Tensor, train: Tensor, held_out: Tensor, cells: int = 1, least: int = 10, seed: int = 0
) -> Copying:
    """C_T over ``cells`` k-means cells of the training embeddings, (m, D), euclidean.

    ``synthetic``, (n, D), and ``held_out``, (l, D): for independent units give one row per patient. Cells with fewer
    than ``least`` samples, or as few held-out rows, are left out.
    """
    if cells < 1 or least < 1:
        raise UserError(f"cells={cells} and least={least} must be at least 1.")
    x, y, z = check_embeddings("data_copying", synthetic, train, held_out)
    if cells > len(y):
        raise UserError(f"cells={cells} is more than the {len(y)} training embeddings: choose fewer.")
    near, far = (nearest_rows(each, y)[0].cpu().numpy() for each in (x, z))
    places = _cells(y, cells, seed)
    where = [nearest_rows(each, places)[1].cpu().numpy() for each in (x, z)]
    scores, weights = [], []
    for cell in range(len(places)):
        inside = near[where[0] == cell], far[where[1] == cell]
        if min(map(len, inside)) >= least:
            scores.append(mann_whitney_z(inside[1], inside[0]))
            weights.append(len(inside[1]))
    if not scores:
        raise UserError(f"No cell has {least} samples and {least} held-out rows: choose fewer cells or a lower least.")
    shares = np.array(weights) / sum(weights)
    score, half = float(shares @ scores), float(1.96 * np.sqrt((shares**2).sum()))
    return Copying(Interval(score, score - half, score + half), tuple(scores), len(places) - len(scores))


def _cells(train: Tensor, cells: int, seed: int) -> Tensor:
    """Centres of k-means cells of ``train``, (m, D); (cells, D)."""
    from scipy.cluster.vq import kmeans2

    if cells == 1:
        return train.mean(dim=0, keepdim=True)
    centres, _ = kmeans2(train.cpu().numpy(), cells, minit="++", rng=np.random.default_rng(seed))
    return torch.from_numpy(centres).to(train)
