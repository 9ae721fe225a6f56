"""Collisions: how often do samples of different seeds show one identity?"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from echodream.errors import UserError
from echodream.metrics.bootstrap import Interval
from echodream.privacy.similarity import Similarity, normalize


@dataclass(frozen=True)
class Collisions:
    """Samples of different seeds that show one identity.

    ``pairs``: probability that two samples are at ``threshold`` or above, with its jackknife interval over samples;
    ``samples``: share of samples that collide with another; ``identities``: 1 / pairs, the number of equally likely
    identities that would collide as often (infinite where no pair does).
    """

    pairs: Interval
    samples: float
    identities: float
    threshold: float


def collisions(
    samples: Tensor, threshold: float, similarity: Similarity = "cosine", block: int = 1024, confidence: float = 0.95
) -> Collisions:
    """Of embeddings of samples, one per seed, (n, D). Compare with the same on as many patients, one row each."""
    from scipy.special import ndtri

    rows = normalize(samples, similarity, "samples").double()
    count = len(rows)
    if count < 3:
        raise UserError(f"collisions needs three or more samples, and there are {count}.")
    partners = torch.zeros(count, dtype=torch.float64, device=rows.device)
    for start in range(0, count, block):
        part = rows[start : start + block]
        alike = -torch.cdist(part, rows) if similarity == "euclidean" else part @ rows.T
        alike[torch.arange(len(part)), torch.arange(start, start + len(part))] = -torch.inf
        partners[start : start + block] = (alike >= threshold).double().sum(dim=1)
    found = partners.cpu().numpy()
    rate = found.sum() / (count * (count - 1))
    without = (found.sum() - 2 * found) / ((count - 1) * (count - 2))
    error = np.sqrt((count - 1) / count * ((without - without.mean()) ** 2).sum()) * float(ndtri((1 + confidence) / 2))
    pairs = Interval(float(rate), float(max(rate - error, 0.0)), float(min(rate + error, 1.0)))
    return Collisions(pairs, float((found > 0).mean()), float(1 / rate) if rate else float("inf"), threshold)
