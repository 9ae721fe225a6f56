"""One training run, from a resolved configuration to an artifact."""

import logging
import math
import os
import sys
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback

from echodream import validation
from echodream.artifact import Artifact, read_artifact
from echodream.callbacks.wandb_logger import finish_run
from echodream.config.launchers import check_objective, objective
from echodream.datamodules.datamodule import StoreData
from echodream.errors import UserError
from echodream.modules.trainable import Trainable
from echodream.runs.atomic_folder import RANKS, first_process, lock, unlock
from echodream.runs.rerun_cache import check_stores
from echodream.runs.trainer import interruptible, make_trainer, sharded
from echodream.store.checksums import file_sha256
from echodream.store.schema import CHECKSUMS
from echodream.training import cross_validation as repeated
from echodream.training import wandb_lineage
from echodream.training.settings_hash import training_stores

log = logging.getLogger(__name__)


class SeedEpochs(Callback):
    """Begin each epoch with random numbers that are a function of (seed, epoch), so that a resumed run repeats them."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Seed torch's generators."""
        torch.manual_seed(self.seed * 1_000_003 + trainer.current_epoch * 1_009 + trainer.global_rank)


def run(cfg: DictConfig, folder: Path, settings: str, command: str, code_version: str) -> dict[str, float]:
    """Fit, test and export. Checkpoints are kept in ``folder``; an interrupted run goes on from the last one.

    Raises ``UserError`` for settings that cannot be trained with, and when another process trains in ``folder``.
    """
    _check(cfg)
    if repeated.asked(cfg):
        return repeated.run_all(cfg, folder, settings, command, code_version, run)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    check_stores(training_stores(cfg))
    source = file_sha256(Path(cfg.src) / CHECKSUMS)
    module: Trainable = instantiate(cfg.model.module)
    data: StoreData = instantiate(cfg.datamodule, columns=[*cfg.datamodule.columns, *module.columns])
    module.configure_from_data(data)
    held = None
    if first_process():
        held = lock(folder, "lock", doing="trained", other="work=")
    try:
        if held is not None and Path(cfg.dst).exists():  # the process that held the lock before has finished
            found = read_artifact(cfg.dst, cfg.model.name)
            if found.settings != settings:
                raise UserError(f"{cfg.dst} was trained with other settings: choose another dst=, or remove it")
            log.info("train: %s already complete, nothing to do", cfg.dst)
            return found.metrics
        return _train(
            cfg,
            folder,
            data,
            module,
            Artifact(cfg.model.name, cfg.data.name, "", settings, {}, command, code_version, source),
        )
    finally:
        finish_run(failed=sys.exc_info()[0] is not None)
        if held is not None:
            unlock(held)


def _check(cfg: DictConfig) -> None:
    """Refuse what Lightning and the optimiser would take late, or otherwise than it is meant."""
    check_objective(cfg.get("objective"))
    epochs, lr = cfg.trainer.get("max_epochs"), cfg.model.get("lr", 1.0)
    validation.whole_number("trainer.max_epochs", epochs, 0)
    precision = str(cfg.trainer.get("precision"))
    if cfg.model.name in ("lidm", "lvdm") and precision.endswith("-true") and precision != "32-true":
        raise UserError(
            f"trainer.precision={precision} loses what diffusion learns: take 32-true, bf16-mixed or 16-mixed"
        )
    if str(cfg.trainer.get("strategy")).startswith("fsdp"):
        kept = ("callbacks.ema", "trainer.gradient_clip_val")
        if cfg.model.name == "vae" or any(OmegaConf.select(cfg, key) is not None for key in kept):
            raise UserError(
                "trainer.strategy=fsdp spreads weights over GPUs, where they are neither averaged nor clipped by norm: "
                "take trainer=ddp, or, but for model=vae, add callbacks.ema=null trainer.gradient_clip_val=null"
            )
    validation.positive_number("model.lr", lr)


def _train(cfg: DictConfig, folder: Path, data: StoreData, module: Trainable, artifact: Artifact) -> dict[str, float]:
    callbacks = [SeedEpochs(cfg.seed), *(instantiate(callback) for callback in cfg.callbacks.values() if callback)]
    loggers = wandb_lineage.make_loggers(cfg, folder, artifact, _recipe(cfg))
    trainer = make_trainer(
        instantiate(cfg.trainer),
        callbacks,
        some_unused=module.has_unused_parameters,
        logger=loggers,
    )
    last = folder / "last.ckpt"
    if last.is_file():
        log.info("train: going on from %s", last)
    with interruptible(trainer):
        trainer.fit(module, datamodule=data, ckpt_path=str(last) if last.is_file() else None, weights_only=True)
        if sharded(trainer):
            if not trainer.is_global_zero:
                return {}
            module, trainer = _whole(cfg, data, last, loggers)
        found = dict(trainer.test(module, datamodule=data, verbose=False)[0])
        if cfg.get("objective") is not None:  # a search chooses by other patients than those of the results
            validated = trainer.validate(module, datamodule=data, verbose=False)[0]
            objective(cfg.objective, validated)
            found[cfg.objective] = validated[cfg.objective]
    metrics = _finite(found, module.metrics_without_value)
    if trainer.is_global_zero:
        made = replace(artifact, metrics=metrics)
        module.to(trainer.strategy.root_device).export(Path(cfg.dst), data, made, _recipe(cfg))
        wandb_lineage.log_artifact(loggers, Path(cfg.dst))
        width = max((len(name) for name in metrics), default=0) + 2
        log.info(
            "train: %s done\n%s", cfg.dst, "\n".join(f"  {name:<{width}}{value:.4f}" for name, value in metrics.items())
        )
    trainer.strategy.barrier()
    return metrics


def _leave() -> None:
    """Leave the distributed run that this process is part of: what follows it does alone."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for name in [name for name in os.environ if name in RANKS or name.startswith("SLURM_")]:
        del os.environ[name]


def _whole(cfg: DictConfig, data: StoreData, last: Path, loggers: list[Any]) -> tuple[Trainable, pl.Trainer]:
    """The trained module from its checkpoint ``last``, in this process alone, and a trainer to test it with."""
    _leave()
    module: Trainable = instantiate(cfg.model.module)
    module.configure_from_data(data)
    module.load_state_dict(torch.load(last, map_location="cpu", weights_only=True)["state_dict"])
    one = OmegaConf.merge(cfg.trainer, {"strategy": "auto", "devices": 1, "num_nodes": 1})
    return module, make_trainer(instantiate(one), [], logger=loggers)


def _finite(found: Mapping[str, float], undefined: Collection[str]) -> dict[str, float]:
    """The test metrics by name; those that may be ``undefined`` are left out where they are NaN."""
    values = {name.removeprefix("test/"): round(float(value), 6) for name, value in found.items()}
    metrics = {name: value for name, value in values.items() if not (name in undefined and math.isnan(value))}
    if wrong := [name for name, value in metrics.items() if not math.isfinite(value)]:
        raise UserError(
            f"{', '.join(wrong)} on the test patients is not finite, so nothing was exported: train again with a lower "
            "model.lr"
        )
    return metrics


def _recipe(cfg: DictConfig) -> str:
    """What decides the weights, as yaml: not what is logged and drawn, whose folder differs from run to run."""
    kept = {key: value for key, value in cfg.items() if key not in ("logger", "callbacks")}
    callbacks = cfg.callbacks or {}
    kept["callbacks"] = {name: callbacks.get(name) for name in ("ema", "early_stopping") if name in ("ema", *callbacks)}
    return OmegaConf.to_yaml(OmegaConf.create(kept))
