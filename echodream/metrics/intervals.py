"""Intervals with the patient as the unit."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from echodream.errors import UserError
from echodream.metrics.binomial_bounds import clopper_pearson_lower, clopper_pearson_upper


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its two-sided interval."""

    value: float
    low: float
    high: float


def share(hits: int, trials: int, confidence: float = 0.95) -> Interval:
    """A share of independent trials with its exact (Clopper-Pearson) interval."""
    if trials < 1:
        raise UserError("A share needs at least one trial, and there is none.")
    delta = (1 - confidence) / 2
    low = clopper_pearson_lower(hits, trials, delta)
    return Interval(hits / trials, low, clopper_pearson_upper(hits, trials, delta))


def wilson(hits: int, trials: int, confidence: float = 0.95) -> Interval:
    """A share with Wilson's interval; ``value`` is its centre, not ``hits / trials``."""
    from scipy.special import ndtri

    z = float(ndtri((1 + confidence) / 2))
    centre = (hits + z * z / 2) / (trials + z * z)
    half = z / (trials + z * z) * math.sqrt(hits * (trials - hits) / trials + z * z / 4)
    return Interval(centre, centre - half, centre + half)


def units(groups: Sequence[object] | np.ndarray | None, count: int) -> np.ndarray:
    """Numbers 0.. of the patient (or other unit) of each of ``count`` rows, (count,); without groups, row numbers."""
    if groups is None:
        return np.arange(count)
    if len(groups) != count:
        raise UserError(f"{count} rows came with {len(groups)} patients: each row needs its own.")
    return np.unique(np.array([str(name) for name in groups]), return_inverse=True)[1]


def mean_interval(
    values: np.ndarray,
    groups: Sequence[object] | np.ndarray | None = None,
    confidence: float = 0.95,
    repeats: int = 1000,
    seed: int = 0,
) -> Interval:
    """The mean of rows, (n,), and its bootstrap interval by drawing whole patients (``groups``, (n,))."""
    unit = units(groups, len(values))
    totals, counts = np.bincount(unit, values), np.bincount(unit)
    generator, means = np.random.default_rng(seed), []
    for _ in range(repeats):
        drawn = generator.integers(len(totals), size=len(totals))
        means.append(totals[drawn].sum() / counts[drawn].sum())
    return _percentiles(float(np.mean(values)), np.array(means), confidence)


def bootstrap(
    statistic: Callable[..., float],
    arrays: Sequence[np.ndarray],
    confidence: float = 0.95,
    repeats: int = 1000,
    seed: int = 0,
) -> Interval:
    """``statistic(*arrays)`` and its bootstrap interval; each array, (n_i, ...), is resampled by rows on its own."""
    generator = np.random.default_rng(seed)
    drawn = [
        statistic(*(array[generator.integers(len(array), size=len(array))] for array in arrays)) for _ in range(repeats)
    ]
    return _percentiles(float(statistic(*arrays)), np.array(drawn), confidence)


def _percentiles(value: float, drawn: np.ndarray, confidence: float) -> Interval:
    low, high = np.nanquantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value, float(low), float(high))
