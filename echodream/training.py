"""One training run, from a resolved configuration to an artifact."""

import logging
import math
from pathlib import Path

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback

from echodream.artifact import Artifact
from echodream.errors import UserError
from echodream.trainers import make_trainer

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
    trainer = make_trainer(instantiate(cfg.trainer), callbacks, logger=loggers)
    last = folder / "last.ckpt"
    if last.is_file():
        log.info("train: going on from %s", last)
    trainer.fit(module, datamodule=data, ckpt_path=str(last) if last.is_file() else None, weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt
    found = trainer.test(module, datamodule=data, verbose=False)[0]
    metrics = {name.removeprefix("test/"): round(float(value), 6) for name, value in found.items()}
    if not all(math.isfinite(value) for value in metrics.values()):
        raise UserError(f"a metric on the test patients is not finite: {metrics}; nothing was exported")
    if trainer.is_global_zero:
        artifact = Artifact(cfg.model.name, cfg.data.name, "", settings, metrics, command, code_version)
        module.export(Path(cfg.dst), data, artifact, OmegaConf.to_yaml(cfg))
        log.info(
            "train: %s done\n%s", cfg.dst, "\n".join(f"  {name:<16}{value:.4f}" for name, value in metrics.items())
        )
    trainer.strategy.barrier()
    return metrics
