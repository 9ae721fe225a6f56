"""Figures with an interval whose unit is the patient: every figure is a function of weighted rows.

Rows of one patient are drawn together: ``draws`` says how often each row is there in each bootstrap sample, and a
metric takes these weights, (R, N), and returns R values, the first of them of the rows as they are.
"""

from collections.abc import Sequence

import numpy as np

from echodream.metrics.intervals import Interval, units

CONFIDENCE = 0.95


def draws(patients: Sequence[object] | np.ndarray, repeats: int = 1000, seed: int = 0) -> np.ndarray:
    """How often each row counts, float64 (1 + repeats, N): once, then as often as its patient was drawn."""
    unit = units(patients, len(patients))
    count = int(unit.max()) + 1
    generator = np.random.default_rng(seed)
    drawn = generator.integers(count, size=(repeats, count))
    often = np.stack([np.bincount(row, minlength=count) for row in drawn]) if repeats else np.zeros((0, count))
    return np.concatenate([np.ones((1, len(unit))), often[:, unit].astype(np.float64)])


def interval(values: np.ndarray, confidence: float = CONFIDENCE, patients: int | None = None) -> Interval:
    """The first of ``values``, (1 + repeats,), with percentiles of the others; those without a value do not count.

    Where no error (or nothing but errors) is found, no bootstrap sample has another: then the far end is that of the
    exact interval of so many ``patients``, if they are given. For a share that is Clopper and Pearson's. It holds for
    an AUC too, with the patients of the smaller class: so many separate pairs are all in order with a chance of at most
    the AUC to the power of their number.
    """
    others = values[1:][np.isfinite(values[1:])]
    if not len(others) or not np.isfinite(values[0]):
        return Interval(float(values[0]), float("nan"), float("nan"))
    low, high = np.quantile(others, [(1 - confidence) / 2, (1 + confidence) / 2])
    if patients and low == high == values[0] and values[0] in (0.0, 1.0):
        bound = ((1 - confidence) / 2) ** (1 / patients)
        low, high = (bound, 1.0) if values[0] == 1.0 else (0.0, 1 - bound)
    return Interval(float(values[0]), float(low), float(high))


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """``above / below`` draw by draw, NaN where ``below`` is not positive."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(below > 0, above / below, np.nan)
