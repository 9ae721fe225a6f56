"""Heart rate, periodicity and frame-to-frame change of synthetic and real recordings, from pixels alone."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from echodream.errors import UserError
from echodream.evaluation.feature_extraction import FeatureExtraction, RecordingSet
from echodream.evaluation.table import MetricRecord, metric_record, small_sample_warnings
from echodream.metrics import cardiac_cycle
from echodream.metrics.bootstrap import UNDEFINED, Interval, influence_interval, mean_estimate
from echodream.metrics.fidelity import SAME

MAX_CURVE_FRAMES = 192
"""Length of the curve of frame differences."""


class CardiacCycleMetrics:
    """Cardiac cycle metrics of a random sample of recordings; ``table`` has a column for each metric."""

    def __init__(self, recordings: RecordingSet, extraction: FeatureExtraction) -> None:
        self.seed, rows = extraction.seed, np.sort(extraction.sample_order(len(recordings.rows)))
        self.units = recordings.units(rows)
        self.fps = sorted(set(map(float, recordings.rows["FPS"])))
        title = f"beats, {recordings.argument}"
        measured = [_measure(recordings, row) for row in tqdm(rows.tolist(), title, disable=None, leave=False)]
        self.table = pd.DataFrame([metrics for metrics, _ in measured])
        self.differences = [differences for _, differences in measured]

    def summary(self, name: str) -> tuple[Interval, dict[str, float], int]:
        """Interval of the mean; mean, std and count; number of units: over recordings that have the metric ``name``."""
        values = self.table[name].to_numpy(float)
        known = np.isfinite(values)
        values, units = values[known], self.units.select(known)
        if not len(values):
            return UNDEFINED, {"mean": UNDEFINED.value, "std": UNDEFINED.value, "count": 0}, 0
        statistics = {"mean": float(values.mean()), "std": float(values.std()), "count": len(values)}
        return influence_interval(mean_estimate(values), units, seed=self.seed), statistics, units.count()

    def difference_curve(self) -> dict[str, list[float]]:
        """Mean difference of each frame to the next over recordings of sufficient length, in gray levels of 255."""
        points = []
        for frame in range(MAX_CURVE_FRAMES):
            longer = np.array([len(each) > frame for each in self.differences])
            if longer.sum() < 2:
                break
            values = np.array([each[frame] for each in self.differences if len(each) > frame])
            points.append(influence_interval(mean_estimate(values), self.units.select(longer), seed=self.seed))
        return {name: [getattr(point, name) for point in points] for name in ("value", "low", "high")}


def cardiac_cycle_metrics(
    synthetic: CardiacCycleMetrics, real: CardiacCycleMetrics
) -> Iterator[tuple[str, MetricRecord]]:
    """Name and entry of each metric: mean over synthetic recordings, and over real ones as the floor."""
    for name in map(str, synthetic.table):
        value, statistics, recordings = synthetic.summary(name)
        floor, real_statistics, patients = real.summary(name)
        warnings = small_sample_warnings(synthetic_recordings=recordings)
        warnings += small_sample_warnings(TEST_patients=patients) if patients else []
        counts = int(statistics["count"]), int(real_statistics["count"])
        record = metric_record(value, floor, *counts, SAME, warnings=warnings)
        yield name, {**record, "synthetic": statistics, "real": real_statistics}


def frame_difference_curves(synthetic: CardiacCycleMetrics, real: CardiacCycleMetrics) -> dict[str, Any]:
    """Curves of the difference between consecutive frames, for the synthetic and the real set."""
    named = {"synthetic": synthetic, "real": real}
    return {name: {**metrics.difference_curve(), "fps": metrics.fps} for name, metrics in named.items()}


def _measure(recordings: RecordingSet, row: int) -> tuple[dict[str, float], np.ndarray]:
    """Metrics of a recording by name, and its frame differences, (F - 1,)."""
    frames = recordings.store.frames(recordings.rows["FileName"][row]).mean(axis=-1) / 127.5 - 1
    rhythm = cardiac_cycle.estimate_rhythm(frames, float(recordings.rows["FPS"][row]))
    differences = cardiac_cycle.frame_difference_curve(frames)
    joins = _joins(recordings, row) if "Joins" in recordings.rows else []
    metrics = {
        "heart rate": rhythm.heart_rate,
        "periodicity": rhythm.periodicity,
        "area swing": cardiac_cycle.percentile_range(cardiac_cycle.area_curve(frames)),
        "frame difference": float(differences.mean()) if len(differences) else float("nan"),
        "jump ratio": cardiac_cycle.jump_ratio(frames) if len(differences) else float("nan"),
        "seam ratio": cardiac_cycle.seam_ratio(frames, [join for join in joins if 0 < join < len(frames)]),
    }
    return metrics, differences


def _joins(recordings: RecordingSet, row: int) -> list[int]:
    """Frames where generated windows join, from the column Joins; pandas may have read single numbers as floats."""
    cell = str(recordings.rows["Joins"][row])
    try:
        return [int(float(text)) for text in cell.split() if text not in ("nan", "None")]
    except (ValueError, OverflowError) as error:
        place = f"{recordings.store.root}: Joins of {recordings.rows['FileName'][row]}"
        raise UserError(f"{place} is {cell[:40]!r}, not frame numbers separated by spaces") from error
