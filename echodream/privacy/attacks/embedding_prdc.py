"""Precision, recall, density and coverage of embeddings, with exact distances and intervals over patients."""

import numpy as np
import torch
from torch import Tensor

from echodream.metrics.bootstrap import Interval, bootstrap_mean
from echodream.metrics.prdc import prdc_rows
from echodream.privacy.nearest_neighbors import check_embeddings, distance_blocks, neighbor_radii


def prdc_intervals(synthetic: Tensor, real: Tensor, k: int = 5, seed: int = 0) -> dict[str, Interval]:
    """PRDC (``metrics.prdc``) of embeddings, (N, D) and (M, D), by Euclidean distance to ``k`` neighbors.

    Recall and coverage are bootstrapped over ``real``, precision and density over ``synthetic``, with fixed radii.
    """
    x, y = check_embeddings("PRDC", synthetic, real)
    radii_x, radii_y = neighbor_radii(x, k), neighbor_radii(y, k)
    blocks = distance_blocks(x, y)
    parts = [torch.stack([block < radii_y, block < radii_x[rows][:, None]]).cpu() for rows, block in blocks]
    in_real_ball, in_synthetic_ball = np.asarray(torch.cat(parts, dim=1))
    rows = prdc_rows(in_real_ball, in_synthetic_ball, k)
    return {name: bootstrap_mean(values, seed=seed) for name, values in rows.items()}
