"""Training a classifier: the loss by hand, who is who, what is measured, and a whole run to an artifact."""

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
from echodream.errors import UserError
from echodream.metrics.classification import auc
from echodream.modules.classifier import ClipClassifier
from echodream.networks.classifiers import Classifier, load_classifier, soften
from echodream.paths import CONF_DIR
from echodream.store import Dataset, Store, StoreWriter
from echodream.store.video import write_video
from echodream.weights import fingerprint

torch.set_num_threads(1)
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


def data(splits: str, ids: list[Any], **more: Any) -> Any:
    """What ``adapt`` asks a datamodule: a table with a row for each letter of ``splits`` (R: TRAIN, V, T)."""
    names = {"R": "TRAIN", "V": "VAL", "T": "TEST"}
    table = pd.DataFrame({"Split": [names[letter] for letter in splits], "class_id": ids, **more})
    store = SimpleNamespace(root="videos", table=table, dataset=SimpleNamespace(channels=C))
    return SimpleNamespace(store=store)


def batch(ids: list[int], seed: int = 0) -> Any:
    x = torch.rand(len(ids), C, F, H, W, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return {"x": x, "name": [f"r{k}" for k in range(len(ids))], "columns": {"class_id": torch.tensor(ids)}}


def quiet(made: ClipClassifier) -> dict[str, float]:
    """Log into a dict, without a trainer."""
    logged: dict[str, float] = {}
    made.log = lambda name, value, **_: logged.update({name: float(value)})  # type: ignore[assignment,method-assign,misc]
    made._trainer = SimpleNamespace(world_size=1)  # type: ignore[assignment]
    return logged


def adapted(**changes: Any) -> ClipClassifier:
    """Of the class ids 2, 5 and 9, with 4, 1 and 2 recordings to train on."""
    made = module(**changes)
    names = ["two", "two", "five", "two", "nine", "two", "nine", "five", "nine"]
    made.adapt(data("RRRRRRRVT", [2, 2, 5, 2, 9, 2, 9, 5, 9], class_name=names))
    return made


def test_classes_are_those_of_training_in_order_and_weigh_by_rarity() -> None:
    made = adapted()
    assert (made.class_ids, made.class_names) == ([2, 5, 9], ["two", "five", "nine"])
    assert made.weight.tolist() == pytest.approx([7 / 3 / 4, 7 / 3 / 1, 7 / 3 / 2])
    assert made.target(batch([9, 2, 5])).tolist() == [2, 0, 1]
    assert adapted(balanced=False).weight.tolist() == [1, 1, 1]


def test_without_names_a_class_is_called_by_its_number() -> None:
    made = module()
    made.adapt(data("RR", [4, 7]))
    assert made.class_names == ["4", "7"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (data("RRT", [0, math.nan, 1]), "videos lacks class_id for some recordings"),
        (data("RRT", [0, 0, 0]), "has 1 class_id in split TRAIN: a classifier needs two or more"),
        (data("RRT", [0, 1, 3]), "has class_id 3, of which no recording is in split TRAIN"),
    ],
)
def test_data_without_classes_are_refused(given: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        module().adapt(given)


def test_no_column_of_classes_is_refused() -> None:
    given = data("RR", [0, 1])
    del given.store.table["class_id"]
    with pytest.raises(UserError, match="lacks class_id"):
        module().adapt(given)


@pytest.mark.parametrize("wrong", [{"blur": 1.5}, {"smallest": -0.1}])
def test_shares_are_from_0_to_1(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"model.{next(iter(wrong))} is .* from 0 to 1"):
        module(**wrong)


def test_the_loss_is_the_weighted_cross_entropy() -> None:
    made = adapted()
    logged, given = quiet(made), batch([9, 2, 2, 5])
    loss = made.training_step(given, 0)
    truth = made.network(given["x"]).log_softmax(dim=1)
    weights = [7 / 6, 7 / 12, 7 / 12, 7 / 3]
    by_hand = -sum(w * truth[row, k] for row, (w, k) in enumerate(zip(weights, [2, 0, 0, 1], strict=True))) / sum(
        weights
    )
    assert float(loss.detach()) == pytest.approx(float(by_hand.detach()), rel=1e-5)
    assert logged["train/loss"] == pytest.approx(float(loss.detach()))


def test_batches_are_blurred_as_often_as_asked_and_never_in_validation() -> None:
    made = adapted(blur=1.0, smallest=0.5)
    made.eval()
    quiet(made)
    given = batch([9, 2])
    torch.manual_seed(0)
    found = float(made.training_step(given, 0).detach())
    torch.manual_seed(0)
    torch.rand(())
    x = soften(given["x"], 0.5 + 0.5 * float(torch.rand(())))
    truth = functional.cross_entropy(made.network(x), torch.tensor([2, 0]), made.weight)
    assert found == pytest.approx(float(truth.detach()), rel=1e-5)
    made.validation_step(given, 0)
    assert torch.equal(made._found[0][0], made.network(given["x"]))


def test_a_loss_that_is_not_finite_names_the_recordings() -> None:
    made = adapted()
    quiet(made)
    given = batch([9, 2])
    given["x"][0] = math.nan
    with pytest.raises(UserError, match=r"the loss is not finite on a batch of r0, r1"):
        made.training_step(given, 0)


def test_metrics_are_of_the_whole_split_and_from_probabilities() -> None:
    made = adapted()
    made.eval()
    logged, parts = quiet(made), [batch([9, 2, 2], 1), batch([2, 9], 2)]
    for index, part in enumerate(parts):
        made.test_step(part, index)
    made.on_test_epoch_end()
    logits = made.network(torch.cat([part["x"] for part in parts])).detach()
    target = torch.tensor([2, 0, 0, 0, 2])
    areas = auc(logits.softmax(dim=1), target)
    assert logged["test/auc_two"] == pytest.approx(float(areas[0]))
    assert logged["test/auc"] == pytest.approx(float(areas[[0, 2]].mean()))
    shares = [(logits.argmax(dim=1) == target)[target == k].float().mean() for k in (0, 2)]
    assert logged["test/accuracy_nine"] == pytest.approx(float(shares[1]))
    assert logged["test/balanced_accuracy"] == pytest.approx(float(sum(shares)) / 2)
    assert logged["test/loss"] == pytest.approx(float(functional.cross_entropy(logits, target, made.weight)), rel=1e-5)
    assert not {"test/auc_five", "test/accuracy_five"} & logged.keys()  # nobody to test it on
    made.validation_step(parts[0], 0)
    assert len(made._found) == 1  # forgotten since


def store(root: Path) -> Store:
    """Bright discs (class 4) and bright squares (class 1), 20 patients."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:H, :W]
    with StoreWriter(root, Dataset(kind="video", channels=C)) as writer:
        for number in range(20):
            down, right = rng.integers(6, 10), rng.integers(8, 16)
            distance = np.hypot(y - down, x - right) if number % 2 else np.maximum(abs(y - down), abs(x - right))
            frames = np.where(distance < 5, 200, 40) + rng.integers(0, 30, (6 + number % 3, H, W))
            path = writer.scratch(f"r{number}")
            write_video(path, frames[..., None].astype(np.uint8), 32.0)
            split = ("TRAIN", "TRAIN", "TRAIN", "VAL", "TEST")[number // 2 % 5]
            facts = {"FileName": f"r{number}", "Split": split, "PatientID": f"p{number}", "NumberOfFrames": len(frames)}
            facts |= {"FPS": 32.0, "FrameHeight": H, "FrameWidth": W}
            writer.commit({**facts, "class_id": 4 if number % 2 else 1, "class_name": "ab"[number % 2]}, path)
        return writer.finish([f"r{number}" for number in range(20)])


def train_cfg(folder: Path, *overrides: str) -> DictConfig:
    fixed = ["model=classifier", f"src={folder}/videos", f"dst={folder}/classifier", f"work={folder}/runs"]
    fixed += [f"logger.csv.save_dir={folder}/logs", "+data.name=shapes", "preset=tiny", "backbone.widths=[4,6,8,10]"]
    fixed += ["datamodule.workers=0", "trainer.max_epochs=4", "trainer.limit_train_batches=6", "model.lr=0.02"]
    fixed += ["trainer.accelerator=cpu", "trainer.log_every_n_steps=1", "view.frames=3", "view.stride=2"]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("train", [*fixed, "datamodule.batch_size=6", "callbacks.ema.decay=0.5", *overrides])


def test_a_run_leaves_an_artifact_that_opens_to_the_same_logits(tmp_path: Path) -> None:
    store(tmp_path / "videos")
    metrics = engine.train(train_cfg(tmp_path))
    folder = tmp_path / "classifier"
    expected = {"artifact.json", "config.json", "model.safetensors", "training.yaml"}
    assert {path.name for path in folder.iterdir()} == expected
    network, config = load_classifier(folder)
    artifact = read_artifact(folder, "classifier")
    assert artifact.fingerprint == fingerprint(network)
    assert artifact.metrics == metrics
    each = {f"{metric}_{name}" for metric in ("auc", "accuracy") for name in "ab"}
    assert metrics.keys() == {"loss", "auc", "balanced_accuracy"} | each
    assert (config["class_ids"], config["class_names"]) == ([1, 4], ["a", "b"])
    assert {key: config[key] for key in ("frames", "stride", "height", "width")} == {
        **{"frames": 3, "stride": 2},
        **{"height": H, "width": W},
    }
    logs = pd.read_csv(tmp_path / "logs" / "csv" / "metrics.csv")
    assert logs["val/balanced_accuracy"].notna().sum() == 4
    assert logs["train/loss"].iloc[-5:].mean() < 0.8 * logs["train/loss"].iloc[:5].mean()
    # what is stored is what was tested: the loss over the test clips, again
    made = instantiate(train_cfg(tmp_path).datamodule, columns=["class_id"])
    batches = list(made.test_dataloader())
    with torch.no_grad():
        logits = torch.cat([network(given["x"]) for given in batches])
    target = torch.cat([(given["columns"]["class_id"] == 4).long() for given in batches])
    assert float(functional.cross_entropy(logits, target)) == pytest.approx(metrics["loss"], abs=2e-6)
    assert json.loads((folder / "config.json").read_text())["_class_name"] == "Classifier"


def test_only_clips_can_be_classified(tmp_path: Path) -> None:
    cfg = train_cfg(tmp_path)
    assert cfg.model.needs == {"view": ["clips"]}
    assert cfg.view._target_.endswith("Clips")
