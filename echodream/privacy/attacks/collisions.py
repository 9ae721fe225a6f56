"""Collisions: the share of pairs of samples with different seeds that show the same identity."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from echodream.errors import UserError
from echodream.metrics.bootstrap import QUANTILE_975, Interval
from echodream.privacy.similarity import Similarity, normalize


@dataclass(frozen=True)
class Collisions:
    """Pairs of samples with different seeds and the same identity, that is, a similarity of at least ``threshold``.

    ``pairs``: share of pairs that collide, with its jackknife interval over samples. ``samples``: share of samples in a
    colliding pair. ``identities``: 1 / pairs, the number of equally likely identities with this collision rate.
    """

    pairs: Interval
    samples: float
    identities: float
    threshold: float


def collisions(samples: Tensor, threshold: float, similarity: Similarity = "cosine", block: int = 1024) -> Collisions:
    """Collisions of ``samples``, (n, D), embeddings of one sample per seed."""
    rows = normalize(samples, similarity, "samples").double()
    count = len(rows)
    if count < 3:
        raise UserError(f"the collision rate needs three or more samples, but there are {count}: generate more samples")
    colliding = torch.zeros(count, dtype=torch.float64, device=rows.device)
    for start in range(0, count, block):
        part = rows[start : start + block]
        similarities = -torch.cdist(part, rows) if similarity == "euclidean" else part @ rows.T
        similarities[torch.arange(len(part)), torch.arange(start, start + len(part))] = -torch.inf
        colliding[start : start + block] = (similarities >= threshold).double().sum(dim=1)
    collided = colliding.cpu().numpy()
    rate = collided.sum() / (count * (count - 1))
    leave_one_out = (collided.sum() - 2 * collided) / ((count - 1) * (count - 2))
    variance = (count - 1) / count * ((leave_one_out - leave_one_out.mean()) ** 2).sum()
    error = np.sqrt(variance) * QUANTILE_975
    pairs = Interval(float(rate), float(max(rate - error, 0.0)), float(min(rate + error, 1.0)))
    return Collisions(pairs, float((collided > 0).mean()), float(1 / rate) if rate else float("inf"), threshold)
