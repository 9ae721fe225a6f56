"""The fidelity metrics of ``stage=evaluate``: distances between features of synthetic and of real samples.

``METRICS`` is the only place to edit for a new metric: ``compare_features`` computes every entry, the report explains
it with its description.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property

import numpy as np

from echodream.metrics.bootstrap import Estimate, Interval, SamplingUnits, influence_interval
from echodream.metrics.frechet import frechet_estimate
from echodream.metrics.inception_score import inception_score
from echodream.metrics.mmd import DotProducts, gaussian_mmd, polynomial_mmd
from echodream.metrics.prdc import prdc_estimates
from echodream.metrics.texture import log_spectral_estimate

LOWER, HIGHER, SAME = "lower", "higher", "same"
"""Which value is better; ``SAME``: as close as possible to that of real samples."""


@dataclass(frozen=True)
class Features:
    """Samples of one set in the feature space of an extractor."""

    rows: np.ndarray
    """(N, D)."""
    units: SamplingUnits
    """Patients, or synthetic recordings, (N,)."""
    logits: np.ndarray | None = None
    """Class logits of the Inception network, (N, K); None for other extractors."""
    are_spectra: bool = False
    """Whether the rows are powers at each frequency."""


@dataclass(frozen=True)
class FeaturePair:
    """A set of samples and the reference set, with what several metrics share computed once."""

    samples: Features
    reference: Features
    k: int
    """Neighbors of PRDC."""

    @cached_property
    def products(self) -> DotProducts:
        """Scalar products within and between the sets."""
        return DotProducts.of(self.samples.rows, self.reference.rows)

    @cached_property
    def prdc(self) -> dict[str, Estimate]:
        """Precision, recall, density and coverage."""
        return prdc_estimates(*self.products.squared_distances(), self.k)


@dataclass(frozen=True)
class FidelityMetric:
    """A metric of a ``FeaturePair``."""

    function: Callable[[FeaturePair], Estimate]
    better: str
    """``LOWER`` or ``HIGHER``."""
    description: str
    """One sentence for the report."""
    published_names: tuple[str, ...] = ()
    """Beginnings of the names that extractors give it (``Extractor.title``)."""
    is_distance: bool = False
    """Whether it is a distance above 0. The report gives distances as multiples of their floor, and its verdict
    uses them.
    """
    measures: str = "features"
    """What it is computed from: "features", "spectrum" (powers at each frequency), or "logits" (of the samples, without
    a reference set; its floor is its value for the reference set)."""


_FRECHET = "Distance between the two sets in the features that the name states; smaller is closer."
_MMD = "Difference between the two sets in the features that the name states; about 0 if there is none."
METRICS = {
    "frechet": FidelityMetric(
        lambda pair: frechet_estimate(pair.samples.rows, pair.reference.rows),
        LOWER,
        _FRECHET,
        ("FID", "FVD", "FD"),
        is_distance=True,
    ),
    "kernel": FidelityMetric(lambda pair: polynomial_mmd(pair.products), LOWER, _MMD, ("KID", "MMD")),
    "rbf": FidelityMetric(lambda pair: gaussian_mmd(pair.products), LOWER, _MMD),
    "quadratic": FidelityMetric(
        lambda pair: polynomial_mmd(pair.products, degree=2, offset=0.0), LOWER, _MMD, ("JEDi",)
    ),
    "precision": FidelityMetric(
        lambda pair: pair.prdc["precision"],
        HIGHER,
        "Share of synthetic samples that lie where real ones lie: are they plausible?",
    ),
    "recall": FidelityMetric(
        lambda pair: pair.prdc["recall"],
        HIGHER,
        "Share of real samples that lie where synthetic ones lie: is the whole variety there?",
    ),
    "density": FidelityMetric(
        lambda pair: pair.prdc["density"],
        HIGHER,
        "How densely real samples lie around a synthetic one; about 1 for a second real set.",
    ),
    "coverage": FidelityMetric(
        lambda pair: pair.prdc["coverage"], HIGHER, "Share of real samples that have a synthetic one nearby."
    ),
    "IS": FidelityMetric(
        lambda pair: inception_score(np.asarray(pair.samples.logits)),
        HIGHER,
        "How sure and how varied a network's classes are; it does not look at real samples.",
        ("inception score",),
        measures="logits",
    ),
    "log_spectral": FidelityMetric(
        lambda pair: log_spectral_estimate(pair.samples.rows, pair.reference.rows),
        LOWER,
        "Difference between power spectra in decibel: of frames, it notices blur and missing speckle; of the course "
        "of each pixel, flicker and frozen texture.",
        ("log-spectral distance", "temporal log-spectral distance"),
        is_distance=True,
        measures="spectrum",
    ),
}


def fidelity_metric(title: str) -> FidelityMetric | None:
    """The metric that a record calls ``title``, as frechet[classifier] or FVD16; None if it is no fidelity metric."""
    for name, metric in METRICS.items():
        names = "|".join(map(re.escape, (name, *metric.published_names)))
        if re.match(rf"(?:{names})(?![a-z])", title, re.IGNORECASE):
            return metric
    return None


@dataclass(frozen=True)
class Compared:
    """A metric of synthetic samples, and its floor: the same metric of real samples."""

    value: Interval
    floor: Interval
    spread: tuple[float, float] | None = None
    """Lowest and highest value over random draws of the samples; None for a single draw."""


def average_draws(draws: Sequence[Mapping[str, Compared]]) -> dict[str, Compared]:
    """Each metric averaged over random draws of the samples: means of values and of interval ends, and their spread."""
    if len(draws) == 1:
        return dict(draws[0])
    averaged = {}
    for name in draws[0]:
        value, floor = (
            Interval(*np.mean([astuple(getattr(draw[name], field)) for draw in draws], axis=0).tolist())
            for field in ("value", "floor")
        )
        values = [draw[name].value.value for draw in draws]
        averaged[name] = Compared(value, floor, (min(values), max(values)))
    return averaged


def compare_features(
    synthetic: Features, test: Features, train: Features, k: int = 5, seed: int = 0
) -> dict[str, Compared]:
    """Every metric of ``METRICS`` of ``synthetic`` against ``test``; the floor is ``train`` against ``test``.

    All sets need the same N, because distances depend on it: raises ``ValueError`` otherwise. ``k`` neighbors, or N - 1
    if that is less.
    """
    if not len(synthetic.rows) == len(test.rows) == len(train.rows):
        counts = f"{len(synthetic.rows)} synthetic, {len(test.rows)} test and {len(train.rows)} train"
        raise ValueError(f"{counts}: use the same number of each")
    k = min(k, len(test.rows) - 1)
    measures = "spectrum" if test.are_spectra else "features"
    values, floors = (_intervals(FeaturePair(samples, test, k), seed, measures) for samples in (synthetic, train))
    if synthetic.logits is not None:
        values |= _intervals(FeaturePair(synthetic, test, k), seed, "logits")
        floors |= _intervals(FeaturePair(test, test, k), seed, "logits")
    return {name: Compared(values[name], floors[name]) for name in METRICS if name in values}


def _intervals(pair: FeaturePair, seed: int, measures: str) -> dict[str, Interval]:
    return {
        name: influence_interval(metric.function(pair), pair.samples.units, pair.reference.units, seed)
        for name, metric in METRICS.items()
        if metric.measures == measures
    }
