"""Adherence of synthetic videos to a numeric condition such as EF, and identity drift along a video."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from echodream.errors import UserError
from echodream.evaluation.class_agreement import training_data_warnings
from echodream.evaluation.feature_extraction import ExtractedFeatures, FeatureExtraction, RecordingSet
from echodream.evaluation.table import MetricRecord, metric_record, small_sample_warnings
from echodream.metrics.bootstrap import Interval, bootstrap_interval, bootstrap_weights
from echodream.metrics.fidelity import HIGHER, LOWER, SAME
from echodream.metrics.regression import regression_metrics
from echodream.networks.extractors.encoder import ClassifierExtractor
from echodream.runs.atomic_folder import read_record

_METRIC_TITLES = {"r2": ("R2", HIGHER), "mae": ("MAE", LOWER), "rmse": ("RMSE", LOWER)}
_IDENTITY_DRIFT = "identity lost along a sample"


def load_regressor(folder: str) -> ClassifierExtractor:
    """Load the regression model in the artifact ``folder``. Raises ``UserError`` for a model that predicts classes."""
    regressor = ClassifierExtractor(folder)
    if regressor.metadata.get("task") != "regression":
        raise UserError(f"regressor={folder} predicts classes: train with train.py model=classifier task=regression")
    return regressor


@dataclass(frozen=True)
class Predictions:
    """Predictions of a regression model for one clip of each of ``recordings``."""

    recordings: RecordingSet
    column: str
    """Column that the model predicts."""
    features: ExtractedFeatures

    def values_by_row(self) -> pd.Series:
        """Predicted values, indexed by the row of the recording."""
        assert self.features.scores is not None
        return pd.Series(self.features.scores[:, 0].numpy(), index=self.features.rows)

    def metric_intervals(self, seed: int) -> tuple[dict[str, Interval], int, int]:
        """R2, MAE and RMSE with intervals, the number of recordings, and the number of sampling units."""
        recordings, column = self.recordings, self.column
        if column not in recordings.rows:
            raise UserError(f"{recordings.cli_arg} has no column {column}, which regressor= predicts: omit regressor=")
        predicted = self.values_by_row()
        truth = pd.to_numeric(recordings.rows[column], errors="coerce").to_numpy(float)[predicted.index]
        known = np.isfinite(truth)
        if known.sum() < 2:
            raise UserError(f"{recordings.cli_arg} has fewer than two recordings with {column}: omit regressor=")
        units = self.features.units.names[known]
        metrics = regression_metrics(predicted.to_numpy()[known], truth[known], bootstrap_weights(units, seed=seed))
        counts = int(known.sum()), len(np.unique(units))
        return {name: bootstrap_interval(each) for name, each in metrics.items()}, *counts


def predict(regressor: ClassifierExtractor, extraction: FeatureExtraction, recordings: RecordingSet) -> Predictions:
    """Predictions of ``regressor`` for ``recordings``."""
    features = extraction.clips(recordings, regressor, *regressor.clip_types[0])
    return Predictions(recordings, str(regressor.metadata["column"]), features)


def adherence(
    regressor: ClassifierExtractor, seed: int, synthetic: Predictions, real: Predictions
) -> Iterator[tuple[str, MetricRecord]]:
    """Yield name and entry of R2, MAE and RMSE of synthetic clips; the floor is the metric of real clips."""
    (value, count, _), (floor, floor_count, patients) = synthetic.metric_intervals(seed), real.metric_intervals(seed)
    for name, (title, better) in _METRIC_TITLES.items():
        warnings = small_sample_warnings(TEST_patients=patients) + training_data_warnings(regressor, real.recordings)
        yield (
            f"{synthetic.column} {title}",
            metric_record(value[name], floor[name], count, floor_count, better, warnings=warnings),
        )


def identity_drift(audit: str | None, synthetic: RecordingSet) -> tuple[dict[str, MetricRecord], dict[str, Any]]:
    """Metric and curves of identity drift, from the ``audit`` record of ``synthetic``; empty without such a record.

    The audited store is the source of ``synthetic``, or ``synthetic`` itself if another program generated it.
    """
    record, store = read_record(Path(audit)) if audit is not None else None, synthetic.store
    if record is None or record.get("source") not in (store.dataset.settings.get("source"), store.checksum):
        return {}, {}
    measure = next((each for each in record.get("measures", []) if each.get("name") == _IDENTITY_DRIFT), None)
    if measure is None:
        return {}, {}
    value, floor = (
        Interval(*(measure[key][name] for name in ("value", "low", "high"))) for key in ("value", "expected")
    )
    sizes, details = record["sizes"], measure["details"]
    curves = {
        name: {**details[key], "every": record["every"]}
        for name, key in (("synthetic", "samples"), ("real", "new patients"))
    }
    count, floor_count = (int(sizes[name]["units"]) for name in ("samples", "held out"))
    return {_IDENTITY_DRIFT: metric_record(value, floor, count, floor_count, SAME)}, curves
