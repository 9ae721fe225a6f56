"""Fidelity metrics of feature sets, as entries of evaluation.json, with warnings."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from echodream.evaluation.feature_extraction import FeatureSets, RecordingSet
from echodream.evaluation.table import MetricRecord, metric_record, small_sample_warnings
from echodream.metrics.fidelity import METRICS, MetricWithFloor, average_subsets, compare_features
from echodream.networks.extractors.inception import Inception

SUBSET_COUNT = 8
"""Number of random subsets over which metrics are averaged, if a set has more samples than are compared."""


def fidelity_metrics(
    sets: FeatureSets, count: int, neighbors: int, seed: int, warnings: Sequence[str] = ()
) -> Iterator[tuple[str, MetricRecord]]:
    """Name and entry of each applicable metric of ``metrics.fidelity.METRICS``, on ``count`` samples of each set.

    With reconstructed TEST samples, the entry "autoencoder" of a distance is the distance between reconstructed and
    original TEST samples.
    """
    spectra, logits = sets.extractor.feature_kind == "spectrum", isinstance(sets.extractor, Inception)
    largest = max(len(each.features) for each in (sets.synthetic, sets.test, sets.train))
    results: list[dict[str, MetricWithFloor]] = []
    autoencoder: dict[str, MetricWithFloor] = {}
    for number in range(SUBSET_COUNT if largest > count else 1):
        synthetic, test, train = (
            each.subset(count, number, spectra, logits) for each in (sets.synthetic, sets.test, sets.train)
        )
        results.append(compare_features(synthetic, test, train, neighbors, seed))
        if sets.reconstructed is not None and number == 0:  # subset 0 has the same samples in both sets
            reconstructed = sets.reconstructed.subset(count, number, spectra)
            autoencoder = compare_features(reconstructed, test, train, neighbors, seed)
    dimensions = test.rows.shape[1]
    units = {"synthetic_recordings": synthetic, "TEST_patients": test, "TRAIN_patients": train}
    common = small_sample_warnings(**{name: each.units.count() for name, each in units.items()})
    if (published := sets.extractor.published_sample_count()) is not None and count < published:
        common.append(f"published values use {published:,} samples")
    common += [*_short_clip_warnings(sets), *warnings]
    for name, metric in average_subsets(results).items():
        is_biased = name == "frechet" and count <= dimensions
        bias = ["N is not above D: the distance and its floor are biased upward"] if is_biased else []
        record = metric_record(
            metric.value, metric.floor, count, count, METRICS[name].better, dimensions, bias + common, metric.spread
        )
        if METRICS[name].is_distance and name in autoencoder:
            record["autoencoder"] = asdict(autoencoder[name].value)
        yield sets.extractor.metric_name(name, sets.frame_count), record


def frame_rate_warning(synthetic: RecordingSet, real: RecordingSet) -> list[str]:
    """A warning if frame rates differ, because clips with equal numbers of frames then differ in duration."""
    fps, real_fps = (float(recordings.rows["FPS"].median()) for recordings in (synthetic, real))
    rates = f"synthetic videos have {fps:g} frames per second, real ones {real_fps:g}"
    return [f"{rates}: their clips differ in duration"] if abs(fps / real_fps - 1) > 0.02 else []


def _short_clip_warnings(sets: FeatureSets) -> list[str]:
    named = {"synthetic": sets.synthetic, "TEST": sets.test, "TRAIN": sets.train}
    return [
        f"{each.padded_clips} of {len(each.rows)} {name} clips are shorter than {sets.frame_count} frames: "
        "the last frame is repeated"
        for name, each in named.items()
        if each.padded_clips
    ]
