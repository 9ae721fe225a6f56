"""How much of the training set samples retrieve, and how often seeds collide."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from echodream.errors import UserError
from echodream.metrics.bootstrap import Interval
from echodream.privacy.similarity import Similarity, normalize


@dataclass(frozen=True)
class Retrieval:
    """Of ``total`` training images (or patients), how many are the nearest of some sample (arXiv 2411.16171).

    ``covered``: their share, which grows with the number of samples. ``score``: the image retrieval score: the share
    that as many samples as one likes would retrieve, if all that are retrievable were equally likely, with its
    interval. Neighbourhoods differ in size even for a perfect generator: compare with the score of held-out data.
    """

    covered: float
    score: Interval
    samples: int
    total: int


def retrieval(retrieved: Sequence[object] | np.ndarray, total: int, confidence: float = 0.95) -> Retrieval:
    """From the nearest training image (or patient) of each sample, (n,), out of ``total``."""
    from scipy.special import ndtri

    samples, distinct = len(retrieved), len({str(name) for name in retrieved})
    if not 1 <= distinct <= total:
        raise UserError(
            f"{distinct} distinct training images were retrieved of {total}: give n labels and their total."
        )
    sizes = np.arange(distinct, total + 1, dtype=np.float64)
    mean, spread = occupancy(sizes, samples)
    best = sizes[np.abs(mean - distinct).argmin()]
    z = float(ndtri((1 + confidence) / 2))
    likely = sizes[np.abs(mean - distinct) <= z * spread + 0.5]
    low, high = (likely.min(), likely.max()) if len(likely) else (best, best)
    return Retrieval(distinct / total, Interval(*(float(each / total) for each in (best, low, high))), samples, total)


def occupancy(sizes: np.ndarray, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the number of distinct values in ``draws`` uniform draws from ``sizes``; alike."""
    one = np.exp(draws * np.log1p(-1 / np.maximum(sizes, 1 + 1e-12)))
    two = np.exp(draws * np.log1p(-2 / np.maximum(sizes, 2 + 1e-12)))
    one, two = np.where(sizes > 1, one, 0.0), np.where(sizes > 2, two, 0.0)
    variance = sizes * (sizes - 1) * two + sizes * one - (sizes * one) ** 2
    return sizes * (1 - one), np.sqrt(np.maximum(variance, 0))


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
