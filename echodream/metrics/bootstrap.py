"""Confidence intervals with the patient as the sampling unit: bootstrap, exact binomial and Wilson intervals.

Rows (frames, recordings, pairs) of one patient are not independent, so the bootstrap resamples whole patients.
``bootstrap_mean`` and ``bootstrap_median`` take rows, ``bootstrap_statistic`` takes sets of independent rows.
``bootstrap_weights`` and ``bootstrap_interval`` are for metrics of weighted rows. ``influence_interval`` is for
distances between two sets.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from echodream.errors import UserError
from echodream.metrics.binomial_bounds import clopper_pearson_lower, clopper_pearson_upper

CONFIDENCE = 0.95
QUANTILE_975 = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""
INFLUENCE_REPEATS = 2000
"""Number of bootstrap samples of ``influence_interval``."""
MIN_UNITS_PER_CLASS = 3
"""Minimum number of sampling units in each class for resampling within classes."""

Units = Sequence[object] | np.ndarray
"""The sampling unit (patient or synthetic recording) of each row."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its two-sided confidence interval."""

    value: float
    low: float
    high: float


UNDEFINED = Interval(math.nan, math.nan, math.nan)


def clopper_pearson_interval(successes: int, trials: int, confidence: float = CONFIDENCE) -> Interval:
    """The proportion of successes in independent trials, with the exact interval (Clopper and Pearson 1934)."""
    if trials < 1:
        raise UserError("A proportion needs at least one trial, but there are no trials.")
    delta = (1 - confidence) / 2
    low = clopper_pearson_lower(successes, trials, delta)
    return Interval(successes / trials, low, clopper_pearson_upper(successes, trials, delta))


def wilson_interval(successes: int, trials: int, confidence: float = CONFIDENCE) -> Interval:
    """The Wilson score interval of a proportion; ``value`` is the center of the interval, not the proportion."""
    from scipy.stats import binomtest

    ends = binomtest(successes, trials).proportion_ci(confidence, "wilson")
    return Interval(float(ends.low + ends.high) / 2, float(ends.low), float(ends.high))


def unit_indices(units: Units | None, count: int) -> np.ndarray:
    """Index of the sampling unit of each row, int (count,); without ``units``, each row is a sampling unit."""
    if units is None:
        return np.arange(count)
    if len(units) != count:
        raise UserError(f"{count} rows have {len(units)} patients: give one patient for each row.")
    return np.unique(np.array([str(name) for name in units]), return_inverse=True)[1]


def resample(generator: np.random.Generator, count: int, repeats: int) -> Iterator[np.ndarray]:
    """Indices of the units in each of ``repeats`` bootstrap samples of ``count`` units: int (count,) each."""
    return (generator.integers(count, size=count) for _ in range(repeats))


def percentile_interval(
    value: float, resampled: Sequence[float] | np.ndarray, confidence: float = CONFIDENCE
) -> Interval:
    """``value`` with the percentile interval of the finite ``resampled`` values; NaN ends if no value is finite."""
    finite = np.asarray(resampled)[np.isfinite(resampled)]
    if not len(finite):
        return Interval(float(value), math.nan, math.nan)
    low, high = np.quantile(finite, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(value), float(low), float(high))


def bootstrap_mean(values: np.ndarray, units: Units | None = None, repeats: int = 1000, seed: int = 0) -> Interval:
    """The mean of ``values``, (N,), with the bootstrap interval over ``units``, (N,)."""
    unit = unit_indices(units, len(values))
    totals, counts = np.bincount(unit, values), np.bincount(unit)
    samples = resample(np.random.default_rng(seed), len(totals), repeats)
    return percentile_interval(float(np.mean(values)), [totals[rows].sum() / counts[rows].sum() for rows in samples])


def bootstrap_median(values: np.ndarray, units: Units | None = None, repeats: int = 1000, seed: int = 0) -> Interval:
    """The median of the finite ``values``, (N,), with the bootstrap interval over ``units``, (N,).

    The ends of the interval are NaN with fewer than two units.
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
    """Median of sorted ``values``, (N,), from the ``cumulative`` sums of their integer weights, (N,)."""
    middle = [(cumulative[-1] - 1) // 2, cumulative[-1] // 2]
    lower, upper = values[np.searchsorted(cumulative, middle, side="right")]
    return float((lower + upper) / 2)


def bootstrap_statistic(
    statistic: Callable[..., float], sets: Sequence[np.ndarray], repeats: int = 1000, seed: int = 0
) -> Interval:
    """``statistic(*sets)`` with the bootstrap interval; the rows of each set, (N_i, ...), are resampled separately."""
    generator = np.random.default_rng(seed)
    samples = zip(*(resample(generator, len(rows), repeats) for rows in sets), strict=True)
    resampled = [statistic(*(rows[index] for rows, index in zip(sets, indices, strict=True))) for indices in samples]
    return percentile_interval(statistic(*sets), resampled)


def bootstrap_weights(units: Units, repeats: int = 1000, seed: int = 0) -> np.ndarray:
    """Bootstrap weights of N rows, float64 (1 + repeats, N): a row of ones, then one row per bootstrap sample.

    The weight of a row is the count of its unit in the bootstrap sample. A metric of weighted rows maps the weights to
    1 + ``repeats`` values; the first value is the estimate.
    """
    unit = unit_indices(units, len(units))
    count = int(unit.max()) + 1
    counts = [np.bincount(rows, minlength=count) for rows in resample(np.random.default_rng(seed), count, repeats)]
    weights = np.array(counts, np.float64).reshape(repeats, count)[:, unit]
    return np.concatenate([np.ones((1, len(unit))), weights])


def bootstrap_interval(values: np.ndarray, confidence: float = CONFIDENCE, patients: int | None = None) -> Interval:
    """The estimate ``values[0]`` with percentiles of ``values[1:]``, from ``bootstrap_weights``: (1 + repeats,).

    A metric of exactly 0 or 1 does not vary in the bootstrap. If ``patients`` is given, such a metric has the exact
    (Clopper-Pearson) interval of ``patients`` trials. For a ROC AUC, ``patients`` is the number n of patients in the
    smaller class, because n disjoint pairs are all ordered correctly with a probability of at most AUC^n.
    """
    if not np.isfinite(values[0]):
        return Interval(float(values[0]), math.nan, math.nan)
    interval = percentile_interval(values[0], values[1:], confidence)
    if patients and interval.low == interval.high == interval.value and interval.value in (0.0, 1.0):
        bound = ((1 - confidence) / 2) ** (1 / patients)
        return Interval(1.0, bound, 1.0) if interval.value == 1.0 else Interval(0.0, 0.0, 1 - bound)
    return interval


def paired_ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """``numerator / denominator`` for each bootstrap sample; NaN where ``denominator`` is not positive."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator > 0, numerator / denominator, np.nan)


@dataclass(frozen=True)
class Estimate:
    """A distance between two sets of rows, with the influence of each row on the distance.

    Repeated rows bias a distance upward, so the percentile interval of the ordinary bootstrap may exclude the distance.
    The bootstrap is therefore applied to the first-order change of the distance, from the influence of each row in
    closed form. For means and proportions, the result equals that of the ordinary bootstrap.
    """

    value: float
    x: np.ndarray
    """Influence of each row of the first set, (N,): derivative of ``value`` by the weight of the row; mean 0."""
    y: np.ndarray
    """Influence of each row of the second set, (M,)."""
    bounds: tuple[float, float] = (-np.inf, np.inf)
    """Lowest and highest possible value."""
    proportion: bool = False
    """Whether the estimate is a proportion of rows; a proportion of 0 or 1 has an exact interval."""


@dataclass(frozen=True)
class SamplingUnits:
    """The sampling unit and class of each row. Units are resampled within their class."""

    names: np.ndarray
    """Patient, or synthetic recording, of each row: (N,)."""
    classes: np.ndarray | None = None
    """Class of each row, (N,); not used if some class has fewer than ``MIN_UNITS_PER_CLASS`` units."""

    def select(self, rows: np.ndarray | slice) -> "SamplingUnits":
        """The sampling units of ``rows``."""
        return SamplingUnits(self.names[rows], None if self.classes is None else self.classes[rows])

    def count(self) -> int:
        """Number of distinct sampling units."""
        return len(np.unique(self.names))


def mean_estimate(values: np.ndarray, proportion: bool = False) -> Estimate:
    """The mean of ``values``, (N,), as an ``Estimate`` of one set; with ``proportion``, values are 0 or 1."""
    average = float(np.mean(values))
    bounds = (0.0, 1.0) if proportion else (-np.inf, np.inf)
    return Estimate(average, values - average, np.zeros(0), bounds, proportion)


def influence_interval(estimate: Estimate, x: SamplingUnits, y: SamplingUnits | None = None, seed: int = 0) -> Interval:
    """``estimate`` with the 95 % bootstrap interval over the units of both sets: ``x`` of N rows, ``y`` of M rows.

    The ends of the interval are NaN if a set with influences other than 0 has a single unit.
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
    """Change of the estimate in each bootstrap sample of the units of one set: (INFLUENCE_REPEATS,)."""
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
        samples = generator.integers(len(total), size=(INFLUENCE_REPEATS, len(total)))
        widening = np.sqrt(len(total) / (len(total) - 1))  # the bootstrap of n units underestimates the variance
        mean_change = total[samples].sum(axis=1) / rows[samples].sum(axis=1) - total.sum() / rows.sum()
        change += widening * mean_change * rows.sum() / len(influence)
    return change
