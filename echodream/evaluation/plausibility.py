"""Shares of synthetic videos and of real test recordings outside the range of training recordings."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd

from echodream.errors import Rejected, UserError
from echodream.evaluation.adherence import Predictions
from echodream.evaluation.feature_extraction import FeatureExtraction, RecordingSet
from echodream.evaluation.recording_metrics import RecordingMetrics, compare_means, measure_recordings
from echodream.evaluation.table import MetricRecord
from echodream.metrics.plausibility import (
    SECTOR_OVERLAP,
    Range,
    measure_clip,
    outside_ranges,
    sector_overlap,
    training_range,
    typical_sector,
)

MAX_TRAINING_PATIENTS = 2000
"""Maximum number of training patients, with one recording each, that determine a range."""
EJECTION_FRACTION = "ejection fraction"
EF_COLUMN = "EF"
ANY_QUANTITY, OUTSIDE_RANGE, RANGE_KEY = "any quantity", " outside the training range", "range"
_MAX_NOMINAL_RATIO = 1.5
"""Maximum ratio of ``Range.nominal`` to 1 - coverage without a warning."""


@dataclass(frozen=True)
class TrainingRanges:
    """Ranges of the quantities over training recordings."""

    ranges: Mapping[str, Range]
    sector: np.ndarray | None
    """Pixels in the ultrasound sector of most training recordings, bool (H, W)."""
    seconds: float
    """Maximum duration, in seconds, of the central part of a recording that is measured."""
    recording_count: int
    """Number of training recordings, one of each patient."""
    not_computed: Mapping[str, str]
    """Quantities without a range, each with the reason."""

    def measure(self, frames: np.ndarray, fps: float) -> dict[str, float]:
        """Quantities of a clip, (F, H, W) uint8 or floats in [-1, 1]."""
        values, sector = measure_clip(frames, fps)
        return {**values, SECTOR_OVERLAP: sector_overlap(sector, self.sector)}

    def require_plausible(self, frames: np.ndarray, fps: float) -> None:
        """Raise ``Rejected`` if a quantity of the central part of a video, (F, H, W), lies outside its range."""
        central = frames[central_frames(len(frames), fps, self.seconds)]
        if sentences := outside_ranges(self.measure(central, fps), self.ranges):
            raise Rejected("; ".join(sentences.values()))


def central_frames(frames: int, fps: float, seconds: float) -> list[int]:
    """Indices of the frames in the central ``seconds`` of a recording of ``frames`` frames."""
    count = min(frames, max(1, round(seconds * fps)))
    start = (frames - count) // 2
    return list(range(start, start + count))


def shortest_duration(rows: pd.DataFrame) -> float:
    """Duration in seconds of the shortest recording."""
    return float((rows["NumberOfFrames"].astype(float) / rows["FPS"].astype(float)).min())


def training_ranges(train: RecordingSet, coverage: float, seconds: float) -> TrainingRanges:
    """Ranges that contain the share ``coverage`` of the patients of ``train``; ``seconds``: measured duration.

    One random recording of each patient is used, because several of one patient are not exchangeable with new patients.
    Raises ``UserError`` if no quantity can be computed.
    """

    def measure(subset: RecordingSet, row: int) -> tuple[dict[str, float], np.ndarray]:
        return measure_clip(*_read_central_part(subset, row, seconds))

    train = _one_recording_per_patient(train)
    _, measured = measure_recordings(measure, train, FeatureExtraction(MAX_TRAINING_PATIENTS, 1, 0), "plausibility")
    sector = typical_sector([mask for _, mask in measured])
    table = pd.DataFrame([{**values, SECTOR_OVERLAP: sector_overlap(mask, sector)} for values, mask in measured])
    ranges, not_computed = dict[str, Range](), dict[str, str]()
    for name in map(str, table):
        values = table[name].to_numpy(float)
        if (value_range := training_range(values, coverage, only_low=name == SECTOR_OVERLAP)) is not None:
            ranges[name] = value_range
        else:
            without = int((~np.isfinite(values)).sum())
            not_computed[name] = f"{without} of {len(values)} training recordings have no {name} in {seconds:.3g} s"
    if not ranges:
        reasons = "; ".join(not_computed.values())
        raise UserError(f"no quantity has a range in {train.cli_arg} ({reasons}): give plausibility=null")
    return TrainingRanges(ranges, sector, seconds, len(table), not_computed)


def _one_recording_per_patient(recordings: RecordingSet) -> RecordingSet:
    """One random recording of each patient, in the order of ``recordings``."""
    rows = recordings.rows.sample(frac=1, random_state=0).drop_duplicates("PatientID").sort_index()
    return replace(recordings, rows=rows.reset_index(drop=True))


def _read_central_part(recordings: RecordingSet, row: int, seconds: float) -> tuple[np.ndarray, float]:
    """Gray frames of the central ``seconds`` of a recording, floats in [-1, 1], (F, H, W), and frames per second."""
    fps = float(recordings.rows["FPS"][row])
    count = int(recordings.rows["NumberOfFrames"][row])
    frames = recordings.store.frames(recordings.rows["FileName"][row], central_frames(count, fps, seconds))
    return frames.mean(axis=-1) / 127.5 - 1, fps


def plausibility(
    videos: RecordingSet,
    test: RecordingSet,
    train: RecordingSet,
    extraction: FeatureExtraction,
    coverage: float,
    predictions: tuple[Predictions, Predictions] | None,
) -> dict[str, MetricRecord]:
    """Share of ``videos`` outside the range of ``train``, by quantity and for any quantity; floor: share of ``test``.

    ``predictions``: ejection fractions of ``videos`` and ``test``, predicted by a regression model, or None; their
    range is that of the column EF of ``train``. The entry ``RANGE_KEY`` has the ranges and quantities without range.
    """
    training = training_ranges(train, coverage, shortest_duration(videos.rows))
    ranges, not_computed = dict(training.ranges), dict(training.not_computed)
    tables = [_measured_values(each, extraction, training) for each in (videos, test)]
    if predictions is None:
        not_computed[EJECTION_FRACTION] = "there is no regression model of EF (regressor=)"
    elif (ef_range := _training_ef(train, predictions[0], coverage)) is None:
        not_computed[EJECTION_FRACTION] = "regressor= does not predict EF, or most training recordings have no EF"
    else:
        ranges[EJECTION_FRACTION] = ef_range
        for (_, table), predicted in zip(tables, predictions, strict=True):
            table[EJECTION_FRACTION] = predicted.values_by_row().reindex(table.index)
    sets = []
    for (rows, table), recordings in zip(tables, (videos, test), strict=True):
        outside = pd.DataFrame(
            {f"{name}{OUTSIDE_RANGE}": [not each.contains(v) for v in table[name]] for name, each in ranges.items()}
        )
        outside[f"{ANY_QUANTITY}{OUTSIDE_RANGE}"] = outside.any(axis=1)
        sets.append(RecordingMetrics(outside.astype(float), recordings.units(rows), extraction.seed, proportions=True))
    synthetic, real = sets
    metrics = dict(compare_means(synthetic, real))
    for name, each in ranges.items():
        record = metrics[f"{name}{OUTSIDE_RANGE}"]
        record["nominal"] = each.nominal
        if each.nominal > _MAX_NOMINAL_RATIO * (1 - coverage):
            few = f"only {training.recording_count} training patients: a share {each.nominal:.2g} is expected outside"
            record["warning"] = "; ".join(filter(None, [record["warning"], few]))
    without = {
        name: {"synthetic": int(tables[0][1][name].isna().sum()), "real": int(tables[1][1][name].isna().sum())}
        for name in ranges
    }
    settings = {
        "coverage": coverage,
        "seconds": training.seconds,
        "training recordings": training.recording_count,
        "ranges": {name: asdict(each) for name, each in ranges.items()},
        "samples without a value": without,
        "not computed": not_computed,
    }
    return {**metrics, RANGE_KEY: settings}


def _measured_values(
    recordings: RecordingSet, extraction: FeatureExtraction, training: TrainingRanges
) -> tuple[np.ndarray, pd.DataFrame]:
    """Row numbers of the measured recordings, and a table of their quantities, indexed by row number."""

    def measure(subset: RecordingSet, row: int) -> dict[str, float]:
        return training.measure(*_read_central_part(subset, row, training.seconds))

    rows, values = measure_recordings(measure, recordings, extraction, "plausibility")
    return rows, pd.DataFrame(values, index=rows)


def _training_ef(train: RecordingSet, predictions: Predictions, coverage: float) -> Range | None:
    """Range of EF in ``train``; None if another column is predicted, or if EF is missing for most patients."""
    if predictions.column != EF_COLUMN or EF_COLUMN not in train.rows:
        return None
    train = _one_recording_per_patient(train)
    return training_range(pd.to_numeric(train.rows[EF_COLUMN], errors="coerce").to_numpy(float), coverage)
