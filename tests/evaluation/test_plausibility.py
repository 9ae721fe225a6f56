"""Share of videos outside the training range: planted implausible hearts, and real test patients as the floor."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from echodream.errors import Rejected, UserError
from echodream.evaluation.adherence import Predictions
from echodream.evaluation.feature_extraction import (
    ExtractedFeatures,
    FeatureExtraction,
    RecordingSet,
    select_recordings,
)
from echodream.evaluation.plausibility import central_frames, plausibility, shortest_duration, training_ranges
from echodream.metrics.binomial_bounds import clopper_pearson_lower, clopper_pearson_upper
from echodream.metrics.bootstrap import SamplingUnits
from tests.support.planted_hearts import FOUND_BY, FPS, HEIGHT, IMPLAUSIBLE, WIDTH, heart, heart_store

pytestmark = pytest.mark.slow
TRAIN, TEST, GOOD = 60, 40, 15
OUTSIDE = " outside the training range"


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RecordingSet]:
    """60 TRAIN and 40 TEST patients; 15 plausible and 5 implausible samples."""
    folder = tmp_path_factory.mktemp("hearts")
    hearts = {f"r{number}": heart(number, frames=64 + number % 30) for number in range(TRAIN + TEST)}
    real = heart_store(folder / "real", hearts, ["TRAIN"] * TRAIN + ["TEST"] * TEST)
    samples = {f"s{number}": heart(1000 + number) for number in range(GOOD)}
    samples |= {name: heart(2000, **settings) for name, settings in IMPLAUSIBLE.items()}
    synthetic = heart_store(folder / "videos", samples, ["TRAIN"] * len(samples), synthetic=True)
    sets = {split: select_recordings(real, "real=real", split) for split in ("TRAIN", "TEST")}
    return {**sets, "videos": select_recordings(synthetic, "videos=videos", None)}


def predictions(recordings: RecordingSet, values: np.ndarray, column: str = "EF") -> Predictions:
    rows = np.random.default_rng(0).permutation(len(values))
    scores = torch.from_numpy(values[rows].astype(float))[:, None]
    features = ExtractedFeatures(np.zeros((len(rows), 1)), scores, rows, SamplingUnits(rows), 0)
    return Predictions(recordings, column, features)


def test_each_implausible_sample_is_counted_and_test_patients_are_as_expected(stores: dict[str, RecordingSet]) -> None:
    found = plausibility(
        stores["videos"], stores["TEST"], stores["TRAIN"], FeatureExtraction(100, 1, 0), 0.99, predictions=None
    )
    settings = found["range"]
    assert settings["seconds"] == 2.0
    assert settings["training recordings"] == TRAIN
    for quantity in set(FOUND_BY.values()):
        metric = found[f"{quantity}{OUTSIDE}"]
        expected = settings["ranges"][quantity]["nominal"]
        assert metric["nominal"] == expected
        assert metric["value"] >= 1 / (GOOD + len(IMPLAUSIBLE))
        outside = round(metric["floor"]["value"] * TEST)
        low, high = (bound(outside, TEST, 0.005) for bound in (clopper_pearson_lower, clopper_pearson_upper))
        assert low <= expected <= high, quantity
        assert "only 60 training patients" in metric["warning"]  # a range with coverage 0.99 needs 199 patients
    whole = found[f"any quantity{OUTSIDE}"]
    assert whole["count"] == GOOD + len(IMPLAUSIBLE)
    assert len(IMPLAUSIBLE) <= round(whole["value"] * whole["count"]) <= len(IMPLAUSIBLE) + 5
    assert "regressor=" in settings["not computed"]["ejection fraction"]


def test_ejection_fraction_is_that_of_a_regression_model(stores: dict[str, RecordingSet]) -> None:
    """EF of training patients is 50 to 69 %; two samples and one test patient are outside this range."""
    videos, test = stores["videos"], stores["TEST"]
    ef, real = np.full(len(videos.rows), 60.0), np.full(TEST, 55.0)
    ef[[3, 7]], real[0] = (12.0, 95.0), 71.0
    sets = videos, test, stores["TRAIN"], FeatureExtraction(100, 1, 0), 0.99
    found = plausibility(*sets, (predictions(videos, ef), predictions(test, real)))
    metric = found[f"ejection fraction{OUTSIDE}"]
    assert (metric["value"], metric["floor"]["value"]) == (2 / len(ef), 1 / TEST)
    assert metric["low"] >= 0
    none = plausibility(*sets, (predictions(videos, np.full(len(ef), 60.0)), predictions(test, real)))
    exact = none[f"ejection fraction{OUTSIDE}"]
    assert (exact["value"], exact["low"]) == (0, 0)
    assert exact["high"] == pytest.approx(1 - 0.025 ** (1 / len(ef)))  # exact upper bound (Clopper-Pearson)
    assert found["range"]["not computed"] == {}
    other = plausibility(*sets, (predictions(videos, ef, "Age"), predictions(test, real, "Age")))
    assert "does not predict EF" in other["range"]["not computed"]["ejection fraction"]
    assert f"ejection fraction{OUTSIDE}" not in other


def test_recordings_of_one_patient_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """All recordings of a patient have one uniform value: new patients are outside the range at the nominal rate."""
    path, sector = "echodream.evaluation.plausibility", np.ones((HEIGHT, WIDTH), bool)
    monkeypatch.setattr(f"{path}._read_central_part", lambda each, row, seconds: (each.rows["Value"][row], FPS))
    monkeypatch.setattr(f"{path}.measure_clip", lambda value, fps: ({"heart rate": float(value)}, sector))
    rng, patients, outside = np.random.default_rng(0), 20, []
    for _ in range(100):
        of = np.repeat(np.arange(patients), rng.integers(1, 9, patients))
        rows = pd.DataFrame({"PatientID": of.astype(str), "Value": rng.random(patients)[of]})
        trained = training_ranges(RecordingSet(None, rows, "real=real"), 0.9, 2.0)  # type: ignore[arg-type]
        found = trained.ranges["heart rate"]
        assert trained.recording_count == patients
        assert found.nominal == pytest.approx(2 / (patients + 1))
        outside.append(found.low + 1 - found.high)
    assert np.mean(outside) == pytest.approx(2 / (patients + 1), abs=4 * np.std(outside) / 10)


def test_a_sample_is_rejected_with_the_quantity_and_its_range(stores: dict[str, RecordingSet]) -> None:
    trained = training_ranges(stores["TRAIN"], 0.99, 2.0)
    trained.require_plausible(heart(1), FPS)
    for name, settings in IMPLAUSIBLE.items():
        with pytest.raises(Rejected, match=rf"{FOUND_BY[name]} [\d.]+.* is outside the range of training recordings"):
            trained.require_plausible(heart(2000, **settings), FPS)


def test_what_cannot_be_computed_is_said(stores: dict[str, RecordingSet], monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips of half a second give no heart rate; a study without any measurable quantity is an error."""
    short = training_ranges(stores["TRAIN"], 0.99, 0.5)
    assert short.not_computed == {"heart rate": "60 of 60 training recordings have no heart rate in 0.5 s"}
    assert "heart rate" not in short.ranges
    nothing = {"heart rate": float("nan")}, np.zeros((HEIGHT, WIDTH), bool)
    monkeypatch.setattr("echodream.evaluation.plausibility.measure_clip", lambda frames, fps: nothing)
    with pytest.raises(UserError, match=r"no quantity has a range in real=real .*give plausibility=null"):
        training_ranges(stores["TRAIN"], 0.99, 2.0)


def test_only_the_center_of_the_length_of_the_shortest_sample_is_measured(stores: dict[str, RecordingSet]) -> None:
    assert central_frames(10, 2.0, 2.0) == [3, 4, 5, 6]
    assert central_frames(3, 2.0, 2.0) == [0, 1, 2]
    assert shortest_duration(pd.DataFrame({"NumberOfFrames": [64, 90], "FPS": [32.0, 30.0]})) == 2.0
    long, trained = heart(3, frames=128), training_ranges(stores["TRAIN"], 0.99, 2.0)
    trained.require_plausible(long, FPS)
    frozen_center = long.copy()
    frozen_center[32:96] = long[40]
    with pytest.raises(Rejected, match="area swing"):
        trained.require_plausible(frozen_center, FPS)
    other = replace(trained, seconds=4.0)
    assert other.measure(long, FPS).keys() == trained.ranges.keys()
