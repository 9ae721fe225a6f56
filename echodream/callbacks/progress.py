"""A line for each epoch, also where nobody watches a progress bar."""

import logging

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

log = logging.getLogger(__name__)


class Progress(Callback):
    """Say, at the end of each epoch, the last value of each of ``metrics``."""

    def __init__(self, metrics: list[str]) -> None:
        self.metrics = list(metrics)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """One line, on the first process: those of ``metrics`` that were logged."""
        known = {
            name: float(trainer.callback_metrics[name]) for name in self.metrics if name in trainer.callback_metrics
        }
        if trainer.is_global_zero and known:
            values = "  ".join(f"{name} {value:.4g}" for name, value in known.items())
            log.info("epoch %d of %s  %s", trainer.current_epoch + 1, trainer.max_epochs, values)
