"""A figure of two sets of samples, and its interval over units: patients of real sets, recordings of synthetic ones.

A distance does not go well with drawing rows again and again: rows that are drawn twice move the distance itself up, so
that its bootstrap interval may lie above it. What is bootstrapped here is therefore the distance's first-order change:
the influence of each row, found in closed form. For means and shares that is the ordinary bootstrap over units.
"""

from dataclasses import dataclass

import numpy as np

from echodream.metrics.intervals import Interval, share, units

REPEATS = 2000
ENOUGH = 3
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A figure of two sets, and how it changes with the weight of each of their rows."""

    value: float
    x: np.ndarray
    """Influence of each row of the first set, (N,): the change of ``value`` by its share of the weight; mean 0."""
    y: np.ndarray
    """Of each row of the second set, (M,)."""
    bounds: tuple[float, float] = (-np.inf, np.inf)
    """What the figure cannot leave."""
    counted: bool = False
    """Whether the figure is a share of rows, so that 0 and 1 have an interval too."""


@dataclass(frozen=True)
class Units:
    """Whose rows are, and of which class: units are drawn within their class, which is given and not by chance."""

    names: np.ndarray
    """Patients, or synthetic recordings, (N,)."""
    classes: np.ndarray | None = None
    """(N,); a unit's is that of its first row. None, or where a class has fewer than ``ENOUGH`` units: no classes."""

    def some(self, rows: np.ndarray | slice) -> "Units":
        """Those of these ``rows``."""
        return Units(self.names[rows], None if self.classes is None else self.classes[rows])

    def count(self) -> int:
        """How many there are."""
        return len(np.unique(self.names))


NOBODY = Units(np.zeros(0))


def interval(found: Estimate, x: Units, y: Units = NOBODY, seed: int = 0) -> Interval:
    """The 95 % interval of ``found`` by drawing whole units of both sets, of N and M rows, with return.

    NaN where a set that matters has one unit only.
    """
    there = [(each, side) for each, side in ((found.x, x), (found.y, y)) if len(each)]
    if found.counted and not any(each.any() for each, _ in there):
        return _certain(found, sum(side.count() for _, side in there))
    rng, moved = np.random.default_rng(seed), np.zeros(REPEATS)
    for influence, side in there:
        if influence.any() and side.count() < 2:
            return Interval(found.value, np.nan, np.nan)
        moved += _moved(influence, side, rng)
    ends = np.quantile(found.value + moved, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    low, high = np.clip(ends, *found.bounds)
    return Interval(found.value, float(low), float(high))


def _moved(influence: np.ndarray, side: Units, rng: np.random.Generator) -> np.ndarray:
    """How draws of units change the figure, (REPEATS,)."""
    if not influence.any():
        return np.zeros(REPEATS)
    unit = units(side.names, len(influence))
    totals, counts = np.bincount(unit, influence), np.bincount(unit)
    of = np.zeros(len(totals)) if side.classes is None else side.classes[np.unique(unit, return_index=True)[1]]
    if np.unique(of, return_counts=True)[1].min() < ENOUGH:
        of = np.zeros(len(totals))
    moved = np.zeros(REPEATS)
    for one in np.unique(of):
        own, rows = totals[of == one], counts[of == one]
        drawn = rng.integers(len(own), size=(REPEATS, len(own)))
        spread = np.sqrt(len(own) / (len(own) - 1))  # of few units drawn from themselves, made up for
        average = spread * (own[drawn].sum(axis=1) / rows[drawn].sum(axis=1) - own.sum() / rows.sum())
        moved += average * rows.sum() / len(influence)
    return moved


def mean(values: np.ndarray, counted: bool = False) -> Estimate:
    """The mean of ``values``, (N,), as a figure of one set; with ``counted`` a share, of zeros and ones."""
    average = float(np.mean(values))
    bounds = (0.0, 1.0) if counted else (-np.inf, np.inf)
    return Estimate(average, values - average, np.zeros(0), bounds, counted)


def _certain(found: Estimate, count: int) -> Interval:
    """Of a share that is 0 or 1 in all ``count`` units: Clopper and Pearson's."""
    exact = share(round(found.value) * count, count, CONFIDENCE)
    return Interval(found.value, exact.low, exact.high)
