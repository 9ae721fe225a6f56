"""Whether synthetic hearts have the number, as the ejection fraction, that was asked for; and who they stay."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from echodream.errors import UserError
from echodream.evaluation.distances import training_data_warnings
from echodream.evaluation.feature_extraction import ExtractedFeatures, FeatureExtraction, RecordingSet
from echodream.evaluation.table import MetricRecord, metric_record, small_sample_warnings
from echodream.metrics.bootstrap import Interval, bootstrap_weights
from echodream.metrics.bootstrap import bootstrap_interval as over
from echodream.metrics.fidelity import HIGHER, LOWER, SAME
from echodream.metrics.regression import regression_metrics
from echodream.networks.extractors.encoder import ClassifierExtractor
from echodream.runs.atomic_folder import read_record

_TITLES = {"r2": ("R2", HIGHER), "mae": ("MAE", LOWER), "rmse": ("RMSE", LOWER)}
_LOST = "identity lost along a sample"


def load_regressor(folder: str) -> ClassifierExtractor:
    """The artifact in ``folder``, which answers with a number. Raises ``UserError`` for one of classes."""
    found = ClassifierExtractor(folder)
    if found.trained.get("task") != "regression":
        raise UserError(f"regressor={folder} tells classes: give one of train.py model=classifier task=regression")
    return found


def adherence(
    encoder: ClassifierExtractor, look: FeatureExtraction, made: RecordingSet, real: RecordingSet
) -> Iterator[tuple[str, MetricRecord]]:
    """How near the number that ``encoder`` reads from a clip is to the one asked for; for real clips, to the truth."""
    column, (frames, stride) = str(encoder.trained["column"]), encoder.clips[0]
    sides = []
    for side in (made, real):
        seen = look.clips(side, encoder, frames, stride)
        sides.append(_read(side, seen, column, look.seed))
    (found, count, _), (floor, floor_count, patients) = sides
    for name, (title, better) in _TITLES.items():
        told = small_sample_warnings(TEST_patients=patients) + training_data_warnings(encoder, real)
        yield f"{column} {title}", metric_record(found[name], floor[name], count, floor_count, better, warnings=told)


def _read(side: RecordingSet, seen: ExtractedFeatures, column: str, seed: int) -> tuple[dict[str, Interval], int, int]:
    """R2, MAE, RMSE with intervals; recordings, and whose they are."""
    if column not in side.rows:
        raise UserError(f"{side.key} has no column {column}, which regressor= reads: leave regressor= out")
    truth = pd.to_numeric(side.rows[column], errors="coerce").to_numpy(float)[seen.rows]
    there = np.isfinite(truth)
    if there.sum() < 2:
        raise UserError(f"{side.key} has fewer than two recordings with {column}: leave regressor= out")
    assert seen.scores is not None  # an Encoder has them
    said, units = seen.scores[:, 0].numpy()[there], seen.units.names[there]
    values = regression_metrics(said, truth[there], bootstrap_weights(units, seed=seed))
    return {name: over(each) for name, each in values.items()}, int(there.sum()), len(np.unique(units))


def identity_over_time(record: str | None, made: RecordingSet) -> tuple[dict[str, MetricRecord], dict[str, Any]]:
    """Of an audit of the latents that ``made`` was decoded from: identity lost along videos, and its curves.

    Nothing where there is no such audit.
    """
    found = read_record(Path(record)) if record is not None else None
    if found is None or found.get("source") != made.store.dataset.settings.get("source"):
        return {}, {}
    measure = next((each for each in found.get("measures", []) if each.get("name") == _LOST), None)
    if measure is None:
        return {}, {}
    value, floor = (
        Interval(*(measure[side][name] for name in ("value", "low", "high"))) for side in ("value", "expected")
    )
    sizes, details = found["sizes"], measure["details"]
    curves = {
        name: {**details[side], "every": found["every"]}
        for name, side in (("synthetic", "samples"), ("real", "new patients"))
    }
    count, floor_count = (int(sizes[name]["units"]) for name in ("samples", "held out"))
    return {_LOST: metric_record(value, floor, count, floor_count, SAME)}, curves
