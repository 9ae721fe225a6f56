"""Log line with the metrics of each training epoch."""

import logging

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

log = logging.getLogger(__name__)


class EpochSummary(Callback):
    """Logs the latest values of ``metrics`` at the end of each training epoch."""

    def __init__(self, metrics: list[str]) -> None:
        self.metrics = list(metrics)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        values = trainer.callback_metrics
        texts = [f"{name} {float(values[name]):.4g}" for name in self.metrics if name in values]
        if trainer.is_global_zero and texts:
            log.info("epoch %d of %s  %s", trainer.current_epoch + 1, trainer.max_epochs, "  ".join(texts))
