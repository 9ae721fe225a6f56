"""Tests of ``stage=utility``: metrics against scikit-learn, and error messages."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from sklearn.metrics import average_precision_score, mean_absolute_error, r2_score, roc_auc_score

from echodream import engine
from echodream.artifact import Artifact, write_artifact
from echodream.config.paths import CONF_DIR
from echodream.datamodules.views import Clips
from echodream.errors import UserError
from echodream.evaluation.classifier_inference import clip_view
from echodream.networks.classifiers import Classifier, load_classifier
from echodream.store import Dataset, Store, StoreWriter
from echodream.store.checksums import file_sha256
from echodream.store.schema import CHECKSUMS
from echodream.store.video import write_video
from echodream.weights import fingerprint
from tests.support.stores import HEIGHT, WIDTH, row

IDS, NAMES = [0, 1, 2, 3], ["ASD", "Non-ASD", "Non-PAH", "PAH"]
PAIRS = {"ASD": ("ASD", "Non-ASD"), "PAH": ("PAH", "Non-PAH")}


def real_rows() -> list[dict[str, Any]]:
    """Rows of two TRAIN recordings and 28 TEST recordings; each TEST patient has one to three recordings."""
    rows = [row(f"a{k}", f"A{k}", 9, class_id=k, class_name=NAMES[k], EF=50.0) for k in range(2)]
    for k in range(28):
        patient = f"T{k * 2 // 3}_{k % 4}"
        rows.append(row(f"t{k:02d}", patient, 8 + k % 3, "TEST", class_id=k % 4, class_name=NAMES[k % 4], EF=40.25 + k))
    return rows


def write(root: Path, rows: list[dict[str, Any]]) -> None:
    """Write a store of random recordings that change from frame to frame."""
    with StoreWriter(root, Dataset(kind="video", channels=1)) as writer:
        for number, entry in enumerate(rows):
            rng = np.random.default_rng(number)
            size = (entry["NumberOfFrames"], HEIGHT, WIDTH, 1)
            pixels = rng.integers(0, 90, size) + rng.integers(0, 160, (1, HEIGHT, WIDTH, 1))
            write_video(writer.scratch_path(entry["FileName"]), pixels.astype(np.uint8), entry["FPS"])
            writer.commit(entry, writer.scratch_path(entry["FileName"]))
        writer.finish([entry["FileName"] for entry in rows])


def model(root: Path, seed: int, source: str, train_on: str | None, classes: int = 4, **facts: Any) -> Path:
    """Write a classifier artifact with random weights."""
    torch.manual_seed(seed)
    network = Classifier(classes, 1, 2, [4, 6, 8, 5], [1, 1, 1, 1], [3, 3], [1, 1], False).eval()
    with torch.no_grad():
        network.head.weight.mul_(8)
    given = {"class_ids": IDS, "class_names": NAMES, "frames": 3, "stride": 2, "height": HEIGHT, "width": WIDTH}
    given |= {} if train_on is None else {"task": "classification", "train_on": train_on, "fold": None}
    made = Artifact("classifier", "hearts", fingerprint(network), "0" * 64, source=source)
    write_artifact(root, made, "seed: 0\n", lambda folder: network.save(folder, {**given, **facts}))
    return root


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write(folder / "real", real_rows())
    source = file_sha256(folder / "real" / CHECKSUMS)
    model(folder / "classifier", 1, source, None)  # as written by older versions, without train_on
    trained = {"synthetic": {"recordings": 9, "patients": 9}}
    model(folder / "classifier_synthetic", 2, source, "synthetic", trained=trained)
    model(folder / "classifier_both", 3, source, "both")
    number = {"task": "regression", "column": "EF", "class_ids": [], "class_names": []}
    model(folder / "regression", 4, source, "real", classes=1, **number)
    model(folder / "regression_synthetic", 5, source, "synthetic", classes=1, **number)
    return folder


def asked(folder: Path, *overrides: str) -> tuple[dict[str, Any], str]:
    """Run ``stage=utility``; returns the written record and the printed summary."""
    fixed = ["stage=utility", f"real={folder}/real", f"dst={folder}/report", "notes=null", "repeats=200"]
    fixed += [f"+data.name={folder.name}", f"paths.models={folder.parent}"]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("sample", [*fixed, *overrides])
    said = str(engine.sample(cfg))
    return json.loads((folder / "report" / "utility.json").read_text()), said


@torch.no_grad()
def probabilities(folder: Path, name: str, models: Path | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Network outputs for the center clip of each TEST recording, computed clip by clip, and the true class and EF."""
    network, _ = load_classifier((models or folder) / name)
    store = Store(folder / "real")
    said, ids, values = [], [], []
    for entry in store.table[store.table["Split"] == "TEST"].to_dict("records"):
        first = (entry["NumberOfFrames"] - 5) // 2
        x = torch.from_numpy(store.frames(entry["FileName"])[first : first + 5 : 2, :, :, 0]).float() / 127.5 - 1
        said.append(network(x[None, None])[0].double().numpy())
        ids.append(entry["class_id"])
        values.append(entry["EF"])
    return np.stack(said), np.array(ids), np.array(values)


@pytest.mark.slow
def test_pairs_of_classes_use_conditional_probabilities(study: Path) -> None:
    found, said = asked(study)
    assert set(found["tasks"]) == {"ASD", "PAH", "EF"}
    for task, (x, y) in PAIRS.items():
        a, b = NAMES.index(x), NAMES.index(y)
        areas = {}
        for role, name in (
            ("real", "classifier"),
            ("synthetic", "classifier_synthetic"),
            ("both", "classifier_both"),
        ):
            logits, ids, _ = probabilities(study, name)
            shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
            kept = (ids == a) | (ids == b)
            p, truth = (shares[:, a] / (shares[:, a] + shares[:, b]))[kept], ids[kept] == a
            entry = found["tasks"][task][role]
            areas[role] = roc_auc_score(truth, p)
            assert entry["auc"]["value"] == pytest.approx(areas[role])
            assert entry["average_precision"]["value"] == pytest.approx(average_precision_score(truth, p))
            assert entry["sensitivity"]["value"] == pytest.approx((p >= 0.5)[truth].mean())
            assert entry["specificity"]["value"] == pytest.approx((p < 0.5)[~truth].mean())
            assert entry["auc"]["low"] < entry["auc"]["value"] < entry["auc"]["high"]
            assert abs(areas[role] - roc_auc_score(truth, shares[kept, a])) > 1e-6  # not the 4-class probability
        for role in ("synthetic", "both"):
            assert found["tasks"][task]["ratio"][role]["auc"]["value"] == pytest.approx(areas[role] / areas["real"])
        assert found["tasks"][task]["test"] == {"recordings": 14, "patients": 14, "positive": 7}
        assert "calibration_error" not in found["tasks"][task]["ratio"]["both"]
    ratio = found["tasks"]["ASD"]["ratio"]["both"]["auc"]
    assert f"{ratio['value']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f}) times real" in said
    assert "ASD auc, synthetic" in said


@pytest.mark.slow
def test_regression_is_evaluated_in_its_unit(study: Path) -> None:
    found, _ = asked(study)
    said, _, truth = probabilities(study, "regression")
    assert found["tasks"]["EF"]["real"]["mae"]["value"] == pytest.approx(mean_absolute_error(truth, said[:, 0]))
    assert found["tasks"]["EF"]["real"]["r2"]["value"] == pytest.approx(r2_score(truth, said[:, 0]))
    assert found["tasks"]["EF"]["ratio"]["synthetic"].keys() == {"r2"}
    assert found["tasks"]["EF"]["ratio"]["synthetic"]["r2"]["value"] is None  # no ratio of a negative R2
    assert "both" not in found["tasks"]["EF"]


@pytest.mark.slow
def test_the_record_has_sizes_and_protocol(study: Path) -> None:
    found, _ = asked(study)
    assert found["sizes"]["test"]["recordings"] == 28
    assert found["sizes"]["trained"]["synthetic"] == {"synthetic": {"recordings": 9, "patients": 9}}
    assert found["protocol"]["real"] == file_sha256(study / "real" / CHECKSUMS)
    told = found["protocol"]["models"]["both"][0]
    assert (told["train_on"], told["frames"], told["stride"]) == ("both", 3, 2)
    again, _ = asked(study, "batch=5")
    assert again["tasks"]["PAH"]["both"]["f1"] == pytest.approx(found["tasks"]["PAH"]["both"]["f1"])


@pytest.mark.slow
def test_tasks_can_be_classes_and_pairs(study: Path) -> None:
    found, _ = asked(study, "tasks=[PAH,[ASD,PAH]]")
    assert set(found["tasks"]) == {"PAH", "ASD against PAH"}
    logits, ids, _ = probabilities(study, "classifier_both")
    kept = (ids == 0) | (ids == 3)
    truth = roc_auc_score(ids[kept] == 0, (logits[:, 0] - logits[:, 3])[kept])
    assert found["tasks"]["ASD against PAH"]["both"]["auc"]["value"] == pytest.approx(truth)


@pytest.mark.slow
def test_without_pairs_tasks_are_one_vs_rest(study: Path, tmp_path: Path) -> None:
    source, names = file_sha256(study / "real" / CHECKSUMS), ["a", "b", "c", "d"]
    for seed, role in enumerate(("real", "synthetic")):
        model(tmp_path / role, seed, source, role, class_names=names)
    roles = [f"artifacts.{role}={tmp_path}/{role}" for role in ("real", "synthetic")]
    found, _ = asked(study, *roles, "artifacts.both=null")
    assert set(found["tasks"]) == set(names)
    logits, ids, _ = probabilities(study, "real", tmp_path)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert found["tasks"]["c"]["real"]["auc"]["value"] == pytest.approx(roc_auc_score(ids == 2, shares[:, 2]))


@pytest.mark.slow
def test_binary_classifiers_are_used_for_their_pair(study: Path, tmp_path: Path) -> None:
    source, folders = file_sha256(study / "real" / CHECKSUMS), {}
    for role, seed in (("real", 1), ("both", 7)):
        for task, (x, y) in PAIRS.items():
            pair = {"class_names": [x, y], "class_ids": [NAMES.index(x), NAMES.index(y)]}
            model(tmp_path / f"{role}_{task}", seed + len(task), source, role, classes=2, **pair)
        folders[role] = ",".join(f"{tmp_path}/{role}_{task}" for task in PAIRS)
    roles = [f"artifacts.{role}=[{given}]" for role, given in folders.items()]
    found, _ = asked(study, *roles, "artifacts.synthetic=null")
    assert set(found["tasks"]) == {"ASD", "PAH"}
    assert found["tasks"]["PAH"].keys() == {"real", "both", "ratio", "test", "note"}


@pytest.mark.slow
def test_relabeled_training_and_perfect_metrics_have_notes(study: Path, tmp_path: Path) -> None:
    source = file_sha256(study / "real" / CHECKSUMS)
    model(tmp_path / "both", 3, source, "both", synthetic_labels="abc123def456")
    found, said = asked(study, f"artifacts.both={tmp_path}/both")
    assert "Classes of synthetic videos in the set both are predictions of the classifier abc123def456" in said
    assert "abc123def456" in found["tasks"]["ASD"]["note"]


@pytest.mark.slow
def test_a_rerun_is_skipped_unless_a_classifier_changed(study: Path, tmp_path: Path) -> None:
    source = file_sha256(study / "real" / CHECKSUMS)
    model(tmp_path / "both", 3, source, "both")
    given = [f"artifacts.both=[{tmp_path}/both]", f"notes={tmp_path}/notes", f"dst={tmp_path}/report"]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        fixed = ["stage=utility", f"real={study}/real", "repeats=200", f"+data.name={study.name}"]
        cfgs = [compose("sample", [*fixed, f"paths.models={study.parent}", *given]) for _ in range(3)]
    assert "done" in str(engine.sample(cfgs[0]))
    before = (tmp_path / "report" / "utility.json").read_bytes()
    (tmp_path / "report" / "index.html").write_text("of another stage")
    assert "already complete, nothing to do" in str(engine.sample(cfgs[1]))
    shutil.rmtree(tmp_path / "both")
    model(tmp_path / "both", 9, source, "both")
    assert "already" not in str(engine.sample(cfgs[2]))
    assert (tmp_path / "report" / "utility.json").read_bytes() != before


@pytest.mark.slow
def test_incompatible_classifiers_are_refused(study: Path, tmp_path: Path) -> None:
    source = file_sha256(study / "real" / CHECKSUMS)
    model(tmp_path / "elsewhere", 1, "f" * 64, "both")
    model(tmp_path / "fold", 1, source, "both", fold=2)
    model(tmp_path / "larger", 1, source, "both", height=HEIGHT + 1)
    model(tmp_path / "others", 1, source, "both", class_names=["p", "q", "r", "s"])
    for overrides, says in (
        (
            ["artifacts.synthetic=null", "artifacts.both=null"],
            r"trained on real, but needs at least two of .*: train more classifiers",
        ),
        ([f"artifacts.both={tmp_path}/elsewhere"], r"both: .*elsewhere was trained on another version of this study"),
        ([f"artifacts.both={tmp_path}/fold"], r"was trained on one fold of this study, maybe with TEST patients"),
        ([f"artifacts.both={study}/classifier"], r"artifacts.both: .*classifier was trained on real: give another"),
        ([f"artifacts.both={tmp_path}/larger"], r"has recordings of 7x5 with 1 channel, and .* trained on 7x6"),
        ([f"artifacts.both={study}/real"], r"real has no classifier"),
        (["tasks=[TOF]"], r"tasks has TOF: give a name, or a pair of names, of ASD, Non-ASD, Non-PAH, PAH, EF"),
        (["tasks=TOF"], r"tasks has TOF: give a name"),
        (["tasks=[]"], r"tasks is empty: give names of classes, or null for all"),
        (["batch=0"], r"batch is 0: give a whole number from 1"),
        (["repeats=10"], r"repeats is 10: give a whole number from 100"),
        (
            [
                f"artifacts.both={tmp_path}/others",
                "artifacts.synthetic=null",
                "artifacts.real=" + f"{study}/classifier",
            ],
            r"the artifacts have no task in common",
        ),
    ):
        with pytest.raises(UserError, match=says):
            asked(study, *overrides)


def test_clip_view_of_a_classifier() -> None:
    assert clip_view({"frames": 4, "stride": 3}) == Clips(frames=4, stride=3, start="centre")
    assert clip_view({"frames": 4, "stride": 3, "start": "spread"}).start == "spread"
    assert clip_view({"frames": 4, "stride": 3, "start": "first"}).start == "first"
