"""One training run, from a resolved configuration to an artifact."""

import contextlib
import logging
import math
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger

from echodream import validation
from echodream.artifact import METADATA_FILE, Artifact, read_artifact
from echodream.callbacks.wandb_logger import finish_run
from echodream.config.launchers import check_objective, objective_value
from echodream.datamodules.datamodule import StoreData
from echodream.datamodules.recordings import training_patients
from echodream.errors import UserError
from echodream.modules.trainable import Trainable
from echodream.privacy.canaries import assign_canaries
from echodream.runs.atomic_folder import RANK_VARIABLES, is_first_process
from echodream.runs.trainer import choose_precision, interruptible, is_sharded, make_trainer, trainer_precision
from echodream.runs.verified_stores import check_stores
from echodream.store import Store
from echodream.store.lock import lock_for_writing, unlock
from echodream.training.private import privacy_record, privacy_settings, set_up_privacy
from echodream.training.settings_hash import metrics_of_existing_artifact, training_stores
from echodream.training.wandb_lineage import log_artifact, make_loggers

log = logging.getLogger(__name__)


class SeedEpochs(Callback):
    """Seeds torch from (seed, epoch, rank) at each epoch, so that a resumed run repeats its random numbers."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        torch.manual_seed(self.seed * 1_000_003 + trainer.current_epoch * 1_009 + trainer.global_rank)


def train_model(cfg: DictConfig, folder: Path, settings: str, command: str, code_version: str) -> dict[str, float]:
    """Train a model, export it to ``cfg.dst`` and return its test metrics; FSDP processes except the first return {}.

    An interrupted run resumes from the last checkpoint in ``folder``. ``settings`` is the hash of the training
    settings. Raises ``UserError`` for impossible settings, and if another process trains in ``folder``.
    """
    check_settings(cfg)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    check_stores(training_stores(cfg), cfg.get("verified"))
    source = Store(cfg.src).checksum
    privacy = privacy_settings(cfg)
    module, data = build_module_and_data(cfg)
    trainer_settings = choose_precision(instantiate(cfg.trainer), module.auto_precision, module.cpu_precision)
    cfg.trainer.precision = trainer_precision(trainer_settings)  # for training.yaml
    origin = str(data.store.dataset.settings.get("source", ""))
    artifact = Artifact(cfg.model.name, cfg.data.name, "", settings, {}, command, code_version, source, origin)
    artifact = replace(artifact, initial=initial_record(cfg))
    if data.canaries is not None:
        artifact = replace(artifact, canaries=data.canaries.digest)
    with _training_lock(folder):
        if is_first_process() and (finished := metrics_of_existing_artifact(cfg, settings)) is not None:
            return finished
        if privacy is not None:
            set_up_privacy(module, data, privacy, cfg, folder)
        loggers = make_loggers(cfg, folder, artifact, training_yaml(cfg))
        callbacks = [SeedEpochs(cfg.seed), *(instantiate(callback) for callback in cfg.callbacks.values() if callback)]
        trainer = make_trainer(
            trainer_settings,
            callbacks,
            unused_parameters=module.has_unused_parameters,
            logger=loggers,
            **({} if privacy is None else {"gradient_clip_val": None}),  # clipped per patient
        )
        with interruptible(trainer):
            fit(trainer, module, data, folder / "last.ckpt")
            if is_sharded(trainer):
                if not trainer.is_global_zero:
                    return {}
                module, trainer = gather_shards(cfg, data, folder / "last.ckpt", loggers)
            module.to(trainer.strategy.root_device).finish_training(data)
            metrics = test_metrics(cfg, trainer, module, data)
        if trainer.is_global_zero:
            artifact = replace(artifact, metrics=metrics, privacy=privacy_record(module, cfg))
            module.to(trainer.strategy.root_device).export(Path(cfg.dst), data, artifact, training_yaml(cfg))
            log.info("train: %s done\n%s", cfg.dst, metric_lines(metrics))
            log_artifact(loggers, Path(cfg.dst))
        trainer.strategy.barrier()
    return metrics


def initial_record(cfg: DictConfig) -> dict[str, Any] | None:
    """Record of the artifact whose weights the training begins with (``Artifact.lineage_record``); None without one."""
    for key in ("model.module.initial", "model.module.teacher", "vae.weights", "denoiser.weights"):
        folder = OmegaConf.select(cfg, key)
        if folder is not None and (Path(folder) / METADATA_FILE).is_file():
            return read_artifact(folder, cfg.model.name, "lidm", "lvdm").lineage_record()
    return None


def check_settings(cfg: DictConfig) -> None:
    """Raise ``UserError`` for settings that Lightning or the optimizer would refuse only later, or misinterpret."""
    check_objective(cfg.get("objective"))
    validation.whole_number("trainer.max_epochs", cfg.trainer.get("max_epochs"), 0)
    validation.positive_number("model.lr", cfg.model.get("lr", 1.0))
    precision = str(cfg.trainer.get("precision"))
    if cfg.model.name in ("lidm", "lvdm") and precision.endswith("-true") and precision != "32-true":
        choices = "use 32-true, bf16-mixed or 16-mixed"
        raise UserError(f"trainer.precision={precision} is too coarse to train a diffusion model: {choices}")
    if str(cfg.trainer.get("strategy")).startswith("fsdp"):
        not_sharded = ("callbacks.ema", "trainer.gradient_clip_val")
        if cfg.model.name == "vae" or any(OmegaConf.select(cfg, key) is not None for key in not_sharded):
            problem = "trainer.strategy=fsdp cannot average weights, clip gradients by norm, or train model=vae"
            remedy = "for another model, add callbacks.ema=null trainer.gradient_clip_val=null"
            raise UserError(f"{problem}: use trainer=ddp; {remedy}")


def build_module_and_data(cfg: DictConfig) -> tuple[Trainable, StoreData]:
    """Instantiate the LightningModule and the datamodule; the networks get the shapes of the data."""
    module: Trainable = instantiate(cfg.model.module)
    changes: dict[str, Any] = {"columns": [*cfg.datamodule.columns, *module.columns]}
    several = (str(cfg.trainer.get("devices", 1)), cfg.trainer.get("num_nodes", 1)) != ("1", 1)
    if cfg.datamodule.get("cache") == "auto" and several:  # each process would have its own cache
        changes["cache"] = False
    data: StoreData = instantiate(cfg.datamodule, **changes)
    if cfg.get("canaries") is not None:
        data.canaries = assign_canaries(training_patients(data.store), cfg.canaries, cfg.seed)
    module.configure_from_data(data)
    return module, data


def fit(trainer: pl.Trainer, module: Trainable, data: StoreData, checkpoint: Path) -> None:
    """Train ``module``; resume from ``checkpoint`` if this file exists."""
    path = str(checkpoint) if checkpoint.is_file() else None
    if path is not None:
        log.info("train: resumes from %s", path)
    trainer.fit(module, datamodule=data, ckpt_path=path, weights_only=True)


def test_metrics(cfg: DictConfig, trainer: pl.Trainer, module: Trainable, data: StoreData) -> dict[str, float]:
    """Metrics on the test patients, and the metric ``cfg.objective`` on the validation patients."""
    values = dict(next(iter(trainer.test(module, datamodule=data, verbose=False)), {}))  # {} without test batches
    if cfg.get("objective") is not None:  # a search must not select models on the test patients
        validation_metrics = trainer.validate(module, datamodule=data, verbose=False)[0]
        objective_value(cfg.objective, validation_metrics)
        values[cfg.objective] = validation_metrics[cfg.objective]
    return finite_metrics(values, module.metrics_without_value)


def metric_lines(metrics: Mapping[str, float]) -> str:
    """Text with a line for each metric, and +- its standard deviation if ``<metric>_std`` exists."""
    names = [name for name in metrics if not name.endswith("_std")]
    spread = {name: f" +- {metrics[f'{name}_std']:.4f}" if f"{name}_std" in metrics else "" for name in names}
    width = max((len(name) for name in names), default=0) + 2
    return "\n".join(f"  {name:<{width}}{metrics[name]:.4f}{spread[name]}" for name in names)


def gather_shards(
    cfg: DictConfig, data: StoreData, checkpoint: Path, loggers: list[Logger]
) -> tuple[Trainable, pl.Trainer]:
    """Load all weights of an FSDP training from ``checkpoint``; returns the module and a trainer of one process."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for name in [name for name in os.environ if name in RANK_VARIABLES or name.startswith("SLURM_")]:
        del os.environ[name]
    module: Trainable = instantiate(cfg.model.module)
    module.configure_from_data(data)
    module.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"])
    settings = OmegaConf.merge(cfg.trainer, {"strategy": "auto", "devices": 1, "num_nodes": 1})
    return module, make_trainer(instantiate(settings), [], logger=loggers)


def finite_metrics(values: Mapping[str, float], undefined: Collection[str]) -> dict[str, float]:
    """Test metrics by name. NaN is omitted for metrics in ``undefined``; any other NaN raises ``UserError``."""
    rounded = {name.removeprefix("test/"): round(float(value), 6) for name, value in values.items()}
    metrics = {name: value for name, value in rounded.items() if not (name in undefined and math.isnan(value))}
    if not_finite := [name for name, value in metrics.items() if not math.isfinite(value)]:
        problem = f"{', '.join(not_finite)} on the test patients is not finite, so nothing was exported"
        raise UserError(f"{problem}: train again with a lower model.lr")
    return metrics


def training_yaml(cfg: DictConfig) -> str:
    """Settings that determine the weights, as yaml; of the callbacks, only EMA and early stopping are included."""
    settings = {key: value for key, value in cfg.items() if key not in ("logger", "callbacks")}
    callbacks = cfg.callbacks or {}
    targets = {name: str((callback or {}).get("_target_")) for name, callback in callbacks.items()}
    stopping = [name for name in callbacks if name == "early_stopping" or "EarlyStopping" in targets[name]]
    settings["callbacks"] = {name: callbacks.get(name) for name in ["ema", *stopping]}
    return OmegaConf.to_yaml(OmegaConf.create(settings))


@contextlib.contextmanager
def _training_lock(folder: Path) -> Iterator[None]:
    """In the first process, lock ``folder`` against other training runs. At the end of the context, end the W&B run."""
    options = {"file": "lock", "action": "used for training", "key": "work="}
    handle = lock_for_writing(folder, **options) if is_first_process() else None
    try:
        yield
    finally:
        finish_run(failed=sys.exc_info()[0] is not None)
        if handle is not None:
            unlock(handle)
