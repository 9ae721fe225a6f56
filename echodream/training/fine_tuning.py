"""Fine-tuning of a copy of a generator on a few patients (``stage=filter memoriser=true``)."""

import hashlib
import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from echodream.artifact import TRAINING_FILE, read_artifact
from echodream.config.paths import CONF_DIR
from echodream.datamodules.recordings import Recordings
from echodream.errors import UserError
from echodream.filtering.memorization import MemorizationTestConfig, select_patients
from echodream.store import StoreWriter
from echodream.training.fit import train_model

REQUIRED_KEYS = ("model.module._target_", "datamodule.view", "trainer._target_", "model.name", "data.name")
"""Keys of training.yaml that are necessary to train a model further."""


def training_config(generator: str, name: str) -> DictConfig:
    """Training configuration of the artifact ``generator``. Raises ``UserError`` if there is none."""
    path = Path(generator) / TRAINING_FILE
    try:
        cfg = OmegaConf.load(path)
        complete = isinstance(cfg, DictConfig) and all(OmegaConf.select(cfg, key) is not None for key in REQUIRED_KEYS)
    except (OSError, ValueError, OmegaConfBaseException, YAMLError):
        complete = False
    if not complete:
        raise UserError(
            f"memoriser=true trains a copy of generator={generator}, and {path} has no training settings, as in a "
            f"published checkpoint: give a {name} that train.py trained, or memoriser=false"
        )
    assert isinstance(cfg, DictConfig)
    if (teacher := OmegaConf.select(cfg, "model.module.teacher")) is not None:
        raise UserError(
            f"memoriser=true cannot train the distilled generator={generator} further: give its teacher, "
            f"generator={teacher}, or memoriser=false"
        )
    return cfg


def fine_tune(
    cfg: DictConfig,
    generator: str,
    recordings: Recordings,
    config: MemorizationTestConfig,
    seed: int,
    work: Path,
    device: str,
    command: str,
    code_version: str,
) -> tuple[Recordings, list[str]]:
    """Train the artifact ``generator`` further on random patients of ``recordings``; ``cfg``: its ``training_config``.

    Returns the recordings of the selected patients, and the folder of an artifact for each checkpoint. All files are
    in a subfolder of ``work`` that is named by a hash of the settings, where an interrupted training resumes.
    """
    cfg, store = cfg.copy(), recordings.store
    chosen = select_patients(instantiate(cfg.datamodule.view).select_recordings(recordings), config.patients, seed)
    fingerprint = read_artifact(generator, cfg.model.name).fingerprint
    settings = {**asdict(config), "samples": 0, "seed": seed, "store": store.checksum, "generator": fingerprint}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    folder = work / digest[:12]
    _write_store(chosen, folder / "latents")
    steps, batch_size = config.steps // config.checkpoints, min(config.batch_size, cfg.datamodule.batch_size)
    checkpoint = OmegaConf.load(CONF_DIR / "callbacks" / "default.yaml").checkpoint
    checkpoint.dirpath = str(folder)
    changes: dict[str, Any] = {
        "src": str(folder / "latents"),
        "seed": seed,
        "objective": None,
        "canaries": None,
        "logger": {},
        "callbacks": {"ema": OmegaConf.select(cfg, "callbacks.ema"), "checkpoint": checkpoint},
        "datamodule": {"src": str(folder / "latents"), "seed": seed, "batch_size": batch_size, "augment": None},
        "trainer": {"devices": 1, "num_nodes": 1, "strategy": "auto", "limit_train_batches": steps},
        "model": {"module": {"initial": generator, "compile": False}},
    }
    changes["datamodule"]["view"] = {"per_recording": math.ceil(batch_size * steps / len(chosen))}
    changes["trainer"] |= {"limit_val_batches": 0, "limit_test_batches": 0, "privacy": None}
    changes["trainer"]["accelerator"] = "cpu" if device == "cpu" else "auto"
    if cfg.model.module.get("schedule") is not None:
        changes["model"]["module"]["schedule"] = {"name": "constant_with_warmup"}
    folders = []
    for number in range(1, config.checkpoints + 1):
        folders.append(str(folder / f"generator_{number}"))
        changes["trainer"]["max_epochs"], changes["dst"] = number, folders[-1]
        run = OmegaConf.merge(cfg, changes)
        assert isinstance(run, DictConfig)
        train_model(run, folder, f"{digest} {number}", command, code_version)
    return chosen, folders


def _write_store(recordings: Recordings, root: Path) -> None:
    """Write ``recordings`` to a store ``root``, with the statistics of the store that they come from."""
    store, rows = recordings.store, recordings.store.rows()
    root.parent.mkdir(parents=True, exist_ok=True)
    settings = {**store.dataset.settings, "selected_from": store.checksum}
    dataset = replace(store.dataset, statistics=None, settings=settings)
    with StoreWriter(root, dataset) as writer:
        for name in () if writer.complete else recordings.names:
            if name not in writer.done:
                writer.copy(store.path(name), rows[name])
        if not writer.complete:
            writer.finish(recordings.names, store.dataset.statistics)
