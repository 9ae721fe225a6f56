"""How much of the training set samples retrieve, and how often seeds collide."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from echodream.errors import UserError
from echodream.metrics.bootstrap import Interval


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
