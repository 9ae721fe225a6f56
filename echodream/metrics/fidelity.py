"""The fidelity metrics of ``stage=evaluate``: distances between features of synthetic and of real samples."""

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
"""Preferred direction of a metric; ``SAME``: as close as possible to the value of real samples."""


@dataclass(frozen=True)
class Features:
    """Samples of one set in the feature space of an extractor."""

    rows: np.ndarray
    """Features, (N, D)."""
    units: SamplingUnits
    """Patient, or synthetic recording, of each row: (N,)."""
    logits: np.ndarray | None = None
    """Class logits of the Inception network, (N, K); None for other extractors."""
    are_spectra: bool = False
    """Whether the features are power spectra."""


@dataclass(frozen=True)
class FeaturePair:
    """A set of samples and a reference set, with cached intermediate results of several metrics."""

    samples: Features
    reference: Features
    k: int
    """Number of neighbors of precision, recall, density and coverage (PRDC)."""

    @cached_property
    def products(self) -> DotProducts:
        """Scalar products within and between the sets."""
        return DotProducts.from_features(self.samples.rows, self.reference.rows)

    @cached_property
    def prdc(self) -> dict[str, Estimate]:
        """Precision, recall, density and coverage."""
        return prdc_estimates(*self.products.squared_distances(), self.k)


@dataclass(frozen=True)
class FidelityMetric:
    """A metric of a ``FeaturePair``."""

    function: Callable[[FeaturePair], Estimate]
    better: str
    """Preferred direction: ``LOWER`` or ``HIGHER``."""
    description: str
    """Explanation of the metric in the report."""
    published_names: tuple[str, ...] = ()
    """Prefixes of the published names of the metric, which records also use (``Extractor.title``)."""
    is_distance: bool = False
    """Whether the metric is a nonnegative distance; the report shows distances as multiples of their floors."""
    input_kind: str = "features"
    """Input: "features", "spectrum" (power spectra), or "logits" (of one set; the floor is the value of real data)."""


def _prdc_metric(name: str, description: str) -> FidelityMetric:
    return FidelityMetric(lambda pair: pair.prdc[name], HIGHER, description)


_FRECHET = "Frechet distance between synthetic and real features of the named network; smaller is closer."
_MMD = "Maximum mean discrepancy between synthetic and real features of the named network; 0 for equal distributions."
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
    "precision": _prdc_metric("precision", "Share of synthetic samples near real samples; high for plausible samples."),
    "recall": _prdc_metric("recall", "Share of real samples near synthetic samples; low if variety is missing."),
    "density": _prdc_metric("density", "Density of real samples around synthetic samples; about 1 for real data."),
    "coverage": _prdc_metric("coverage", "Share of real samples that have a synthetic sample nearby."),
    "IS": FidelityMetric(
        lambda pair: inception_score(np.asarray(pair.samples.logits)),
        HIGHER,
        "Confidence and variety of the classes that the Inception network predicts; real samples are not used.",
        ("inception score",),
        input_kind="logits",
    ),
    "log_spectral": FidelityMetric(
        lambda pair: log_spectral_estimate(pair.samples.rows, pair.reference.rows),
        LOWER,
        "Difference between power spectra in decibels: spatial spectra show blur and missing speckle, temporal spectra "
        "show flicker and static texture.",
        ("log-spectral distance", "temporal log-spectral distance"),
        is_distance=True,
        input_kind="spectrum",
    ),
}


def fidelity_metric(title: str) -> FidelityMetric | None:
    """The metric with the name ``title`` in a record, such as frechet[classifier] or FVD16; None if unknown."""
    for name, metric in METRICS.items():
        names = "|".join(map(re.escape, (name, *metric.published_names)))
        if re.match(rf"(?:{names})(?![a-z])", title, re.IGNORECASE):
            return metric
    return None


@dataclass(frozen=True)
class MetricWithFloor:
    """Value of a metric for synthetic samples, and its floor: the value for real samples."""

    value: Interval
    floor: Interval
    spread: tuple[float, float] | None = None
    """Lowest and highest value over random subsets of the samples; None for a single subset."""


def average_subsets(subsets: Sequence[Mapping[str, MetricWithFloor]]) -> dict[str, MetricWithFloor]:
    """Means of each metric and of its interval ends over random subsets of the samples, with the range of values."""
    if len(subsets) == 1:
        return dict(subsets[0])
    averaged = {}
    for name in subsets[0]:
        value, floor = (
            Interval(*np.mean([astuple(getattr(subset[name], field)) for subset in subsets], axis=0).tolist())
            for field in ("value", "floor")
        )
        values = [subset[name].value.value for subset in subsets]
        averaged[name] = MetricWithFloor(value, floor, (min(values), max(values)))
    return averaged


def compare_features(
    synthetic: Features, test: Features, train: Features, k: int = 5, seed: int = 0
) -> dict[str, MetricWithFloor]:
    """All ``METRICS`` between ``synthetic`` and ``test``; the floor is the metric between ``train`` and ``test``.

    Raises ``ValueError`` unless all sets have the same N, because distances depend on N. PRDC uses min(``k``, N - 1)
    neighbors.
    """
    if not len(synthetic.rows) == len(test.rows) == len(train.rows):
        counts = f"{len(synthetic.rows)} synthetic, {len(test.rows)} test and {len(train.rows)} train"
        raise ValueError(f"{counts} samples: use equal numbers")
    k = min(k, len(test.rows) - 1)
    input_kind = "spectrum" if test.are_spectra else "features"
    values, floors = (_estimate_all(FeaturePair(samples, test, k), seed, input_kind) for samples in (synthetic, train))
    if synthetic.logits is not None:
        values |= _estimate_all(FeaturePair(synthetic, test, k), seed, "logits")
        floors |= _estimate_all(FeaturePair(test, test, k), seed, "logits")
    return {name: MetricWithFloor(values[name], floors[name]) for name in METRICS if name in values}


def _estimate_all(pair: FeaturePair, seed: int, input_kind: str) -> dict[str, Interval]:
    return {
        name: influence_interval(metric.function(pair), pair.samples.units, pair.reference.units, seed)
        for name, metric in METRICS.items()
        if metric.input_kind == input_kind
    }
