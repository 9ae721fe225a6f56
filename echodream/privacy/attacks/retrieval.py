"""Image retrieval score: the share of training images that can be the nearest neighbor of a sample."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from echodream.errors import UserError
from echodream.metrics.bootstrap import QUANTILE_975, Interval


@dataclass(frozen=True)
class Retrieval:
    """Share of ``total`` training images (or patients) that are the nearest neighbor of a sample (arXiv 2411.16171).

    ``covered``: the share that ``samples`` samples retrieve. ``score``: the image retrieval score with its interval, an
    estimate of the share for unlimited samples if all retrievable images are equally likely. Compare ``score`` with the
    score of held-out data: even for a perfect generator, images are not equally likely to be a nearest neighbor.
    """

    covered: float
    score: Interval
    samples: int
    total: int


def retrieval(retrieved: Sequence[object] | np.ndarray, total: int) -> Retrieval:
    """Retrieval from ``retrieved``, (n,): the nearest training image (or patient) of each sample, out of ``total``."""
    samples, distinct = len(retrieved), len({str(name) for name in retrieved})
    if not 1 <= distinct <= total:
        raise UserError(f"{distinct} distinct training images were retrieved of {total}: give labels and their total.")
    sizes = np.arange(distinct, total + 1, dtype=np.float64)
    mean, spread = occupancy(sizes, samples)
    best = sizes[np.abs(mean - distinct).argmin()]
    plausible = sizes[np.abs(mean - distinct) <= QUANTILE_975 * spread + 0.5]
    low, high = (plausible.min(), plausible.max()) if len(plausible) else (best, best)
    score = Interval(float(best / total), float(low / total), float(high / total))
    return Retrieval(distinct / total, score, samples, total)


def occupancy(sizes: np.ndarray, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the number of distinct values in ``draws`` draws from ``sizes``, (k,), values."""
    miss_one = np.exp(draws * np.log1p(-1 / np.maximum(sizes, 1 + 1e-12)))  # probability that a given value is missed
    miss_two = np.exp(draws * np.log1p(-2 / np.maximum(sizes, 2 + 1e-12)))
    miss_one, miss_two = np.where(sizes > 1, miss_one, 0.0), np.where(sizes > 2, miss_two, 0.0)
    variance = sizes * (sizes - 1) * miss_two + sizes * miss_one - (sizes * miss_one) ** 2
    return sizes * (1 - miss_one), np.sqrt(np.maximum(variance, 0))
