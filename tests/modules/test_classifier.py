"""model=classifier: loss, class order and weights, metrics, and a complete training."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch.nn import functional

from echodream import engine
from echodream.artifact import read_artifact
from echodream.config.paths import CONF_DIR
from echodream.datamodules.tasks import Classification, Regression
from echodream.errors import UserError
from echodream.metrics.bootstrap import bootstrap_interval, bootstrap_weights
from echodream.metrics.classification import roc_auc
from echodream.modules.classifier import ClipClassifier
from echodream.networks.classifiers import Classifier, blur_by_downsampling, load_classifier
from echodream.store import Dataset, Store, StoreWriter
from echodream.store.video import write_video
from echodream.weights import fingerprint
from tests.support.logged import capture_logs

C, F, H, W = 1, 3, 16, 24
SMALL = {
    "dims": 2,
    "widths": [4, 6, 8, 10],
    "layers": [1, 1, 1, 1],
    "stem": [3, 3],
    "stride": [2, 2],
    "max_pool": False,
}


def backbone(classes: int, channels: int) -> Classifier:
    torch.manual_seed(3)
    return Classifier(classes=classes, channels=channels, **SMALL)  # type: ignore[arg-type]


def module(**changes: Any) -> ClipClassifier:
    return ClipClassifier(backbone, torch.optim.SGD, **{"blur": 0.0, **changes})


def data(splits: str, ids: list[Any], task: Any = None, trained: Any = None, **more: Any) -> Any:
    """Data module with a table of one row per letter of ``splits`` (R: TRAIN, V: VAL, T: TEST)."""
    names = {"R": "TRAIN", "V": "VAL", "T": "TEST"}
    given = {"FileName": [f"r{k}" for k in range(len(ids))], "PatientID": [f"p{k // 2}" for k in range(len(ids))]}
    table = pd.DataFrame({**given, "Split": [names[letter] for letter in splits], "class_id": ids, **more})
    asked, root = task or Classification(), Path("videos")
    known = asked.output_names(table, root)
    table = asked.select_rows(table, known)
    store = SimpleNamespace(root=root, table=table, dataset=SimpleNamespace(channels=C))
    real = table[table["Split"] == "TRAIN"]
    rows = {"": {name: row for row, name in enumerate(table["FileName"])}}
    fixed = {"store": store, "task": asked, "output_names": known, "test_rows": lambda: rows}
    fixed |= {"train_on": "real", "synthetic": None}
    return SimpleNamespace(**fixed, training_table=lambda: real if trained is None else trained)


def batch(ids: list[int], seed: int = 0, first: int = 0) -> Any:
    x = torch.rand(len(ids), C, F, H, W, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return {"x": x, "name": [f"r{first + k}" for k in range(len(ids))], "columns": {"class_id": torch.tensor(ids)}}


def task_of(made: ClipClassifier) -> Any:
    return made.task


def configured_module(**changes: Any) -> ClipClassifier:
    """Module for the class ids 2, 5 and 9, which have 4, 1 and 2 training recordings."""
    made = module(**changes)
    names = ["two", "two", "five", "two", "nine", "two", "nine", "five", "nine"]
    made.configure_from_data(data("RRRRRRRVT", [2, 2, 5, 2, 9, 2, 9, 5, 9], class_name=names))
    return made


def test_classes_are_sorted_training_classes_weighted_by_inverse_frequency() -> None:
    made = configured_module()
    assert (task_of(made).ids, task_of(made).names) == ([2, 5, 9], ["two", "five", "nine"])
    assert task_of(made).weight.tolist() == pytest.approx([7 / 3 / 4, 7 / 3 / 1, 7 / 3 / 2])
    assert task_of(made).target(batch([9, 2, 5])).tolist() == [2, 0, 1]
    assert task_of(configured_module(balanced=False)).weight.tolist() == [1, 1, 1]


def test_selected_classes_keep_their_order() -> None:
    made, task = module(), Classification(["nine", "two"])
    made.configure_from_data(data("RRRR", [2, 5, 9, 9], task, class_name=["two", "five", "nine", "nine"]))
    assert (task_of(made).ids, task_of(made).names) == ([9, 2], ["nine", "two"])
    assert task_of(made).target(batch([2, 9, 9])).tolist() == [1, 0, 0]
    assert task_of(made).weight.tolist() == pytest.approx([3 / 2 / 2, 3 / 2 / 1])


def test_class_weights_count_synthetic_samples() -> None:
    """Real samples count with weight 1, synthetic samples with weight 0.5."""
    trained = pd.DataFrame({"class_id": [0, 0, 1, 1, 1, 1], "Weight": [1, 1, 0.5, 0.5, 0.5, 0.5]})
    made = module()
    made.configure_from_data(data("RR", [0, 1], trained=trained))
    assert task_of(made).weight.tolist() == pytest.approx([1, 1])


def test_a_class_without_a_name_is_named_by_its_id() -> None:
    made = module()
    made.configure_from_data(data("RR", [4, 7]))
    assert task_of(made).names == ["4", "7"]


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        ([0, math.nan, 1], "videos has recordings without class_id"),
        ([0, 0, 0], "has 1 class_id in split TRAIN: a classifier needs two or more"),
        ([0, 1, 3], r"class_id 3 of .* has no recording in TRAIN: add recordings of this class"),
    ],
)
def test_data_without_classes_are_refused(ids: list[float], says: str) -> None:
    with pytest.raises(UserError, match=says):
        module().configure_from_data(data("RRT", ids))


def test_the_store_that_lacks_a_class_is_named() -> None:
    trained = pd.DataFrame({"class_id": [0, 0, 1]})
    for train_on, lacks in (("synthetic", "drawn"), ("both", "videos")):
        given = data("RRV", [0, 1, 3], trained=trained)
        given.train_on, given.synthetic = train_on, SimpleNamespace(root=Path("drawn"))
        with pytest.raises(UserError, match=f"class_id 3 of {lacks} has no recording in TRAIN"):
            module().configure_from_data(given)


def test_regression_is_standardized_in_training_and_exported_in_the_unit_of_the_column() -> None:
    task = Regression("EF")
    made = module()
    made.configure_from_data(data("RRRT", [0, 0, 0, 0], task, EF=[40.0, 50.0, 66.0, 99.0]))
    made.eval()
    mean, std = 52.0, float(np.std([40, 50, 66]))
    given = {"x": batch([0, 0])["x"], "columns": {"EF": torch.tensor([60.0, 45.0])}, "name": ["r0", "r1"]}
    raw = made.network(given["x"]).detach()
    truth = ((raw[:, 0] - (torch.tensor([60.0, 45.0]) - mean) / std) ** 2).mean()
    assert float(made.task.loss(raw, made.task.target(given))) == pytest.approx(float(truth), rel=1e-5)
    figures = made.task.metrics(raw.double().numpy(), np.array([60.0, 45.0]))
    made.task.rescale_output(made.network)
    said = made.network(given["x"]).detach()[:, 0]
    assert torch.allclose(said, raw[:, 0] * std + mean, atol=1e-4)
    assert figures["mae"][0] == pytest.approx(float((said - torch.tensor([60.0, 45.0])).abs().mean()), rel=1e-5)
    with pytest.raises(UserError, match="EF has one value in all training data"):
        module().configure_from_data(data("RR", [0, 0], task, EF=[55.0, 55.0]))


@pytest.mark.parametrize("wrong", [{"blur": "x"}, {"blur": 1.5}, {"smallest": -0.1}])
def test_probabilities_are_from_0_to_1(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"model.{next(iter(wrong))} is .* from 0 to 1"):
        module(**wrong)


def test_the_loss_is_the_weighted_cross_entropy() -> None:
    made = configured_module()
    logged, given = capture_logs(made), batch([9, 2, 2, 5])
    loss = made.training_step(given, 0)
    truth = made.network(given["x"]).log_softmax(dim=1)
    weights = [7 / 6, 7 / 12, 7 / 12, 7 / 3]
    by_hand = -sum(w * truth[row, k] for row, (w, k) in enumerate(zip(weights, [2, 0, 0, 1], strict=True))) / sum(
        weights
    )
    assert float(loss.detach()) == pytest.approx(float(by_hand.detach()), rel=1e-5)
    assert logged["train/loss"] == pytest.approx(float(loss.detach()))


def test_training_batches_are_blurred_and_validation_batches_are_not() -> None:
    made = configured_module(blur=1.0, smallest=0.5)
    made.eval()
    capture_logs(made)
    given = batch([9, 2])
    torch.manual_seed(0)
    found = float(made.training_step(given, 0).detach())
    torch.manual_seed(0)
    torch.rand(())
    x = blur_by_downsampling(given["x"], 0.5 + 0.5 * float(torch.rand(())))
    truth = functional.cross_entropy(made.network(x), torch.tensor([2, 0]), task_of(made).weight)
    assert found == pytest.approx(float(truth.detach()), rel=1e-5)
    made.validation_step(given, 0)
    assert torch.equal(made._outputs[0][0], made.network(given["x"]))


def test_a_loss_that_is_not_finite_names_the_recordings() -> None:
    made = configured_module()
    capture_logs(made)
    given = batch([9, 2])
    given["x"][0] = math.nan
    with pytest.raises(UserError, match=r"the loss is not finite on a batch of r0, r1"):
        made.training_step(given, 0)


def test_metrics_use_probabilities_of_the_whole_split() -> None:
    made = configured_module()
    made.eval()
    logged, parts = capture_logs(made), [batch([9, 2, 2], 1), batch([2, 9], 2, first=3)]
    for index, part in enumerate(parts):
        made.test_step(part, index)
    made.on_test_epoch_end()
    logits = made.network(torch.cat([part["x"] for part in parts])).detach()
    target = torch.tensor([2, 0, 0, 0, 2])
    areas = [roc_auc(logits.softmax(dim=1)[:, k].numpy(), target.numpy() == k)[0] for k in range(3)]
    assert logged["test/auc_two"] == pytest.approx(float(areas[0]))
    assert logged["test/auc"] == pytest.approx((areas[0] + areas[2]) / 2)
    shares = [(logits.argmax(dim=1) == target)[target == k].float().mean() for k in (0, 2)]
    assert logged["test/accuracy_nine"] == pytest.approx(float(shares[1]))
    assert logged["test/balanced_accuracy"] == pytest.approx(float(sum(shares)) / 2)
    assert logged["test/loss"] == pytest.approx(
        float(functional.cross_entropy(logits, target, task_of(made).weight)), rel=1e-5
    )
    found = made._test_results[""].metrics["auc_two"]
    # r0 and r1 belong to one patient, and so do r2 and r3
    weights = bootstrap_weights(["p0", "p0", "p1", "p1", "p2"], made.repeats)
    truth = bootstrap_interval(roc_auc(logits.double().softmax(dim=1)[:, 0].numpy(), target.numpy() == 0, weights))
    assert (found["low"], found["high"]) == pytest.approx((truth.low, truth.high))
    assert (made._test_results[""].recordings, made._test_results[""].patients) == (5, 3)
    # no metrics of class "five", which has no test recordings
    assert not {"test/auc_five", "test/accuracy_five"} & logged.keys()
    made.validation_step(parts[0], 0)
    assert len(made._outputs) == 1  # the outputs of the test were cleared


def store(root: Path, first: str = "r") -> Store:
    """Store of 20 patients with bright discs (class 4) or bright squares (class 1)."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:H, :W]
    with StoreWriter(root, Dataset(kind="video", channels=C)) as writer:
        for number in range(20):
            down, right = rng.integers(6, 10), rng.integers(8, 16)
            distance = np.hypot(y - down, x - right) if number % 2 else np.maximum(abs(y - down), abs(x - right))
            frames = np.where(distance < 5, 200, 40) + rng.integers(0, 30, (6 + number % 3, H, W))
            path = writer.scratch_path(f"{first}{number}")
            write_video(path, frames[..., None].astype(np.uint8), 32.0)
            split = ("TRAIN", "TRAIN", "TRAIN", "VAL", "TEST")[number // 2 % 5]
            facts = {
                "FileName": f"{first}{number}",
                "Split": split,
                "PatientID": f"{first}p{number}",
                "NumberOfFrames": len(frames),
            }
            facts |= {"FPS": 32.0, "FrameHeight": H, "FrameWidth": W}
            writer.commit(
                {
                    **facts,
                    "class_id": 4 if number % 2 else 1,
                    "class_name": "ab"[number % 2],
                    "EF": 40.5 + 20 * (number % 2),
                },
                path,
            )
        return writer.finish([f"{first}{number}" for number in range(20)])


def train_cfg(folder: Path, *overrides: str) -> DictConfig:
    fixed = ["model=classifier", f"src={folder}/videos", f"dst={folder}/classifier", f"work={folder}/runs"]
    fixed += [f"logger.csv.save_dir={folder}/logs", "+data.name=shapes", "preset=tiny", "backbone.widths=[4,6,8,10]"]
    fixed += ["datamodule.workers=0", "trainer.max_epochs=4", "trainer.limit_train_batches=6", "model.lr=0.02"]
    fixed += ["trainer.accelerator=cpu", "trainer.log_every_n_steps=1", "view.frames=3", "view.stride=2"]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("train", [*fixed, "datamodule.batch_size=6", "callbacks.ema.decay=0.5", *overrides])


def test_repeated_recordings_count_once() -> None:
    """A distributed sampler repeats recordings to fill the last batch; the metrics count each recording once."""
    made = configured_module()
    made.eval()
    logged = capture_logs(made)
    made.test_step(batch([9, 2, 2], 1), 0)
    made.on_test_epoch_end()
    once = logged["test/loss"]
    for _ in range(2):
        made.test_step(batch([9, 2, 2], 1), 0)
    made.on_test_epoch_end()
    assert logged["test/loss"] == once
    assert made._test_results[""].recordings == 3


@pytest.mark.slow
def test_training_exports_an_artifact_with_the_same_logits(tmp_path: Path) -> None:
    store(tmp_path / "videos")
    metrics = engine.train(train_cfg(tmp_path))
    folder = tmp_path / "classifier"
    expected = {"artifact.json", "config.json", "model.safetensors", "training.yaml"}
    expected |= {"metrics.json", "confusion.png", "roc.png"}
    assert {path.name for path in folder.iterdir()} == expected
    network, config = load_classifier(folder)
    artifact = read_artifact(folder, "classifier")
    assert artifact.fingerprint == fingerprint(network)
    assert artifact.metrics == metrics
    kinds = ("auc", "average_precision", "specificity", "f1")
    each = {f"{metric}_{name}" for metric in (*kinds, "accuracy") for name in "ab"}
    assert metrics.keys() == {"loss", "balanced_accuracy", "calibration_error", *kinds} | each
    figures = json.loads((folder / "metrics.json").read_text())
    assert figures["figures"]["auc"]["value"] == pytest.approx(metrics["auc"], abs=1e-6)
    assert figures["figures"]["auc"]["low"] <= metrics["auc"] + 1e-6
    assert figures["patients"] == 4
    assert (config["task"], config["train_on"], config["fold"]) == ("classification", "real", None)
    assert config["trained"] == {"real": {"recordings": 12, "patients": 12}}
    assert (config["class_ids"], config["class_names"]) == ([1, 4], ["a", "b"])
    assert {key: config[key] for key in ("frames", "stride", "height", "width")} == {
        **{"frames": 3, "stride": 2},
        **{"height": H, "width": W},
    }
    logs = pd.read_csv(tmp_path / "logs" / "csv" / "metrics.csv")
    assert logs["val/balanced_accuracy"].notna().sum() == 4
    assert logs["train/loss"].iloc[-5:].mean() < 0.8 * logs["train/loss"].iloc[:5].mean()
    # the stored test loss equals the loss of the loaded network on the test clips
    made = instantiate(train_cfg(tmp_path).datamodule, columns=["class_id"])
    batches = list(made.test_dataloader())
    with torch.no_grad():
        logits = torch.cat([network(given["x"]) for given in batches])
    target = torch.cat([(given["columns"]["class_id"] == 4).long() for given in batches])
    assert float(functional.cross_entropy(logits, target)) == pytest.approx(metrics["loss"], abs=2e-6)
    assert json.loads((folder / "config.json").read_text())["_class_name"] == "Classifier"


def test_only_clips_can_be_classified(tmp_path: Path) -> None:
    cfg = train_cfg(tmp_path)
    assert cfg.model.needs["view"] == ["clips"]
    assert cfg.view._target_.endswith("Clips")


@pytest.mark.slow
def test_regression_on_real_and_synthetic_clips_end_to_end(tmp_path: Path) -> None:
    """Predictions are in the unit of the column; the artifact and the settings hash include the training data."""
    store(tmp_path / "videos")
    store(tmp_path / "synthetic", first="s")
    asked = ["task=regression", "train_on=both", f"synthetic={tmp_path}/synthetic", "model.lr=0.05"]
    cfg = train_cfg(tmp_path, *asked, "trainer.max_epochs=8")
    metrics = engine.train(cfg)
    assert metrics.keys() == {"loss", "r2", "mae", "rmse"}
    network, config = load_classifier(tmp_path / "classifier")
    assert (config["task"], config["column"], config["class_ids"]) == ("regression", "EF", [])
    assert {name: size["recordings"] for name, size in config["trained"].items()} == {"real": 12, "synthetic": 12}
    assert (tmp_path / "classifier" / "predicted.png").is_file()
    made = instantiate(train_cfg(tmp_path, *asked).datamodule, columns=["EF"])
    batches = list(made.test_dataloader())
    with torch.no_grad():
        said = torch.cat([network(given["x"])[:, 0] for given in batches])
    truth = torch.cat([given["columns"]["EF"] for given in batches])
    assert float((said - truth).abs().mean()) == pytest.approx(metrics["mae"], rel=1e-4)
    assert 30 < said.mean() < 70
    with pytest.raises(UserError, match="was trained with other settings"):
        engine.train(train_cfg(tmp_path, *asked, "trainer.max_epochs=8", f"synthetic={tmp_path}/videos"))


def test_default_artifact_folders() -> None:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        for overrides, dst in (
            ([], "classifier"),
            (["train_on=synthetic"], "classifier_synthetic"),
            (["train_on=both", "task=regression"], "regression_both"),
        ):
            cfg = compose("train", ["model=classifier", "data=phantom", *overrides])
            assert cfg.dst == f"models/phantom/{dst}"
            assert cfg.datamodule.synthetic == (None if not overrides else "samples/phantom/videos")
