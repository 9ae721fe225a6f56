"""Published metric names, adherence to a numeric condition, and consistency of identity along a video."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from echodream.artifact import Artifact, write_artifact
from echodream.errors import UserError
from echodream.evaluation.adherence import adherence, identity_drift, load_regressor, predict
from echodream.evaluation.feature_extraction import ExtractedFeatures, FeatureExtraction, load_recordings
from echodream.evaluation.fidelity_records import SUBSET_COUNT, FeatureSets, fidelity_metrics
from echodream.metrics.bootstrap import SamplingUnits
from echodream.metrics.inception_score import inception_score
from echodream.networks.classifiers import Classifier
from echodream.networks.extractors.base import Extractor
from echodream.networks.extractors.i3d import I3d
from echodream.networks.extractors.inception import Inception
from echodream.weights import fingerprint
from tests.support.evaluate_study import H, W, write

N, D = 12, 3


def sight(extractor: type[Extractor], frames: int) -> FeatureSets:
    """Feature sets with random features, labeled as features of ``extractor``."""
    rng = np.random.default_rng(0)
    sides = []
    for count in (N, N + 5, N + 3):
        scores = torch.from_numpy(rng.normal(size=(count, 4)))
        sides.append(
            ExtractedFeatures(rng.normal(size=(count, D)), scores, np.arange(count), SamplingUnits(np.arange(count)), 0)
        )
    return FeatureSets(object.__new__(extractor), frames, *sides)


@pytest.mark.slow
def test_only_inception_has_fid_kid_and_is() -> None:
    seen = sight(Inception, 1)
    found = dict(fidelity_metrics(seen, N, 2, 0))
    rest = ("rbf", "quadratic", "precision", "recall", "density", "coverage")
    assert set(found) == {"FID", "KID", "IS", *(f"{name}[inception]" for name in rest)}
    for which, side in ((found["IS"], seen.synthetic), (found["IS"]["floor"], seen.test)):
        assert side.scores is not None
        draws = [side.subset(N, number, logits=True).logits for number in range(SUBSET_COUNT)]
        assert which["value"] == pytest.approx(np.mean([inception_score(each).value for each in draws]))
    assert "published values use 10,000 samples" in found["FID"]["warning"]


@pytest.mark.slow
def test_only_i3d_with_16_and_128_frames_has_fvd() -> None:
    assert "FVD16" in dict(fidelity_metrics(sight(I3d, 16), N, 2, 0))
    assert "FVD128" in dict(fidelity_metrics(sight(I3d, 128), N, 2, 0, ["slow"]))
    found = dict(fidelity_metrics(sight(I3d, 32), N, 2, 0, ["slow"]))
    assert not [name for name in found if name.startswith("FVD")]
    warning = found["frechet[i3d, 32 frames]"]["warning"]
    assert "published values use 2,048 samples; slow" in warning


def test_different_frame_rates_have_a_warning(tmp_path: Path) -> None:
    from echodream.evaluation.fidelity_records import frame_rate_warning

    write(tmp_path / "slow", ["TRAIN"] * 3, synthetic=True)
    write(tmp_path / "real", ["TEST"] * 3)
    made, real = load_recordings(str(tmp_path / "slow"), "videos"), load_recordings(str(tmp_path / "real"), "real")
    assert frame_rate_warning(made, real) == []
    made.rows["FPS"] = 50.0
    assert "synthetic videos have 50 frames per second, real ones 32" in frame_rate_warning(made, real)[0]


def reader(root: Path) -> Path:
    """A saved regression network for EF with random weights."""
    torch.manual_seed(3)
    network = Classifier(1, 1, 2, [4, 6, 8, 5], [1, 1, 1, 1], [3, 3], [2, 2], False).eval()
    with torch.no_grad():
        network.head.weight.mul_(50)
        network.head.bias.fill_(55.0)
    facts = {"class_ids": [], "class_names": [], "task": "regression", "column": "EF"}
    facts |= {"frames": 4, "stride": 3, "height": H, "width": W}
    made = Artifact("classifier", "beats", fingerprint(network), "0" * 64)
    write_artifact(root, made, "seed: 0\n", lambda folder: network.save(folder, facts))
    return root


@pytest.mark.slow
def test_adherence_metrics_by_hand(tmp_path: Path) -> None:
    numbers = {"EF": lambda k: "" if k == 2 else 50 + 3 * k}
    write(tmp_path / "videos", ["TRAIN"] * 5, 100, synthetic=True, **numbers)
    write(tmp_path / "real", ["TEST"] * 4, EF=lambda k: 40 + k)
    encoder, look = load_regressor(str(reader(tmp_path / "ef"))), FeatureExtraction(100, 2, 0)
    made, real = (
        load_recordings(str(tmp_path / "videos"), "videos"),
        load_recordings(str(tmp_path / "real"), "real"),
    )
    found = dict(adherence(encoder, 0, predict(encoder, look, made), predict(encoder, look, real)))
    for side, which in ((made, lambda each: each), (real, lambda each: each["floor"])):
        seen = look.clips(side, encoder, 4, 3)
        assert seen.scores is not None
        asked = np.array([float(side.rows["EF"][row] or "nan") for row in seen.rows])
        there = np.isfinite(asked)
        said, asked = seen.scores[:, 0].numpy()[there], asked[there]
        assert which(found["EF MAE"])["value"] == pytest.approx(np.abs(said - asked).mean())
        assert which(found["EF RMSE"])["value"] == pytest.approx(np.sqrt(((said - asked) ** 2).mean()))
        r2 = 1 - ((said - asked) ** 2).sum() / ((asked - asked.mean()) ** 2).sum()
        assert which(found["EF R2"])["value"] == pytest.approx(r2)
        assert which(found["EF R2"])["count"] == len(asked)
    assert (found["EF R2"]["better"], found["EF MAE"]["better"]) == ("higher", "lower")
    write(tmp_path / "without", ["TRAIN"] * 3, synthetic=True)
    other = predict(encoder, look, load_recordings(str(tmp_path / "without"), "videos"))
    with pytest.raises(UserError, match=r"videos=.*without has no column EF, which regressor= predicts"):
        dict(adherence(encoder, 0, other, predict(encoder, look, real)))


def test_identity_comes_from_an_audit_of_the_same_latents(tmp_path: Path) -> None:
    def record(source: str | None) -> str:
        lines = {"curve": [1.0, 0.9], "low": [1.0, 0.8], "high": [1.0, 0.95]}
        measure: dict[str, Any] = {"name": "identity lost along a sample"}
        measure |= {"value": {"value": 0.1, "low": 0.05, "high": 0.2}, "expected": {"value": 0, "low": 0, "high": 0.1}}
        measure["details"] = {"samples": lines, "new patients": {**lines, "curve": [1.0, 0.97]}}
        sizes = {"samples": {"units": 52}, "held out": {"units": 50}}
        told = {"source": source, "every": 4, "sizes": sizes, "measures": [{"name": "recall"}, measure]}
        (tmp_path / "audit.json").write_text(json.dumps(told))
        return str(tmp_path / "audit.json")

    write(tmp_path / "videos", ["TRAIN"] * 3, synthetic=True)
    made = load_recordings(str(tmp_path / "videos"), "videos")
    made.store.dataset.settings["source"] = "a" * 64
    figures, curves = identity_drift(record("a" * 64), made)
    found = figures["identity lost along a sample"]
    assert (found["value"], found["low"], found["high"], found["count"]) == (0.1, 0.05, 0.2, 52)
    assert found["floor"] == {"value": 0, "low": 0, "high": 0.1, "count": 50}
    assert (curves["synthetic"]["curve"], curves["real"]["curve"], curves["real"]["every"]) == (
        [1.0, 0.9],
        [1.0, 0.97],
        4,
    )
    for other in (record("b" * 64), str(tmp_path / "absent.json"), None):
        assert identity_drift(other, made) == ({}, {})
