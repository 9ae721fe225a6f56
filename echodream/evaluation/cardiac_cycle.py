"""Heart rate, periodicity and frame-to-frame change of synthetic and real recordings, from their pixels."""

from typing import Any

import numpy as np
import pandas as pd

from echodream.errors import UserError
from echodream.evaluation.feature_extraction import FeatureExtraction, RecordingSet
from echodream.evaluation.recording_metrics import RecordingMetrics, measure_recordings
from echodream.metrics import cardiac_cycle
from echodream.metrics.bootstrap import influence_interval, mean_estimate

MAX_CURVE_FRAMES = 192
"""Maximum length of the curve of frame differences, in frames."""


class CardiacCycleMetrics(RecordingMetrics):
    """Cardiac cycle metrics of a random sample of recordings, and frame differences of each recording."""

    def __init__(self, recordings: RecordingSet, extraction: FeatureExtraction) -> None:
        rows, measured = measure_recordings(_measure_cardiac_cycle, recordings, extraction, "beats")
        table = pd.DataFrame([metrics for metrics, _ in measured])
        super().__init__(table, recordings.units(rows), extraction.seed)
        self.fps = sorted(set(map(float, recordings.rows["FPS"])))
        self.differences = [differences for _, differences in measured]

    def difference_curve(self) -> dict[str, list[float]]:
        """Mean absolute difference of frames n and n + 1 over recordings with these frames, in gray levels of 255."""
        points = []
        for frame in range(MAX_CURVE_FRAMES):
            longer = np.array([len(each) > frame for each in self.differences])
            values = np.array([each[frame] for each in self.differences if len(each) > frame])
            if len(values) < 2:
                break
            points.append(influence_interval(mean_estimate(values), self.units.select(longer), seed=self.seed))
        return {name: [getattr(point, name) for point in points] for name in ("value", "low", "high")}


def frame_difference_curves(synthetic: CardiacCycleMetrics, real: CardiacCycleMetrics) -> dict[str, Any]:
    """Curves of the difference between consecutive frames, for the synthetic and the real set."""
    named = {"synthetic": synthetic, "real": real}
    return {name: {**metrics.difference_curve(), "fps": metrics.fps} for name, metrics in named.items()}


def _measure_cardiac_cycle(recordings: RecordingSet, row: int) -> tuple[dict[str, float], np.ndarray]:
    """Metrics of a recording by name, and its frame differences, (F - 1,)."""
    frames = recordings.store.frames(recordings.rows["FileName"][row]).mean(axis=-1) / 127.5 - 1
    rhythm = cardiac_cycle.estimate_rhythm(frames, float(recordings.rows["FPS"][row]))
    differences = cardiac_cycle.frame_difference_curve(frames)
    joins = _window_starts(recordings, row) if "Joins" in recordings.rows else []
    metrics = {
        "heart rate": rhythm.heart_rate,
        "periodicity": rhythm.periodicity,
        "area swing": cardiac_cycle.percentile_range(cardiac_cycle.area_curve(frames)),
        "frame difference": float(differences.mean()) if len(differences) else float("nan"),
        "jump ratio": cardiac_cycle.jump_ratio(frames) if len(differences) else float("nan"),
        "seam ratio": cardiac_cycle.seam_ratio(frames, [join for join in joins if 0 < join < len(frames)]),
    }
    return metrics, differences


def _window_starts(recordings: RecordingSet, row: int) -> list[int]:
    """Indices of the first frames of generated windows, from the column Joins, where pandas may have read a float."""
    cell = str(recordings.rows["Joins"][row])
    try:
        return [int(float(text)) for text in cell.split() if text not in ("nan", "None")]
    except (ValueError, OverflowError) as error:
        place = f"{recordings.store.root}: Joins of {recordings.rows['FileName'][row]}"
        raise UserError(f"{place} is {cell[:40]!r}: give frame numbers separated by spaces") from error
