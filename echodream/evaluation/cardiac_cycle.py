"""How synthetic hearts beat beside real ones: figures of each recording from its pixels alone."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from echodream.errors import UserError
from echodream.evaluation.feature_extraction import FeatureExtraction, RecordingSet
from echodream.evaluation.table import MetricRecord, metric_record, small_sample_warnings
from echodream.metrics import cardiac_cycle as beat
from echodream.metrics.bootstrap import Interval, influence_interval, mean_estimate
from echodream.metrics.fidelity import SAME

LONGEST = 192
"""Frames of the curve of frame differences."""


class CardiacCycleMetrics:
    """The figures of the recordings of ``side`` that are looked at."""

    def __init__(self, side: RecordingSet, look: FeatureExtraction) -> None:
        self.seed, drawn = look.seed, np.sort(look.order(len(side.rows)))
        rows = drawn.tolist()
        self.units = side.units(drawn)
        self.fps = sorted(set(map(float, side.rows["FPS"])))
        found = [_beat(side, row) for row in tqdm(rows, f"beats, {side.key}", disable=None, leave=False)]
        self.figures = pd.DataFrame([figures for figures, _ in found])
        self.changes = [change for _, change in found]

    def summary(self, name: str) -> tuple[Interval, dict[str, float], int]:
        """Mean over the recordings that have ``name``, with its interval; mean, std and count; and whose they are."""
        values = self.figures[name].to_numpy(float)
        there = np.isfinite(values)
        values, units = values[there], self.units.select(there)
        if not len(values):
            nothing = float("nan")
            return Interval(nothing, nothing, nothing), {"mean": nothing, "std": nothing, "count": 0}, 0
        facts = {"mean": float(values.mean()), "std": float(values.std()), "count": len(values)}
        return influence_interval(mean_estimate(values), units, seed=self.seed), facts, units.count()

    def curve(self) -> dict[str, list[float]]:
        """Mean change of each frame to the next, over the recordings that are as long, grey levels of 255."""
        points = []
        for frame in range(LONGEST):
            longer = np.array([len(change) > frame for change in self.changes])
            if longer.sum() < 2:
                break
            values = np.array([change[frame] for change in self.changes if len(change) > frame])
            points.append(influence_interval(mean_estimate(values), self.units.select(longer), seed=self.seed))
        return {name: [getattr(point, name) for point in points] for name in ("value", "low", "high")}


def cardiac_cycle_metrics(made: CardiacCycleMetrics, real: CardiacCycleMetrics) -> Iterator[tuple[str, MetricRecord]]:
    """Each figure of how hearts beat, over the recordings of both sides that have one."""
    for name in map(str, made.figures):
        (value, synthetic, recordings), (floor, facts, patients) = made.summary(name), real.summary(name)
        warnings = small_sample_warnings(synthetic_recordings=recordings) + small_sample_warnings(
            TEST_patients=patients
        ) * bool(patients)
        found = metric_record(value, floor, int(synthetic["count"]), int(facts["count"]), SAME, warnings=warnings)
        yield name, {**found, "synthetic": synthetic, "real": facts}


def frame_difference_curves(made: CardiacCycleMetrics, real: CardiacCycleMetrics) -> dict[str, Any]:
    """The change from frame to frame along time, on both sides."""
    return {"synthetic": {**made.curve(), "fps": made.fps}, "real": {**real.curve(), "fps": real.fps}}


def _beat(side: RecordingSet, row: int) -> tuple[dict[str, float], np.ndarray]:
    frames = side.store.frames(side.rows["FileName"][row]).mean(axis=-1) / 127.5 - 1
    found, change = beat.estimate_rhythm(frames, float(side.rows["FPS"][row])), beat.frame_difference_curve(frames)
    figures = {"heart rate": found.heart_rate, "periodicity": found.periodicity}
    figures["area swing"] = beat.percentile_range(beat.area_curve(frames))
    figures["frame difference"] = float(change.mean()) if len(change) else float("nan")
    figures["jump ratio"] = beat.jump_ratio(frames) if len(change) else float("nan")
    joins = _joins(side, row) if "Joins" in side.rows else []
    seam = beat.seam_ratio(frames, [join for join in joins if 0 < join < len(frames)])
    return {**figures, "seam ratio": seam}, change


def _joins(side: RecordingSet, row: int) -> list[int]:
    """Frame numbers separated by spaces; a column of single numbers may have been read as such."""
    cell = str(side.rows["Joins"][row])
    try:
        return [int(float(text)) for text in cell.split() if text not in ("nan", "None")]
    except (ValueError, OverflowError) as error:
        where = f"{side.store.root}: Joins of {side.rows['FileName'][row]}"
        raise UserError(f"{where} is {cell[:40]!r}, not frame numbers separated by spaces") from error
