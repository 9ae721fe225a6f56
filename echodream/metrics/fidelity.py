"""All distances between features of synthetic and of real samples, beside those between two sets of real ones."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from echodream.metrics.bootstrap import Estimate, Units, interval
from echodream.metrics.frechet import frechet_estimate
from echodream.metrics.intervals import Interval
from echodream.metrics.mmd import Products, gaussian, polynomial
from echodream.metrics.prdc import neighbours

BETTER = dict.fromkeys(("frechet", "kernel", "rbf", "quadratic"), "lower")
BETTER |= dict.fromkeys(("precision", "recall", "density", "coverage"), "higher")
"""Of each distance, what is better."""


@dataclass(frozen=True)
class Features:
    """Samples as an extractor sees them."""

    rows: np.ndarray
    """(N, D)."""
    units: Units
    """Whose they are: patients, or synthetic recordings."""

    def first(self, count: int) -> "Features":
        """The first ``count`` samples."""
        return Features(self.rows[:count], self.units.some(slice(count)))


@dataclass(frozen=True)
class Compared:
    """A figure with its interval, and the same figure of real against real."""

    value: Interval
    floor: Interval


def compare(synthetic: Features, test: Features, train: Features, k: int = 5, seed: int = 0) -> dict[str, Compared]:
    """Every distance of ``synthetic`` to ``test``, with that of ``train`` to ``test`` as the floor.

    N must be the same in all: distances move with it. ``k`` neighbours, fewer where N is not above. ``ValueError``.
    """
    if not len(synthetic.rows) == len(test.rows) == len(train.rows):
        counts = f"{len(synthetic.rows)} synthetic, {len(test.rows)} test and {len(train.rows)} train"
        raise ValueError(f"{counts}: give as many of each")
    near = min(k, len(test.rows) - 1)
    found = [
        {name: interval(each, side.units, test.units, seed) for name, each in _estimates(side, test, near)}
        for side in (synthetic, train)
    ]
    return {name: Compared(value, found[1][name]) for name, value in found[0].items()}


def _estimates(side: Features, test: Features, k: int) -> Iterator[tuple[str, Estimate]]:
    yield "frechet", frechet_estimate(side.rows, test.rows)
    products = Products.of(side.rows, test.rows)
    yield "kernel", polynomial(products)
    yield "rbf", gaussian(products)
    yield "quadratic", polynomial(products, degree=2, offset=0.0)
    yield from neighbours(*products.squares(), k).items()
