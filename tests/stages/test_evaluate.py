"""Tests of ``stage=evaluate``: metrics against a computation recording by recording, and error messages."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from echodream.config.error_messages import error_sentence
from echodream.errors import UserError
from echodream.evaluation.cardiac_cycle import CardiacCycleMetrics
from echodream.evaluation.feature_extraction import FeatureExtraction, load_recordings
from echodream.metrics.cardiac_cycle import area_curve, estimate_rhythm, percentile_range, seam_ratio
from echodream.metrics.frechet import frechet_estimate
from echodream.networks.classifiers import load_classifier
from echodream.networks.extractors.encoder import ClassifierExtractor
from echodream.store import Store
from echodream.store.checksums import file_sha256
from echodream.store.schema import CHECKSUMS
from tests.support.evaluate_study import IDS, NAMES, H, classifier, evaluate, study, write

__all__ = ["study"]


@pytest.fixture(scope="module")
def measured(study: Path) -> tuple[dict[str, Any], str]:
    """The written record and the printed summary of an evaluation of images and videos."""
    found, said = evaluate(study, f"images={study}/images", "neighbours=3")
    assert json.loads((study / "report" / "protocol.json").read_text()) == found["protocol"]
    return found, said


def rows_of(store: Store, split: str | None) -> Any:
    return store.table if split is None else store.table[store.table["Split"] == split]


def looked(folder: Path, name: str, split: str | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, predicted classes and true classes of the center clip of each recording, computed clip by clip."""
    network, _ = load_classifier(folder / "classifier")
    store = Store(folder / name)
    features, predicted, target = [], [], []
    for row in rows_of(store, split).to_dict("records"):
        first = (row["NumberOfFrames"] - 10) // 2
        x = torch.from_numpy(store.frames(row["FileName"])[first : first + 10 : 3, :, :, 0]).float() / 127.5 - 1
        with torch.no_grad():
            features.append(network.features(x[None, None]).numpy()[0])
            predicted.append(int(network(x[None, None]).argmax()))
        target.append(IDS.index(row["class_id"]))
    return np.stack(features), np.array(predicted), np.array(target)


@pytest.mark.slow
def test_videos_are_compared_with_test_and_the_floor_with_train(study: Path, measured: Any) -> None:
    found, said = measured
    (synthetic, guess, asked), (test, real_guess, real_class) = (
        looked(study, name, split) for name, split in (("videos", None), ("real", "TEST"))
    )
    distance = found["videos"]["frechet[classifier]"]
    assert (distance["count"], distance["dimensions"]) == (18, 5)
    assert distance["value"] == pytest.approx(frechet_estimate(synthetic, test).value, rel=1e-4)
    right, real_right = guess == asked, real_guess == real_class
    for name, kept in (("class agreement", None), *((f"class agreement, {n}", k) for k, n in enumerate(NAMES))):
        agreement = found["videos"][name]
        rows, real_rows = ([True] * 18 if kept is None else each == kept for each in (asked, real_class))
        assert agreement["value"] == pytest.approx(right[rows].mean())
        assert agreement["floor"]["value"] == pytest.approx(real_right[real_rows].mean())
        assert (agreement["count"], agreement["floor"]["count"]) == (np.sum(rows), np.sum(real_rows))
        assert agreement["low"] <= agreement["value"] <= agreement["high"]
    assert "videos: frechet[classifier]" in said
    assert "(N 18, D 5)" in said
    assert not {"FID", "KID", "IS", "FVD16"} & (set(found["videos"]) | set(said.split()))


@pytest.mark.slow
def test_every_metric_has_the_same_keys(measured: Any) -> None:
    found, said = measured
    keys = {"value", "low", "high", "floor", "count", "dimensions", "better", "warning"}
    distances = ("frechet", "kernel", "rbf", "quadratic", "precision", "recall", "density", "coverage")
    for section in ("images", "videos"):
        assert {f"{name}[classifier]" for name in distances} < set(found[section])
        for name, each in found[section].items():
            if name != "store":
                assert set(each) - {"spread"} == keys, name
                assert set(each["floor"]) == {"value", "low", "high", "count"}
                assert each["low"] <= each["value"] <= each["high"], name
                assert each["better"] == ("lower" if name.startswith(distances[:4]) else "higher")
    for each in found["beat"].values():
        assert set(each) == keys | {"synthetic", "real"}
    assert "only 18 synthetic recordings; only 18 TEST patients" in found["videos"]["kernel[classifier]"]["warning"]
    assert "videos: beware" in said


@pytest.mark.slow
def test_the_floor_has_the_same_sample_count(study: Path, measured: Any) -> None:
    """The floor (distance from TRAIN to TEST) is a mean over random subsets of 18 of the 20 training clips."""
    found, _ = measured
    train, test = looked(study, "real", "TRAIN")[0], looked(study, "real", "TEST")[0]
    pairs = [(i, j) for i in range(20) for j in range(i)]
    possible = [frechet_estimate(np.delete(train, pair, axis=0), test).value for pair in pairs]
    floor = found["videos"]["frechet[classifier]"]["floor"]["value"]
    assert min(possible) < floor < max(possible)
    assert floor == pytest.approx(np.mean(possible), rel=0.1)
    assert abs(floor / frechet_estimate(train, test).value - 1) > 1e-4


@pytest.mark.slow
def test_cardiac_cycle_is_compared_with_test(study: Path, measured: Any) -> None:
    found, said = measured
    for side, name, split in (("synthetic", "videos", None), ("real", "real", "TEST")):
        store = Store(study / name)
        names = rows_of(store, split)["FileName"]
        frames = [store.frames(recording)[..., 0] for recording in names]
        rates = [estimate_rhythm(clip, 32.0).heart_rate for clip in frames]
        swings = [percentile_range(area_curve(clip)) for clip in frames]
        assert np.isfinite(rates).sum() > 5
        beat = {figure: found["beat"][figure][side] for figure in ("heart rate", "area swing")}
        assert beat["heart rate"]["mean"] == pytest.approx(np.nanmean(rates), rel=1e-3)
        assert beat["heart rate"]["std"] == pytest.approx(np.nanstd(rates), rel=1e-3)
        assert beat["heart rate"]["count"] == np.isfinite(rates).sum()
        assert beat["area swing"]["mean"] == pytest.approx(np.mean(swings), rel=1e-3)
    assert "videos: heart rate" in said


@pytest.mark.slow
def test_seams_are_measured_at_the_joins(study: Path, measured: Any) -> None:
    found, _ = measured
    store = Store(study / "videos")
    truth = [seam_ratio(store.frames(f"r{k:02d}")[..., 0], [10 + k, 30]) for k in range(18) if k != 3]
    seam = found["beat"]["seam ratio"]
    assert seam["synthetic"]["mean"] == pytest.approx(np.mean(truth), rel=1e-4)
    assert seam["synthetic"]["count"] == 17
    assert seam["real"] == {"mean": None, "std": None, "count": 0}
    assert seam["floor"] == {"value": None, "low": None, "high": None, "count": 0}


@pytest.mark.slow
def test_the_difference_curve_uses_recordings_of_sufficient_length(study: Path, measured: Any) -> None:
    found, _ = measured
    curve = found["curves"]["frame difference"]
    for side, name, split in (("synthetic", "videos", None), ("real", "real", "TEST")):
        store = Store(study / name)
        clips = [store.frames(recording)[..., 0].astype(float) for recording in rows_of(store, split)["FileName"]]
        for frame in (0, 30, 50):
            truth = np.mean([np.abs(clip[frame + 1] - clip[frame]).mean() for clip in clips if len(clip) > frame + 1])
            assert curve[side]["value"][frame] == pytest.approx(truth, rel=1e-3)
            assert curve[side]["low"][frame] < truth < curve[side]["high"][frame]
        assert len(curve[side]["value"]) == 51
        assert curve[side]["fps"] == [32.0]


@pytest.mark.slow
def test_images_are_compared_by_frames(study: Path) -> None:
    found, said = evaluate(study, f"images={study}/images", "videos=null", "batch=7")
    assert "videos" not in found
    assert "beat" not in found
    network, _ = load_classifier(study / "classifier")
    store = Store(study / "images")
    frames = np.concatenate([store.frames(name)[..., 0] for name in store.table["FileName"]])
    asked = np.concatenate([[IDS.index(IDS[k % 2])] * len(store.frames(f"r{k:02d}")) for k in range(30)])
    x = torch.from_numpy(frames).float()[:, None, None] / 127.5 - 1
    with torch.no_grad():
        guess = network(x).argmax(dim=1).numpy()
    assert found["images"]["frechet[classifier]"]["count"] == len(frames) == 60
    agreement = found["images"]["class agreement"]
    assert agreement["value"] == pytest.approx((guess == asked).mean())
    assert (agreement["count"], agreement["floor"]["count"]) == (60, 18 * 51)
    assert "images: class agreement, five" in said


@pytest.mark.slow
def test_every_frame_is_used_once_with_its_class(study: Path) -> None:
    encoder, side = ClassifierExtractor(str(study / "classifier")), load_recordings(str(study / "real"), "real")
    seen = FeatureExtraction(10_000, 7, 0).frames(side, encoder)
    store = Store(study / "real")
    rows = rows_of(store, "TEST")
    frames = np.concatenate([store.frames(name)[..., 0] for name in rows["FileName"]])
    with torch.no_grad():
        truth = encoder.network.features(torch.from_numpy(frames).float()[:, None, None] / 127.5 - 1).numpy()
    assert np.sort(seen.features, axis=0) == pytest.approx(np.sort(truth, axis=0), abs=1e-5)
    order = [int(np.abs(truth - feature).sum(axis=1).argmin()) for feature in seen.features]
    assert sorted(order) == list(range(len(frames)))
    assert order != sorted(order)  # random order: the first N are a random subset
    of = np.repeat(np.arange(18), rows["NumberOfFrames"].astype(int))
    assert seen.rows.tolist() == of[order].tolist()
    assert seen.units.names.tolist() == rows["PatientID"].to_numpy()[of[order]].tolist()


@pytest.mark.slow
def test_samples_depend_on_the_seed(study: Path) -> None:
    few = [f"images={study}/images", "most=20", "videos=null"]
    first, again, other = (evaluate(study, *few, *more)[0]["images"] for more in ([], ["batch=3"], ["seed=1"]))
    value, floor = first["frechet[classifier]"]["value"], first["frechet[classifier]"]["floor"]["value"]
    assert first["frechet[classifier]"]["count"] == 20
    assert again["frechet[classifier]"]["value"] == pytest.approx(value, rel=1e-4)
    assert again["frechet[classifier]"]["floor"]["value"] == pytest.approx(floor, rel=1e-4)
    assert other["frechet[classifier]"]["value"] != pytest.approx(value, rel=1e-3)


@pytest.mark.slow
def test_a_real_store_is_compared_by_its_test_patients(study: Path) -> None:
    found, _ = evaluate(study, f"videos={study}/real")
    assert found["videos"]["frechet[classifier]"]["value"] == pytest.approx(0, abs=1e-6)
    assert found["videos"]["store"]["recordings"] == 18
    agreement = found["videos"]["class agreement"]
    assert (agreement["value"], agreement["count"]) == (agreement["floor"]["value"], agreement["floor"]["count"])


@pytest.mark.slow
def test_a_clip_that_is_too_short_repeats_its_last_frame(tmp_path: Path, study: Path) -> None:
    write(tmp_path / "short", ["TRAIN"] * 17, 100, synthetic=True, frames=6)
    found, said = evaluate(study, f"videos={tmp_path}/short")
    assert found["videos"]["frechet[classifier]"]["count"] == 17
    assert "17 of 17 synthetic clips are shorter than 4 frames" in found["videos"]["frechet[classifier]"]["warning"]
    assert found["beat"]["heart rate"]["synthetic"]["count"] == 0
    assert "heart rate" not in said
    network, _ = load_classifier(study / "classifier")
    store = Store(tmp_path / "short")
    features = []
    for row in store.table.to_dict("records"):  # 6 to 8 frames: indices 0, 3 and 6, if frame 6 exists
        taken = [0, 3, 6 if row["NumberOfFrames"] > 6 else 3, 6 if row["NumberOfFrames"] > 6 else 3]
        x = torch.from_numpy(store.frames(row["FileName"])[taken, :, :, 0]).float() / 127.5 - 1
        with torch.no_grad():
            features.append(network.features(x[None, None]).numpy()[0])
    seen = FeatureExtraction(100, 4, 0).clips(
        load_recordings(str(tmp_path / "short"), "videos"), ClassifierExtractor(str(study / "classifier")), 4, 3
    )
    assert np.sort(seen.features, axis=0) == pytest.approx(np.sort(np.stack(features), axis=0), abs=1e-5)


@pytest.mark.parametrize(("start", "indices"), [("first", [0, 3, 6, 9]), ("spread", None), ("centre", None)])
@pytest.mark.slow
def test_clips_start_as_in_the_test_of_the_classifier(
    tmp_path: Path, study: Path, start: str, indices: list[int] | None
) -> None:
    """With start="spread", the frames of a clip cover the whole recording, as in ``stage=utility``."""
    encoder = ClassifierExtractor(str(classifier(tmp_path / "other", start=start)))
    assert encoder.as_json()["clips"] == [{"frames": 4, "stride": 3, "start": start}]
    seen = FeatureExtraction(100, 4, 0).clips(load_recordings(str(study / "videos"), "videos"), encoder, 4, 3)
    store, features = Store(study / "videos"), []
    for name in store.table["FileName"]:
        frames = store.frames(name)[..., 0]
        step = (len(frames) - 1) // 3 if start == "spread" else 3
        middle = (len(frames) - (3 * step + 1)) // 2 + step * np.arange(4)
        x = torch.from_numpy(frames[middle if indices is None else indices]).float() / 127.5 - 1
        with torch.no_grad():
            features.append(encoder.network.features(x[None, None]).numpy()[0])
    assert np.sort(seen.features, axis=0) == pytest.approx(np.sort(np.stack(features), axis=0), abs=1e-5)


@pytest.mark.slow
def test_training_data_of_the_classifier_has_warnings(tmp_path: Path, study: Path) -> None:
    right = file_sha256(study / "real" / CHECKSUMS)
    for name, facts, told in (
        ("good", {"train_on": "real", "fold": None, "stores": {"real": right}}, None),
        (
            "fake",
            {"train_on": "synthetic", "stores": {"real": right}},
            "fake was trained on synthetic: its training data may include",
        ),
        ("fold", {"train_on": "real", "fold": 2}, "fold was trained on one fold of this study, which may include TEST"),
        (
            "old",
            {"stores": {"real": "0" * 64}},
            "old was trained on another version of this study, which may include TEST",
        ),
    ):
        found = evaluate(study, f"artifact={classifier(tmp_path / name, **facts)}")[0]["videos"]
        for figure in (f"kernel[{name}]", "class agreement"):
            assert ((told or "was trained on") in found[figure]["warning"]) == (told is not None)


def test_cardiac_cycle_uses_a_random_sample_of_recordings(study: Path) -> None:
    """The recordings are a random subset, because the first rows of the table may all be of one class."""
    side = load_recordings(str(study / "real"), "real")
    chosen = [CardiacCycleMetrics(side, FeatureExtraction(6, 4, seed)) for seed in (0, 0, 1)]
    rows = [sorted(int(name[1:]) for name in each.units.names) for each in chosen]
    assert rows[0] == rows[1] != rows[2]
    assert [22, 23, 24, 25, 26, 27] not in rows
    assert len(chosen[0].table) == 6


@pytest.mark.slow
def test_small_samples_have_warnings(tmp_path: Path, study: Path) -> None:
    write(tmp_path / "few", ["TRAIN"] * 4, 100, synthetic=True)
    found, said = evaluate(study, f"videos={tmp_path}/few")
    assert "(N 4, D 5)" in said
    assert "N is not above D" in found["videos"]["frechet[classifier]"]["warning"]
    assert "N is not above D" not in found["videos"]["kernel[classifier]"]["warning"]
    assert "beware" in said
    assert found["videos"]["kernel[classifier]"]["count"] == 4  # four samples, none of them counted twice
    with pytest.raises(
        UserError, match=r"videos: the smallest of synthetic, TEST and TRAIN has 4 samples, .* needs 16"
    ):
        evaluate(study, f"videos={tmp_path}/few", "least=16")


@pytest.mark.slow
def test_relabeled_classes_have_a_warning(tmp_path: Path, study: Path) -> None:
    column = {"LabelSource": lambda k: "asked" if k else "0123456789ab"}
    write(tmp_path / "relabelled", ["TRAIN"] * 4, 100, synthetic=True, **column)
    for name, told in (("relabelled", True), ("plain", False)):
        if not told:
            write(tmp_path / "plain", ["TRAIN"] * 4, 100, synthetic=True, LabelSource=lambda k: "asked")
        warning = evaluate(study, f"videos={tmp_path}/{name}")[0]["videos"]["class agreement"]["warning"]
        assert ("labels are predictions of a classifier (0123456789ab), not conditions" in warning) == told


@pytest.mark.slow
def test_class_agreement_is_optional(tmp_path: Path, study: Path) -> None:
    write(tmp_path / "unlabelled", ["TRAIN"] * 3, 100, synthetic=True, class_id=None)
    given = ["artifact=null", f"extractors=[encoder:{study}/classifier]", f"videos={tmp_path}/unlabelled"]
    found, _ = evaluate(study, *given)
    assert "frechet[classifier]" in found["videos"]
    assert "class agreement" not in found["videos"]


@pytest.mark.slow
def test_stores_that_cannot_be_compared_are_refused(tmp_path: Path, study: Path) -> None:
    write(tmp_path / "unlabelled", ["TRAIN"] * 3, synthetic=True, class_id=None)
    write(tmp_path / "half", ["TRAIN"] * 3, synthetic=True, class_id=lambda k: "" if k else 2)
    write(tmp_path / "other", ["TRAIN"] * 3, synthetic=True, class_id=lambda k: 7)
    write(tmp_path / "untested", ["TRAIN"] * 3)
    write(tmp_path / "joined", ["TRAIN"] * 17, synthetic=True, Joins=lambda k: "12 then 20")
    classifier(tmp_path / "larger", height=H + 1)
    for overrides, says in (
        ([f"videos={tmp_path}/unlabelled"], r"videos=.*unlabelled has recordings without class_id"),
        ([f"videos={tmp_path}/half"], r"videos=.*half has recordings without class_id"),
        ([f"videos={tmp_path}/other"], r"videos=.*has class_id 7, but the classes of the classifier are \[2, 5\]"),
        ([f"videos={tmp_path}/untested"], r"has no recording in split TEST"),
        ([f"real={tmp_path}/untested"], r"real=.*untested has no recording in split TEST"),
        ([f"artifact={tmp_path}/larger"], r"real=.* of 28x20 with 1 channel, and the classifier was trained on 28x21"),
        ([f"videos={tmp_path}/absent"], r"absent does not exist"),
        ([f"videos={tmp_path}/joined"], r"Joins of r00 is '12 then 20': give frame numbers separated by spaces"),
        ([f"extractors=clip:{study}"], r"extractors has 'clip:.*': give lite0, spectrum"),
        (["lengths=16"], r"lengths is 16: give a list of numbers of frames"),
        (["batch=0"], r"batch is 0: give a whole number from 1"),
        (["most=1"], r"most is 1: give a whole number from 2"),
        (["least=x"], r"least is 'x': give a whole number from 2"),
        (["neighbours=2.5"], r"neighbours is 2.5: give a whole number from 1"),
        (["seed=-1"], r"seed is -1: give a whole number from 0"),
        (["extractors=[]"], r"extractors is empty: give at least one"),
        (
            ["extractors=[clip:x]"],
            r"extractors has 'clip:x': give lite0, spectrum, temporal_spectrum, or kind:path with one of encoder",
        ),
        ([f"extractors=[encoder:{study}/classifier,encoder:{study}/classifier]"], r"names classifier twice"),
        ([f"regressor={study}/classifier"], r"regressor=.*classifier predicts classes: train with"),
        (["videos=null"], r"nothing to evaluate: give images= or videos="),
        ([f"artifact={study}/real"], r"is not a readable classifier"),
    ):
        with pytest.raises(UserError, match=says):
            evaluate(study, *overrides)


@pytest.mark.slow
def test_a_dst_that_is_a_file_is_refused(tmp_path: Path, study: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="File exists") as caught:
        evaluate(study, f"dst={tmp_path}/file")
    assert f"{tmp_path}/file cannot be written: File exists" in str(error_sentence(caught.value, "sample", []))
