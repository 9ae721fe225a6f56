"""Folds and seeds in one command: one artifact each; every patient is tested by a model trained without the patient."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from omegaconf import DictConfig

from echodream import engine
from echodream.artifact import read_artifact
from echodream.config.paths import CONF_DIR
from echodream.errors import UserError
from echodream.metrics.classification import roc_auc
from echodream.networks.classifiers import load_classifier
from echodream.store import Store
from echodream.training.cross_validation import list_runs, mean_and_std
from tests.support.stores import make_video_store, row


def stores(folder: Path) -> None:
    """Twelve patients in two classes with two recordings each; six synthetic recordings."""
    rows = []
    for k in range(24):
        split = ("TRAIN", "TRAIN", "TRAIN", "VAL", "TEST", "TEST")[k // 4]
        rows.append(row(f"r{k}", f"P{k // 2}", 6, split, class_id=k // 2 % 2, class_name="ab"[k // 2 % 2]))
    make_video_store(folder / "videos", rows)
    fake = [row(f"s{k}", f"S{k}", 6, class_id=k % 2, class_name="ab"[k % 2]) for k in range(6)]
    make_video_store(folder / "synthetic", fake)


def train_cfg(folder: Path, *overrides: str) -> DictConfig:
    fixed = ["model=classifier", f"src={folder}/videos", f"dst={folder}/classifier", f"work={folder}/runs"]
    fixed += [f"logger.csv.save_dir={folder}/logs", "+data.name=shapes", "preset=tiny", "backbone.widths=[4,4,4,4]"]
    fixed += ["backbone.stem=[3,3]", "backbone.stride=[1,1]", f"synthetic={folder}/synthetic", "model.repeats=100"]
    fixed += ["datamodule.workers=0", "trainer.max_epochs=1", "trainer.accelerator=cpu", "view.frames=2"]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("train", [*fixed, "datamodule.batch_size=8", *overrides])


@pytest.mark.slow
def test_all_folds_in_one_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stores(tmp_path)
    metrics = engine.train(train_cfg(tmp_path, "folds=3"))
    root, names = tmp_path / "classifier", ["fold_0", "fold_1", "fold_2"]
    assert {path.name for path in root.iterdir()} == {*names, "artifact.json", "runs.json", "training.yaml"}
    record = json.loads((root / "runs.json").read_text())
    assert list(record["runs"]) == names
    each = [read_artifact(root / name, "classifier").metrics for name in names]
    assert metrics["loss"] == pytest.approx(np.mean([found["loss"] for found in each]), abs=1e-5)
    assert metrics["loss_std"] == pytest.approx(np.std([found["loss"] for found in each], ddof=1), abs=1e-5)
    # every patient is tested once, by the model of the fold whose training and validation data exclude this patient
    assert (record["together"]["recordings"], record["together"]["patients"]) == (24, 12)
    facts = [load_classifier(root / name)[1] for name in names]
    assert [config["fold"] for config in facts] == [0, 1, 2]
    assert all(config["trained"]["real"] == {"recordings": 8, "patients": 4} for config in facts)
    assert record["together"]["figures"]["auc_a"]["value"] == pytest.approx(_pooled(tmp_path, root, names), abs=1e-9)
    with pytest.raises(UserError, match="holds several classifiers, of folds or seeds: give the folder of one"):
        load_classifier(root)
    monkeypatch.setattr("echodream.training.cross_validation.train_model", lambda *_: 1 / 0)
    assert engine.train(train_cfg(tmp_path, "folds=3")) == metrics  # all artifacts are complete: no further training
    with pytest.raises(UserError, match="was trained with other settings"):
        engine.train(train_cfg(tmp_path))


@torch.no_grad()
def _pooled(folder: Path, root: Path, names: list[str]) -> float:
    """AUC of class a over all recordings; each recording is classified by the model of its patient's test fold."""
    from echodream.datamodules.patient_folds import assign_folds

    store = Store(folder / "videos")
    table = store.table
    fold = assign_folds(table["PatientID"].to_numpy(), table["class_id"].to_numpy(), len(names), seed=0)
    said = []
    for number, name in zip(fold, table["FileName"], strict=True):
        network, config = load_classifier(root / names[number])
        first = (6 - config["stride"] - 1) // 2
        x = torch.from_numpy(store.frames(name)[first : first + 3 : 2, :, :, 0]).float() / 127.5 - 1
        said.append(float(network(x[None, None]).softmax(dim=1)[0, 0]))
    return float(roc_auc(np.array(said), table["class_id"].to_numpy() == 0)[0])


@pytest.mark.slow
def test_what_is_done_of_several_runs_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a kill in the second of two trainings, the same command runs only the second training."""
    stores(tmp_path)
    whole = engine.train(train_cfg(tmp_path, "seeds=[0,1]", f"dst={tmp_path}/once", f"work={tmp_path}/other"))
    from echodream.training import cross_validation

    count, run = [0], cross_validation.train_model

    def killed(*given: Any) -> dict[str, float]:
        count[0] += 1
        if count[0] == 2:
            raise KeyboardInterrupt
        return run(*given)

    cfg = train_cfg(tmp_path, "seeds=[0,1]")
    folder, settings = tmp_path / "runs" / "x", "0" * 64
    engine.check_and_resolve(cfg)
    monkeypatch.setattr(cross_validation, "train_model", killed)
    with pytest.raises(KeyboardInterrupt):
        cross_validation.cross_validate(cfg, folder, settings, "", "")
    monkeypatch.setattr(cross_validation, "train_model", run)
    assert not (tmp_path / "classifier").exists()
    made = (folder / "seed_0" / "artifact" / "model.safetensors").stat().st_mtime_ns
    assert cross_validation.cross_validate(cfg, folder, settings, "", "") == whole
    assert (folder / "seed_0" / "artifact" / "model.safetensors").stat().st_mtime_ns == made
    weights = [(tmp_path / k / "seed_1" / "model.safetensors").read_bytes() for k in ("once", "classifier")]
    assert weights[0] == weights[1]


def test_folds_and_seeds_are_every_pair_of_them() -> None:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("train", ["model=classifier", "data=phantom", "folds=3", "seeds=[4,7]"])
        names = [(run.name, run.seed, run.fold) for run in list_runs(cfg)]
        assert names[:3] == [("fold_0_seed_4", 4, 0), ("fold_0_seed_7", 7, 0), ("fold_1_seed_4", 4, 1)]
        assert len(names) == 6
        for wrong, says in (
            ("folds=2", "folds is 2: give a whole number from 3"),
            ("seeds=[1,1]", "give a list of different whole numbers"),
            ("seeds=3", "give a list of different whole numbers"),
            ("seeds=[-1]", "an entry of seeds is -1: give a whole number from 0"),
        ):
            with pytest.raises(UserError, match=says):
                list_runs(compose("train", ["model=classifier", "data=phantom", wrong]))


def test_the_summary_is_of_what_all_runs_have() -> None:
    found = mean_and_std([{"auc": 0.5, "f1": 0.1}, {"auc": 0.7}, {"auc": 0.9, "f1": 0.3}])
    assert found == {"auc": 0.7, "auc_std": 0.2}
    assert not any(math.isnan(value) for value in mean_and_std([{"auc": 0.5}]).values())


@pytest.mark.slow
def test_a_recording_that_several_seeds_answer_is_one_recording(tmp_path: Path) -> None:
    stores(tmp_path)
    engine.train(train_cfg(tmp_path, "folds=3", "seeds=[0,1]"))
    together = json.loads((tmp_path / "classifier" / "runs.json").read_text())["together"]
    assert (together["recordings"], together["patients"]) == (24, 12)


def test_a_fold_beside_folds_is_not_silent(tmp_path: Path) -> None:
    stores(tmp_path)
    with pytest.raises(InstantiationException, match=r"datamodule.folds is None and datamodule.fold is 1: set both"):
        engine.train(train_cfg(tmp_path, "folds=3", "datamodule.fold=1"))
