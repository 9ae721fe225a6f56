"""The fidelity metrics of ``stage=evaluate``: distances between features of synthetic and of real samples.

To add a metric, add an entry to ``METRICS``: ``compare_features`` computes each entry, and the report shows its
description.
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
    """A set of samples and the reference set, with cached intermediate results of several metrics."""

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
    """Explanation for the report."""
    published_names: tuple[str, ...] = ()
    """Prefixes of other names of the metric in records (``Extractor.title``)."""
    is_distance: bool = False
    """Whether the metric is a distance above 0, which the report shows as a multiple of its floor (the verdict uses
    those of ``report.sections.fidelity.JUDGED``)."""
    measures: str = "features"
    """Input of the metric: "features", "spectrum" (power at each frequency), or "logits" (of the samples alone; the
    floor is the value of the reference set)."""


def _prdc(name: str, description: str) -> FidelityMetric:
    return FidelityMetric(lambda pair: pair.prdc[name], HIGHER, description)


_FRECHET = "Frechet distance between synthetic and real features of the network in the name; smaller is closer."
_MMD = "Maximum mean discrepancy between synthetic and real features of the network in the name; 0 if they agree."
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
    "precision": _prdc("precision", "Share of synthetic samples near real ones: are the samples plausible?"),
    "recall": _prdc("recall", "Share of real samples near synthetic ones: is the variety of real data covered?"),
    "density": _prdc(
        "density", "Density of real samples around synthetic ones; about 1 for a second set of real data."
    ),
    "coverage": _prdc("coverage", "Share of real samples that have a synthetic sample nearby."),
    "IS": FidelityMetric(
        lambda pair: inception_score(np.asarray(pair.samples.logits)),
        HIGHER,
        "Confidence and variety of the Inception network's predicted classes; it uses no real samples.",
        ("inception score",),
        measures="logits",
    ),
    "log_spectral": FidelityMetric(
        lambda pair: log_spectral_estimate(pair.samples.rows, pair.reference.rows),
        LOWER,
        "Difference between power spectra in decibels: spectra of frames show blur and missing speckle, spectra over "
        "time show flicker and frozen texture.",
        ("log-spectral distance", "temporal log-spectral distance"),
        is_distance=True,
        measures="spectrum",
    ),
}


def fidelity_metric(title: str) -> FidelityMetric | None:
    """The metric of a record's entry ``title``, as frechet[classifier] or FVD16; None if it is not in ``METRICS``."""
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
    """Lowest and highest value over random subsets of the samples; None for a single subset."""


def average_subsets(subsets: Sequence[Mapping[str, Compared]]) -> dict[str, Compared]:
    """Each metric averaged over random subsets of the samples: mean values and interval ends, and the spread."""
    if len(subsets) == 1:
        return dict(subsets[0])
    averaged = {}
    for name in subsets[0]:
        value, floor = (
            Interval(*np.mean([astuple(getattr(subset[name], field)) for subset in subsets], axis=0).tolist())
            for field in ("value", "floor")
        )
        values = [subset[name].value.value for subset in subsets]
        averaged[name] = Compared(value, floor, (min(values), max(values)))
    return averaged


def compare_features(
    synthetic: Features, test: Features, train: Features, k: int = 5, seed: int = 0
) -> dict[str, Compared]:
    """Every metric of ``METRICS`` of ``synthetic`` against ``test``; the floor is ``train`` against ``test``.

    Raises ``ValueError`` unless all sets have the same N, because distances depend on N. PRDC uses min(``k``, N - 1)
    neighbors.
    """
    if not len(synthetic.rows) == len(test.rows) == len(train.rows):
        counts = f"{len(synthetic.rows)} synthetic, {len(test.rows)} test and {len(train.rows)} train"
        raise ValueError(f"{counts}: use the same number of each")
    k = min(k, len(test.rows) - 1)
    measures = "spectrum" if test.are_spectra else "features"
    values, floors = (_estimate_all(FeaturePair(samples, test, k), seed, measures) for samples in (synthetic, train))
    if synthetic.logits is not None:
        values |= _estimate_all(FeaturePair(synthetic, test, k), seed, "logits")
        floors |= _estimate_all(FeaturePair(test, test, k), seed, "logits")
    return {name: Compared(values[name], floors[name]) for name in METRICS if name in values}


def _estimate_all(pair: FeaturePair, seed: int, measures: str) -> dict[str, Interval]:
    return {
        name: influence_interval(metric.function(pair), pair.samples.units, pair.reference.units, seed)
        for name, metric in METRICS.items()
        if metric.measures == measures
    }
