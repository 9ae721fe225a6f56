"""model=utility: the masked loss, unsuitable labels, and labels that anonymization removed from the images."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch.nn import functional

from echodream import engine
from echodream.artifact import read_artifact
from echodream.config.checks import refuse_incompatible_choices
from echodream.config.paths import CONF_DIR
from echodream.datamodules.tasks import Labels
from echodream.errors import UserError
from echodream.modules.classifier_tasks import MultilabelTask, build_task
from echodream.networks.classifiers import load_classifier
from echodream.store import Dataset, Store, StoreWriter
from echodream.store.video import write_video
from tests.support.stores import Row

H, W = 16, 24
NAN = float("nan")


def test_the_loss_is_the_cross_entropy_of_the_known_labels() -> None:
    task = MultilabelTask(["a", "b", "c"], [2.0, 1.0, 0.5])
    out = torch.tensor([[0.3, -1.2, 2.0], [0.7, 0.1, -0.4]])
    columns = {"a": torch.tensor([1, 0]), "b": torch.tensor([NAN, 0.25]), "c": torch.tensor([0.5, NAN])}
    target = task.target({"columns": columns})
    p = out.sigmoid()
    terms = [-2 * p[0, 0].log(), -(1 - p[1, 0]).log()]
    terms += [-(0.25 * p[1, 1].log() + 0.75 * (1 - p[1, 1]).log())]
    terms += [-(0.5 * 0.5 * p[0, 2].log() + 0.5 * (1 - p[0, 2]).log())]
    assert float(task.loss(out, target)) == pytest.approx(float(sum(terms)) / 4, rel=1e-5)
    out.requires_grad_()
    task.loss(out, torch.full((2, 3), NAN)).backward()  # a batch without any known label
    assert out.grad is not None
    assert (out.grad == 0).all()


def test_unknown_labels_have_no_gradient() -> None:
    task = MultilabelTask(["a", "b"], [1.0, 1.0])
    out = torch.tensor([[0.3, -1.2]], requires_grad=True)
    task.loss(out, torch.tensor([[NAN, 1.0]])).backward()
    assert out.grad is not None
    assert out.grad[0, 0] == 0
    assert float(out.grad[0, 1]) == pytest.approx(float(functional.sigmoid(torch.tensor(-1.2)) - 1), rel=1e-5)


def data(**labels: list[float]) -> Any:
    table = pd.DataFrame(labels)
    task = Labels([*labels])
    fixed = {"task": task, "output_names": dict(enumerate(labels)), "store": SimpleNamespace(root=Path("videos"))}
    return SimpleNamespace(**fixed, training_table=lambda: table, train_on="real", synthetic=None)


def test_balanced_weights_positives_by_negatives_over_positives() -> None:
    given = data(a=[1, 0, 0, 0, NAN], b=[0.5, 1, NAN, 1, 0])
    task = build_task(given, balanced=True)
    assert isinstance(task, MultilabelTask)
    assert task.weight.tolist() == pytest.approx([3, 1.5 / 2.5])
    assert build_task(given, balanced=False).weight.tolist() == [1, 1]  # type: ignore[attr-defined]


def test_a_constant_label_is_refused() -> None:
    with pytest.raises(UserError, match=r"videos: label b has one value in all .*: remove it by task.labels=\[a,c\]"):
        build_task(data(a=[1, 0], b=[1, NAN], c=[0.5, 0.5]), balanced=False)
    with pytest.raises(UserError, match=r"choose other task\.labels"):
        build_task(data(a=[0, 0]), balanced=True)


def store(root: Path, shown: str = "ab") -> Store:
    """Forty images of twenty patients: label a is a bright left half, label b a dark right half.

    Only the labels of ``shown`` are visible in the images. Label c is 1 in TEST. One third of the labels b are missing.
    """
    rng = np.random.default_rng(0)
    rows: list[Row] = []
    with StoreWriter(root, Dataset(kind="video", channels=1)) as writer:
        for number in range(40):
            split = ("TRAIN", "TRAIN", "TRAIN", "VAL", "TEST")[number // 2 % 5]
            labels: dict[str, Any] = {"a": int(rng.integers(2)), "b": int(rng.integers(2))}
            image = rng.integers(90, 130, (1, H, W, 1))
            image[:, :, : W // 2] += 80 * labels["a"] * ("a" in shown)
            image[:, :, W // 2 :] -= 80 * labels["b"] * ("b" in shown)
            labels |= {"c": 1 if split == "TEST" else number % 2, "b": "" if number % 3 == 0 else labels["b"]}
            row = {"FileName": f"r{number:02}", "Split": split, "PatientID": f"p{number // 2}", "NumberOfFrames": 1}
            rows.append({**row, "FPS": 1.0, "FrameHeight": H, "FrameWidth": W, **labels})
            path = writer.scratch_path(f"r{number:02}")
            write_video(path, image.astype(np.uint8), 1.0)
            writer.commit(rows[-1], path)
        return writer.finish([row["FileName"] for row in rows])


def train_cfg(folder: Path, *overrides: str) -> DictConfig:
    fixed = ["model=utility", f"src={folder}/videos", f"dst={folder}/utility", f"work={folder}/runs"]
    fixed += [f"logger.csv.save_dir={folder}/logs", "+data.name=halves", "preset=tiny", "backbone.layers=[1,1,1,1]"]
    fixed += ["backbone.widths=[8,6]", "datamodule.workers=0", "datamodule.batch_size=8", "trainer.max_epochs=6"]
    fixed += ["trainer.accelerator=cpu", "trainer.log_every_n_steps=1", "model.lr=0.02", "callbacks.ema.decay=0.5"]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("train", [*fixed, "datamodule.length=96", "task.labels=[a,b,c]", *overrides])


@pytest.mark.slow
def test_a_label_removed_from_anonymized_images_has_a_low_auc(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Trained on original images; label b is not visible in the anonymized images; label c has no negatives in TEST."""
    store(tmp_path / "videos")
    store(tmp_path / "masked", shown="a")
    with caplog.at_level(logging.INFO):
        metrics = engine.train(train_cfg(tmp_path, f"anonymised={tmp_path}/masked"))
    assert metrics["auc_a"] == metrics["auc_b"] == metrics["masked_auc_a"] == 1
    assert metrics["masked_auc_b"] < 0.9
    assert {"loss", "masked_loss", "average_precision_a", "masked_auc"} < metrics.keys()
    assert not {name for name in metrics if name.endswith("_c")}
    folder = tmp_path / "utility"
    files = {"artifact.json", "config.json", "model.safetensors", "training.yaml", "metrics.json"}
    assert {path.name for path in folder.iterdir()} == files | {"roc.png", "roc_masked.png"}
    assert read_artifact(folder, "utility").metrics == metrics
    _, config = load_classifier(folder)
    assert (config["task"], config["labels"], config["train_on"]) == ("labels", ["a", "b", "c"], "original")
    record = json.loads((folder / "metrics.json").read_text())
    table = Store(tmp_path / "videos").table.query("Split == 'TEST'")
    counts = {"positive": int((table["b"] == 1).sum()), "negative": int((table["b"] == 0).sum())}
    assert counts.items() < record["labels"]["b"].items()
    assert record["labels"]["c"] == {"positive": 8, "negative": 0, "patients_positive": 4, "patients_negative": 0}
    assert record["figures"]["auc_c"] == {"value": None, "low": None, "high": None}
    assert record["anonymised"]["masked"]["figures"]["auc_a"]["value"] == 1
    assert record["train_on"] == "original"
    # the low end of the interval is below 1, although all eight test images are correct
    assert 0 < record["figures"]["auc_a"]["low"] < 1
    said = caplog.text
    assert "tested on 8 original images, of 4 TEST patients" in said
    assert "tested on 8 images in masked, versions of originals, of 4 TEST patients" in said
    assert said.count("not scored: 8 positive and 0 negative images, and AUC needs both kinds") == 2


@pytest.mark.slow
def test_training_on_anonymized_images_and_testing_on_originals(tmp_path: Path) -> None:
    store(tmp_path / "videos")
    store(tmp_path / "masked", shown="a")
    asked = ["train_on=anonymised", "task.labels=[a,b]", "trainer.max_epochs=1", "datamodule.length=16"]
    metrics = engine.train(train_cfg(tmp_path, *asked, f"anonymised={tmp_path}/masked"))
    assert {"auc_b", "masked_auc_b"} < metrics.keys()
    facts = json.loads((tmp_path / "utility" / "config.json").read_text())
    assert (facts["train_on"], facts["trained"]) == ("anonymised", {"anonymised": {"recordings": 24, "patients": 12}})
    # other anonymized images are another setting of the training
    with pytest.raises(UserError, match="was trained with other settings"):
        engine.train(train_cfg(tmp_path, *asked, f"anonymised={tmp_path}/videos"))


@pytest.mark.slow
def test_default_store_and_artifact_folders() -> None:
    def made(*overrides: str) -> DictConfig:
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            return compose("train", ["model=utility", *overrides])

    cfg = made("data=chest_xray")
    assert (cfg.src, cfg.dst) == ("data/chest_xray/videos", "models/chest_xray/utility")
    assert cfg.datamodule.anonymised is None
    assert [*cfg.task.study] == ["PA", "Male", "ICU", "Survived"]
    assert cfg.model.module.optimizer.lr == 3e-5
    assert (cfg.backbone.block, [*cfg.backbone.layers]) == ("dense", [6, 12, 24, 16])
    cfg = made("data=mimic_cxr", "train_on=anonymised", "on=latents", "backbone=densenet121_latents")
    assert (cfg.src, cfg.dst) == ("data/mimic_cxr/latents", "models/mimic_cxr/utility_anonymised")
    assert (cfg.datamodule.kind, cfg.datamodule.anonymised) == ("latent", "samples/mimic_cxr/anonymised")
    assert cfg.task.study is None
    assert [*made("data=chest_xray", "experiment=chest").backbone.widths] == [16, 12]


def test_only_utility_accepts_the_labels_task() -> None:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("train", ["model=classifier", "data=phantom", "task=labels"])
    words = "model=classifier cannot be combined with task=labels: choose one of classification"
    with pytest.raises(UserError, match=words):
        refuse_incompatible_choices(cfg, {"model": "classifier", "view": "clips", "task": "labels"})
