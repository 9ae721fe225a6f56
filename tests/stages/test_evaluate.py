"""The table of ``stage=evaluate`` against the same figures computed recording by recording; every refusal."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from echodream import engine
from echodream.artifact import Artifact, write_artifact
from echodream.errors import UserError
from echodream.metrics.beat import area_curve, rhythm, seam_ratio, swing
from echodream.metrics.frechet import frechet
from echodream.networks.classifiers import Classifier, load_classifier
from echodream.paths import CONF_DIR
from echodream.stages.evaluate import Looker
from echodream.store import Dataset, Store, StoreWriter
from echodream.store.video import write_video
from echodream.weights import fingerprint

torch.set_num_threads(1)
H, W = 20, 28
IDS, NAMES = [2, 5], ["two", "five"]
SIDES = {"TRAIN": 20, "VAL": 2, "TEST": 18}


def beating(number: int, frames: int) -> np.ndarray:
    """A dark disc that beats, each recording at its own rate and with its own brightness: uint8 (F, H, W, 1)."""
    rng = np.random.default_rng(number)
    rate = 60 + 4 * (number % 7)
    radius = 6 + 1.5 * np.cos(2 * np.pi * rate / 60 * np.arange(frames) / 32.0 + number)
    y, x = np.mgrid[:H, :W]
    inside = np.hypot(y - H / 2, x - W / 2)[None] < radius[:, None, None]
    pixels = np.where(inside, 20, 90 + 6 * (number % 11)) + rng.integers(0, 20, (frames, H, W))
    return pixels[..., None].astype(np.uint8)


def write(
    root: Path, splits: list[str], first: int = 0, synthetic: bool = False, frames: int = 50, **more: Any
) -> Store:
    """A store with a row for each of ``splits``; ``more`` are columns, functions of the row's number or None."""
    dataset = Dataset(kind="video", channels=1, height=H, width=W, synthetic=synthetic)
    columns = {"class_id": lambda k: IDS[k % 2], **more}
    with StoreWriter(root, dataset) as writer:
        for k, split in enumerate(splits):
            pixels = beating(first + k, frames + k % 3)
            write_video(writer.scratch(f"r{k:02d}"), pixels, 32.0)
            row = {"FileName": f"r{k:02d}", "Split": split, "PatientID": f"p{first + k}", "FPS": 32.0}
            row |= {"NumberOfFrames": len(pixels), "FrameHeight": H, "FrameWidth": W}
            given = {name: make(k) for name, make in columns.items() if make is not None}
            writer.commit({**row, **given}, writer.scratch(f"r{k:02d}"))
        return writer.finish([f"r{k:02d}" for k in range(len(splits))])


def classifier(root: Path, **changes: Any) -> Path:
    """A random network, as training would leave it."""
    torch.manual_seed(1)
    network = Classifier(2, 1, 2, [4, 6, 8, 5], [1, 1, 1, 1], [3, 3], [2, 2], False).eval()
    with torch.no_grad():
        network.head.weight.mul_(30)
    facts = {"class_ids": IDS, "class_names": NAMES, "frames": 4, "stride": 3, "height": H, "width": W, **changes}
    made = Artifact("classifier", "beats", fingerprint(network), "0" * 64)
    write_artifact(root, made, "seed: 0\n", lambda folder: network.save(folder, facts))
    return root


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write(folder / "real", [split for split, count in SIDES.items() for _ in range(count)])
    joins = {"Joins": lambda k: "" if k == 3 else f"{10 + k} 30"}
    write(folder / "videos", ["TRAIN"] * 18, 100, synthetic=True, **joins)
    write(folder / "images", ["TRAIN"] * 30, 200, synthetic=True, frames=1)
    classifier(folder / "classifier")
    return folder


def evaluate(folder: Path, *overrides: str) -> tuple[dict[str, Any], str]:
    """What is written, and what is printed."""
    fixed = ["stage=evaluate", f"real={folder}/real", f"artifact={folder}/classifier", f"dst={folder}/report"]
    fixed += ["notes=null"]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("sample", [*fixed, f"videos={folder}/videos", *overrides])
    said = str(engine.sample(cfg))
    return json.loads((folder / "report" / "evaluation.json").read_text()), said


def rows_of(store: Store, split: str | None) -> Any:
    return store.table if split is None else store.table[store.table["Split"] == split]


def looked(folder: Path, name: str, split: str | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, predictions and targets of the clips in the middle, one by one."""
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


def test_videos_are_judged_against_test_with_the_floor_of_train(study: Path) -> None:
    found, said = evaluate(study)
    (synthetic, guess, asked), (test, real_guess, real_class) = (
        looked(study, name, split) for name, split in (("videos", None), ("real", "TEST"))
    )
    distance = found["videos"]["frechet[classifier]"]
    assert (distance["count"], distance["dimensions"]) == (18, 5)
    assert distance["value"] == pytest.approx(frechet(synthetic, test), rel=1e-4)
    agreement = found["videos"]["class agreement"]
    assert agreement["synthetic"]["overall"] == pytest.approx((guess == asked).mean())
    assert agreement["real"]["overall"] == pytest.approx((real_guess == real_class).mean())
    for k, name in enumerate(NAMES):
        assert agreement["synthetic"][name] == pytest.approx((guess == asked)[asked == k].mean())
        assert agreement["real"][name] == pytest.approx((real_guess == real_class)[real_class == k].mean())
    assert len({round(value, 9) for side in agreement.values() for value in side.values()}) > 3
    assert "videos: frechet[classifier]" in said
    assert "(N 18, D 5)" in said
    assert "FID" not in said + json.dumps(found)


def test_the_floor_is_train_against_test_with_as_many(study: Path) -> None:
    """Twenty training clips are cut to eighteen; with all twenty, or against other recordings, it is another number."""
    found, _ = evaluate(study)
    train, test = looked(study, "real", "TRAIN")[0], looked(study, "real", "TEST")[0]
    pairs = [(i, j) for i in range(20) for j in range(i)]
    possible = [frechet(np.delete(train, pair, axis=0), test) for pair in pairs]
    floor = found["videos"]["frechet[classifier]"]["floor"]
    assert min(abs(floor / value - 1) for value in possible) < 1e-4
    assert abs(floor / frechet(train, test) - 1) > 1e-4


def test_how_hearts_beat_is_compared_with_test(study: Path) -> None:
    found, said = evaluate(study)
    for side, name, split in (("synthetic", "videos", None), ("real", "real", "TEST")):
        store = Store(study / name)
        names = rows_of(store, split)["FileName"]
        frames = [store.frames(recording)[..., 0] for recording in names]
        rates = [rhythm(clip, 32.0).heart_rate for clip in frames]
        swings = [swing(area_curve(clip)) for clip in frames]
        assert np.isfinite(rates).sum() > 5
        beat = {figure: found["beat"][figure][side] for figure in ("heart rate", "area swing")}
        assert beat["heart rate"]["mean"] == pytest.approx(np.nanmean(rates), rel=1e-3)
        assert beat["heart rate"]["std"] == pytest.approx(np.nanstd(rates), rel=1e-3)
        assert beat["heart rate"]["count"] == np.isfinite(rates).sum()
        assert beat["area swing"]["mean"] == pytest.approx(np.mean(swings), rel=1e-3)
    assert "videos: heart rate" in said


def test_seams_are_measured_where_the_store_says(study: Path) -> None:
    found, _ = evaluate(study)
    store = Store(study / "videos")
    truth = [seam_ratio(store.frames(f"r{k:02d}")[..., 0], [10 + k, 30]) for k in range(18) if k != 3]
    seam = found["beat"]["seam ratio"]
    assert seam["synthetic"]["mean"] == pytest.approx(np.mean(truth), rel=1e-4)
    assert seam["synthetic"]["count"] == 17
    assert seam["real"] == {"mean": None, "std": None, "count": 0}


def test_images_are_judged_frame_by_frame(study: Path) -> None:
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
    assert agreement["synthetic"]["overall"] == pytest.approx((guess == asked).mean())
    assert (agreement["synthetic"]["count"], agreement["real"]["count"]) == (60, 18 * 51)
    assert "images: class agreement, five" in said


def test_every_frame_is_looked_at_once_with_its_own_class(study: Path) -> None:
    look = Looker(str(study / "classifier"), 10_000, 7, 0)
    seen = look.frames(look.part(str(study / "real"), "real", "TEST"))
    store = Store(study / "real")
    rows = rows_of(store, "TEST")
    frames = np.concatenate([store.frames(name)[..., 0] for name in rows["FileName"]])
    with torch.no_grad():
        truth = look.network.features(torch.from_numpy(frames).float()[:, None, None] / 127.5 - 1).numpy()
    assert np.sort(seen.features, axis=0) == pytest.approx(np.sort(truth, axis=0), abs=1e-5)
    order = [int(np.abs(truth - feature).sum(axis=1).argmin()) for feature in seen.features]
    assert sorted(order) == list(range(len(frames)))
    assert order != sorted(order)  # so that the first N are a random part
    target = np.repeat([IDS.index(number) for number in rows["class_id"]], rows["NumberOfFrames"].astype(int))
    assert seen.target.tolist() == target[order].tolist()


def test_the_draw_is_a_function_of_the_seed(study: Path) -> None:
    few = [f"images={study}/images", "most=20", "videos=null"]
    first, again, other = (evaluate(study, *few, *more)[0]["images"] for more in ([], ["batch=3"], ["seed=1"]))
    value, floor = first["frechet[classifier]"]["value"], first["frechet[classifier]"]["floor"]
    assert first["frechet[classifier]"]["count"] == 20
    assert again["frechet[classifier]"]["value"] == pytest.approx(value, rel=1e-4)
    assert again["frechet[classifier]"]["floor"] == pytest.approx(floor, rel=1e-4)
    assert other["frechet[classifier]"]["value"] != pytest.approx(value, rel=1e-3)


def test_a_store_that_is_not_synthetic_counts_by_its_test_patients(study: Path) -> None:
    found, _ = evaluate(study, f"videos={study}/real")
    assert found["videos"]["frechet[classifier]"]["value"] == pytest.approx(0, abs=1e-6)
    assert found["videos"]["store"]["recordings"] == 18
    agreement = found["videos"]["class agreement"]
    assert agreement["synthetic"] == agreement["real"]


def test_a_clip_that_is_too_short_repeats_its_last_frame(tmp_path: Path, study: Path) -> None:
    write(tmp_path / "short", ["TRAIN"] * 17, 100, synthetic=True, frames=6)
    found, said = evaluate(study, f"videos={tmp_path}/short")
    assert found["videos"]["frechet[classifier]"]["count"] == 17
    assert found["beat"]["heart rate"]["synthetic"]["count"] == 0
    assert "heart rate" not in said
    network, _ = load_classifier(study / "classifier")
    store = Store(tmp_path / "short")
    features = []
    for row in store.table.to_dict("records"):  # of 6, 7 or 8 frames: at 0, 3 and 6 if there is one
        taken = [0, 3, 6 if row["NumberOfFrames"] > 6 else 3, 6 if row["NumberOfFrames"] > 6 else 3]
        x = torch.from_numpy(store.frames(row["FileName"])[taken, :, :, 0]).float() / 127.5 - 1
        with torch.no_grad():
            features.append(network.features(x[None, None]).numpy()[0])
    look = Looker(str(study / "classifier"), 100, 4, 0)
    seen = look.clips(look.part(str(tmp_path / "short"), "videos")).features
    assert np.sort(seen, axis=0) == pytest.approx(np.sort(np.stack(features), axis=0), abs=1e-5)


def test_the_protocol_and_few_samples_are_told(tmp_path: Path, study: Path) -> None:
    write(tmp_path / "few", ["TRAIN"] * 4, 100, synthetic=True)
    found, said = evaluate(study, f"videos={tmp_path}/few", "least=4")
    assert "(N 4, D 5; N is not above D, so both are too large)" in said
    artifact = json.loads((study / "classifier" / "artifact.json").read_text())
    assert found["protocol"]["classifier"] == artifact["fingerprint"]
    assert {key: found["protocol"][key] for key in ("frames", "stride", "seed")} == {
        "frames": 4,
        "stride": 3,
        "seed": 0,
    }
    assert found["protocol"]["real"]["class_id"] == {"2": 9, "5": 9}
    with pytest.raises(UserError, match=r"few: the smallest of synthetic, TEST and TRAIN has 4 samples, .* needs 16"):
        evaluate(study, f"videos={tmp_path}/few")


def test_stores_that_cannot_be_compared_are_refused(tmp_path: Path, study: Path) -> None:
    write(tmp_path / "unlabelled", ["TRAIN"] * 3, synthetic=True, class_id=None)
    write(tmp_path / "half", ["TRAIN"] * 3, synthetic=True, class_id=lambda k: "" if k else 2)
    write(tmp_path / "other", ["TRAIN"] * 3, synthetic=True, class_id=lambda k: 7)
    write(tmp_path / "untested", ["TRAIN"] * 3)
    write(tmp_path / "joined", ["TRAIN"] * 17, synthetic=True, Joins=lambda k: "12 then 20")
    classifier(tmp_path / "larger", height=H + 1)
    for overrides, says in (
        ([f"videos={tmp_path}/unlabelled"], r"videos=.*unlabelled lacks class_id for some recordings"),
        ([f"videos={tmp_path}/half"], r"videos=.*half lacks class_id for some recordings"),
        ([f"videos={tmp_path}/other"], r"videos=.*other has class_id 7, and the classifier knows \[2, 5\]"),
        ([f"videos={tmp_path}/untested"], r"has no recording in split TEST"),
        ([f"real={tmp_path}/untested"], r"real=.*untested has no recording in split TEST"),
        ([f"artifact={tmp_path}/larger"], r"real=.* of 28x20 with 1 channel, the classifier was trained on 28x21"),
        ([f"videos={tmp_path}/absent"], r"absent does not exist"),
        ([f"videos={tmp_path}/joined"], r"Joins of r00 is '12 then 20', not frame numbers separated by spaces"),
        (["videos=null"], r"nothing to evaluate: give images= or videos="),
        ([f"artifact={study}/real"], r"is not a readable classifier"),
    ):
        with pytest.raises(UserError, match=says):
            evaluate(study, *overrides)
