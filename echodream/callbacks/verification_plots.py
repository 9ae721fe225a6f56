"""ROC curve and similarity histograms of patient verification, logged at each validation."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from echodream.callbacks.image_logging import log_image
from echodream.callbacks.wandb_logger import CHARTS
from echodream.metrics.verification import Pairs, roc_curve
from echodream.plotting import plot_verification


class VerificationPlots(Callback):
    """Logs plots of ``pl_module.verification_pairs`` if there are both genuine and impostor pairs."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pairs: Any = getattr(pl_module, "verification_pairs", None)
        if not (trainer.is_global_zero and isinstance(pairs, Pairs) and 0 < pairs.genuine.sum() < len(pairs.genuine)):
            return
        false_accept_rate, true_accept_rate, _ = roc_curve(pairs)
        similarity = {"same patient": pairs.score[pairs.genuine], "different patients": pairs.score[~pairs.genuine]}
        plot = plot_verification(false_accept_rate, true_accept_rate, similarity)
        log_image(trainer, self.folder, "verification", plot, CHARTS)
