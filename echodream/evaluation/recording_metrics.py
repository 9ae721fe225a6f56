"""Metrics of single recordings, such as heart rate or speckle SNR: means over a set, with intervals."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pandas as pd

from echodream.datamodules.key_frames import evenly_spaced_frames
from echodream.evaluation.feature_extraction import FeatureExtraction, RecordingSet
from echodream.evaluation.table import MetricRecord, metric_record, small_sample_warnings
from echodream.metrics.bootstrap import UNDEFINED, Interval, SamplingUnits, influence_interval, mean_estimate
from echodream.metrics.fidelity import SAME
from echodream.metrics.texture import DEPTH_BANDS, speckle_snr, speckle_width
from echodream.progress import progress_bar

_T = TypeVar("_T")
SPECKLE_FRAMES = 4
"""Number of evenly spaced frames of a recording from which speckle statistics are computed."""


@dataclass
class RecordingMetrics:
    """Metrics of single recordings; ``table`` has a row per recording and a column per metric."""

    table: pd.DataFrame
    units: SamplingUnits
    seed: int
    proportions: bool = False
    """Whether the metrics are 0 or 1, so that their means are proportions."""

    def summary(self, name: str) -> tuple[Interval, dict[str, float], int]:
        """Interval of the mean of the metric ``name``; its mean, std and count by key; number of sampling units.

        Recordings with a value that is not finite are left out.
        """
        values = self.table[name].to_numpy(float)
        known = np.isfinite(values)
        values, units = values[known], self.units.select(known)
        if not len(values):
            return UNDEFINED, {"mean": UNDEFINED.value, "std": UNDEFINED.value, "count": 0}, 0
        statistics = {"mean": float(values.mean()), "std": float(values.std()), "count": len(values)}
        return (
            influence_interval(mean_estimate(values, self.proportions), units, seed=self.seed),
            statistics,
            units.count(),
        )


def compare_means(synthetic: RecordingMetrics, real: RecordingMetrics) -> Iterator[tuple[str, MetricRecord]]:
    """Yield name and entry of each metric: the mean over synthetic recordings; floor: the mean over real recordings."""
    for name in map(str, synthetic.table):
        value, statistics, recordings = synthetic.summary(name)
        floor, real_statistics, patients = real.summary(name)
        warnings = small_sample_warnings(synthetic_recordings=recordings)
        warnings += small_sample_warnings(TEST_patients=patients) if patients else []
        counts = int(statistics["count"]), int(real_statistics["count"])
        record = metric_record(value, floor, *counts, SAME, warnings=warnings)
        yield name, {**record, "synthetic": statistics, "real": real_statistics}


def measure_recordings(
    measure: Callable[[RecordingSet, int], _T], recordings: RecordingSet, extraction: FeatureExtraction, title: str
) -> tuple[np.ndarray, list[_T]]:
    """At most ``extraction.max_samples`` random rows in ascending order, and the result of ``measure`` for each."""
    rows = np.sort(extraction.sample_order(len(recordings.rows)))
    progress = progress_bar(rows.tolist(), f"{title}, {recordings.cli_arg}", leave=False)
    return rows, [measure(recordings, row) for row in progress]


def speckle_metrics(recordings: RecordingSet, extraction: FeatureExtraction) -> RecordingMetrics:
    """Speckle SNR by depth and speckle width of at most ``extraction.max_samples`` recordings."""
    rows, table = measure_recordings(_measure_speckle, recordings, extraction, "speckle")
    return RecordingMetrics(pd.DataFrame(table), recordings.units(rows), extraction.seed)


def _measure_speckle(recordings: RecordingSet, row: int) -> dict[str, float]:
    frames = recordings.comparable_frames(row)
    selected = frames[evenly_spaced_frames(len(frames), min(SPECKLE_FRAMES, len(frames)))]
    gray = (recordings.read(row, selected.tolist()).mean(dim=0).numpy() + 1) * 127.5
    ratios = {f"speckle SNR, {band}": value for band, value in zip(DEPTH_BANDS, speckle_snr(gray), strict=True)}
    axial, lateral = speckle_width(gray)
    return {**ratios, "speckle width along depth": axial, "speckle width across": lateral}
