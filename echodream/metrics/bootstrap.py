"""Confidence intervals with the patient as the sampling unit: bootstrap, exact binomial and Wilson intervals.

Rows (frames, recordings, pairs) of one patient are not independent, so the bootstrap resamples whole patients. It
takes the mean or median of rows (``bootstrap_mean``, ``bootstrap_median``), any statistic of independent rows
(``bootstrap_statistic``), a metric of weighted rows (``bootstrap_weights``, ``bootstrap_interval``), or a distance
between two sets from the influence of each row (``Estimate``, ``influence_interval``).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from echodream.errors import UserError
from echodream.metrics.binomial_bounds import clopper_pearson_lower, clopper_pearson_upper

CONFIDENCE = 0.95
INFLUENCE_REPEATS = 2000
MIN_UNITS_PER_CLASS = 3

Labels = Sequence[object] | np.ndarray
"""The sampling unit (patient or synthetic recording) of each row."""


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its two-sided confidence interval."""

    value: float
    low: float
    high: float


UNDEFINED = Interval(math.nan, math.nan, math.nan)


def clopper_pearson_interval(successes: int, trials: int, confidence: float = CONFIDENCE) -> Interval:
    """A proportion of independent trials with its exact interval (Clopper and Pearson 1934)."""
    if trials < 1:
        raise UserError("A proportion needs at least one trial, but there are no trials.")
    delta = (1 - confidence) / 2
    low = clopper_pearson_lower(successes, trials, delta)
    return Interval(successes / trials, low, clopper_pearson_upper(successes, trials, delta))


def wilson_interval(successes: int, trials: int, confidence: float = CONFIDENCE) -> Interval:
    """A proportion with its Wilson score interval; ``value`` is the center of the interval, not the proportion."""
    from scipy.special import ndtri

    z = float(ndtri((1 + confidence) / 2))
    center = (successes + z * z / 2) / (trials + z * z)
    half = z / (trials + z * z) * math.sqrt(successes * (trials - successes) / trials + z * z / 4)
    return Interval(center, center - half, center + half)


def unit_indices(units: Labels | None, count: int) -> np.ndarray:
    """Index 0, 1, ... of the sampling unit of each row, (count,); without ``units`` each row is its own unit."""
    if units is None:
        return np.arange(count)
    if len(units) != count:
        raise UserError(f"{count} rows came with {len(units)} patients: give a patient for each row.")
    return np.unique(np.array([str(name) for name in units]), return_inverse=True)[1]


def resample(generator: np.random.Generator, count: int, repeats: int) -> Iterator[np.ndarray]:
    """``repeats`` bootstrap samples of ``count`` units: indices sampled with replacement, (count,)."""
    return (generator.integers(count, size=count) for _ in range(repeats))


def percentile_interval(
    value: float, resampled: Sequence[float] | np.ndarray, confidence: float = CONFIDENCE
) -> Interval:
    """``value`` with percentiles of the ``resampled`` values; those that are not finite are left out."""
    finite = np.asarray(resampled)[np.isfinite(resampled)]
    if not len(finite):
        return Interval(float(value), math.nan, math.nan)
    low, high = np.quantile(finite, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(value), float(low), float(high))


def bootstrap_mean(values: np.ndarray, units: Labels | None = None, repeats: int = 1000, seed: int = 0) -> Interval:
    """The mean of rows, (N,), with the bootstrap interval over ``units``, (N,)."""
    unit = unit_indices(units, len(values))
    totals, counts = np.bincount(unit, values), np.bincount(unit)
    samples = resample(np.random.default_rng(seed), len(totals), repeats)
    return percentile_interval(float(np.mean(values)), [totals[rows].sum() / counts[rows].sum() for rows in samples])


def bootstrap_median(values: np.ndarray, units: Labels | None = None, repeats: int = 1000, seed: int = 0) -> Interval:
    """The median of rows, (N,), with the bootstrap interval over ``units``, (N,). NaN rows are left out.

    The ends are NaN with fewer than two units.
    """
    unit = unit_indices(units, len(values))[np.isfinite(values)]
    values = values[np.isfinite(values)]
    if not len(values):
        return UNDEFINED
    count, order = int(unit.max()) + 1, np.argsort(values, kind="stable")
    values, unit, median = values[order], unit[order], float(np.median(values))
    if len(np.unique(unit)) < 2:
        return Interval(median, math.nan, math.nan)
    medians = []
    for rows in resample(np.random.default_rng(seed), count, repeats):
        cumulative = np.cumsum(np.bincount(rows, minlength=count)[unit])
        if cumulative[-1]:
            medians.append(_weighted_median(values, cumulative))
    return percentile_interval(median, medians)


def _weighted_median(values: np.ndarray, cumulative: np.ndarray) -> float:
    """Median of sorted ``values`` with the ``cumulative`` sums of their whole-number weights, (N,) both."""
    middle = [(cumulative[-1] - 1) // 2, cumulative[-1] // 2]
    lower, upper = values[np.searchsorted(cumulative, middle, side="right")]
    return float((lower + upper) / 2)


def bootstrap_statistic(
    statistic: Callable[..., float], sets: Sequence[np.ndarray], repeats: int = 1000, seed: int = 0
) -> Interval:
    """``statistic(*sets)`` with its bootstrap interval; the rows of each set, (N_i, ...), are resampled separately."""
    generator = np.random.default_rng(seed)
    samples = zip(*(resample(generator, len(rows), repeats) for rows in sets), strict=True)
    resampled = [statistic(*(rows[index] for rows, index in zip(sets, indices, strict=True))) for indices in samples]
    return percentile_interval(statistic(*sets), resampled)


def bootstrap_weights(units: Labels, repeats: int = 1000, seed: int = 0) -> np.ndarray:
    """Weights of N rows, float64 (1 + repeats, N): ones, then the count of each row's unit in each bootstrap sample.

    A metric of weighted rows maps the weights to 1 + ``repeats`` values; the first value is the estimate.
    """
    unit = unit_indices(units, len(units))
    count = int(unit.max()) + 1
    counts = [np.bincount(rows, minlength=count) for rows in resample(np.random.default_rng(seed), count, repeats)]
    weights = np.array(counts, np.float64).reshape(repeats, count)[:, unit]
    return np.concatenate([np.ones((1, len(unit))), weights])


def bootstrap_interval(values: np.ndarray, confidence: float = CONFIDENCE, patients: int | None = None) -> Interval:
    """The first of ``values``, (1 + repeats,), with percentiles of the others; see ``bootstrap_weights``.

    A metric of exactly 0 or 1 does not vary in the bootstrap. In this case, with ``patients``, the interval is the
    exact (Clopper-Pearson) one of a proportion of ``patients`` trials. It also holds for a ROC AUC, with n patients of
    the smaller class: the probability that n disjoint pairs are all ordered correctly is at most AUC^n.
    """
    if not np.isfinite(values[0]):
        return Interval(float(values[0]), math.nan, math.nan)
    interval = percentile_interval(values[0], values[1:], confidence)
    if patients and interval.low == interval.high == interval.value and interval.value in (0.0, 1.0):
        bound = ((1 - confidence) / 2) ** (1 / patients)
        return Interval(1.0, bound, 1.0) if interval.value == 1.0 else Interval(0.0, 0.0, 1 - bound)
    return interval


def paired_ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """``numerator / denominator`` in each bootstrap sample; NaN where ``denominator`` is not positive."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator > 0, numerator / denominator, np.nan)


@dataclass(frozen=True)
class Estimate:
    """A distance between two sets of rows, and the influence of each row on it.

    Resampling rows biases a distance upward, because repeated rows change the distance itself, and its percentile
    interval may exclude it. The bootstrap is therefore applied to the first-order change of the distance: the influence
    of each row, in closed form. For means and proportions this is the ordinary bootstrap.
    """

    value: float
    x: np.ndarray
    """Influence of each row of the first set, (N,): derivative of ``value`` by the row's share of weight; mean 0."""
    y: np.ndarray
    """Influence of each row of the second set, (M,)."""
    bounds: tuple[float, float] = (-np.inf, np.inf)
    """Lowest and highest possible value."""
    proportion: bool = False
    """Whether the estimate is a proportion of rows: 0 and 1 then have an exact interval."""


@dataclass(frozen=True)
class SamplingUnits:
    """The sampling unit and class of each row. Units are resampled within their class."""

    names: np.ndarray
    """Patients, or synthetic recordings, (N,)."""
    classes: np.ndarray | None = None
    """(N,); the class of a unit is that of its first row. Ignored if a class has less than ``MIN_UNITS_PER_CLASS``."""

    def select(self, rows: np.ndarray | slice) -> "SamplingUnits":
        """The units of ``rows``."""
        return SamplingUnits(self.names[rows], None if self.classes is None else self.classes[rows])

    def count(self) -> int:
        """Number of different units."""
        return len(np.unique(self.names))


def mean_estimate(values: np.ndarray, proportion: bool = False) -> Estimate:
    """The mean of ``values``, (N,), as an estimate of one set; with ``proportion`` they are zeros and ones."""
    average = float(np.mean(values))
    bounds = (0.0, 1.0) if proportion else (-np.inf, np.inf)
    return Estimate(average, values - average, np.zeros(0), bounds, proportion)


def influence_interval(estimate: Estimate, x: SamplingUnits, y: SamplingUnits | None = None, seed: int = 0) -> Interval:
    """``estimate`` with its 95 % bootstrap interval over the units of both sets, ``x`` of N rows and ``y`` of M rows.

    The ends are NaN if a set with an influence other than 0 has a single unit.
    """
    pairs = [(estimate.x, x), (estimate.y, y)]
    sets = [(influence, units) for influence, units in pairs if units is not None and len(influence)]
    if estimate.proportion and not any(influence.any() for influence, _ in sets):
        count = sum(units.count() for _, units in sets)
        exact = clopper_pearson_interval(round(estimate.value) * count, count)
        return Interval(estimate.value, exact.low, exact.high)
    if any(influence.any() and units.count() < 2 for influence, units in sets):
        return Interval(estimate.value, math.nan, math.nan)
    generator, change = np.random.default_rng(seed), np.zeros(INFLUENCE_REPEATS)
    for influence, units in sets:
        if influence.any():
            change += _resampled_change(influence, units, generator)
    interval = percentile_interval(estimate.value, estimate.value + change)
    low, high = np.clip([interval.low, interval.high], *estimate.bounds)
    return Interval(estimate.value, float(low), float(high))


def _resampled_change(influence: np.ndarray, units: SamplingUnits, generator: np.random.Generator) -> np.ndarray:
    """Change of the estimate in each bootstrap sample of the units of one set, (INFLUENCE_REPEATS,)."""
    unit = unit_indices(units.names, len(influence))
    totals, counts = np.bincount(unit, influence), np.bincount(unit)
    classes = np.zeros(len(totals))
    if units.classes is not None:
        unit_classes = units.classes[np.unique(unit, return_index=True)[1]]
        if np.unique(unit_classes, return_counts=True)[1].min() >= MIN_UNITS_PER_CLASS:
            classes = unit_classes
    change = np.zeros(INFLUENCE_REPEATS)
    for name in np.unique(classes):
        total, rows = totals[classes == name], counts[classes == name]
        samples = np.stack([*resample(generator, len(total), INFLUENCE_REPEATS)])
        widening = np.sqrt(len(total) / (len(total) - 1))  # the bootstrap of n units underestimates the variance
        mean_change = total[samples].sum(axis=1) / rows[samples].sum(axis=1) - total.sum() / rows.sum()
        change += widening * mean_change * rows.sum() / len(influence)
    return change
