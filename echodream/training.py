"""One training run, from a resolved configuration to an artifact."""

import logging
import math
from collections.abc import Collection, Mapping
from pathlib import Path

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback

from echodream.artifact import Artifact
from echodream.errors import UserError
from echodream.trainers import interruptible, make_trainer

log = logging.getLogger(__name__)


class SeedEpochs(Callback):
    """Begin each epoch with random numbers that are a function of (seed, epoch), so that a resumed run repeats them."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Seed torch's generators."""
        torch.manual_seed(self.seed * 1_000_003 + trainer.current_epoch * 1_009 + trainer.global_rank)


def run(cfg: DictConfig, folder: Path, settings: str, command: str, code_version: str) -> dict[str, float]:
    """Fit, test and export. Checkpoints are kept in ``folder``; an interrupted run goes on from the last one."""
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    data = instantiate(cfg.datamodule)
    module = instantiate(cfg.model.module)
    module.check(data.store)
    callbacks = [SeedEpochs(cfg.seed), *(instantiate(callback) for callback in cfg.callbacks.values() if callback)]
    loggers = [instantiate(logger) for logger in (cfg.logger or {}).values()]
    trainer = make_trainer(
        instantiate(cfg.trainer),
        callbacks,
        some_unused=getattr(module, "adversarial", None) is not None,
        logger=loggers,
    )
    last = folder / "last.ckpt"
    if last.is_file():
        log.info("train: going on from %s", last)
    with interruptible(trainer):
        trainer.fit(module, datamodule=data, ckpt_path=str(last) if last.is_file() else None, weights_only=True)
        found = trainer.test(module, datamodule=data, verbose=False)[0]
    metrics = _finite(found, getattr(module, "undefined_when_still", ()))
    if trainer.is_global_zero:
        artifact = Artifact(cfg.model.name, cfg.data.name, "", settings, metrics, command, code_version)
        module.to(trainer.strategy.root_device).export(Path(cfg.dst), data, artifact, _recipe(cfg))
        log.info(
            "train: %s done\n%s", cfg.dst, "\n".join(f"  {name:<16}{value:.4f}" for name, value in metrics.items())
        )
    trainer.strategy.barrier()
    return metrics


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
    kept["callbacks"] = {"ema": (cfg.callbacks or {}).get("ema")}
    return OmegaConf.to_yaml(OmegaConf.create(kept))
