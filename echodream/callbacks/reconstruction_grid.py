"""Reconstructions of validation frames by the autoencoder, logged at each validation."""

from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback

from echodream.callbacks.image_logging import image_grid, log_image
from echodream.callbacks.wandb_logger import PATIENTS


class ReconstructionGrid(Callback):
    """Logs a grid with a column per validation frame: input, reconstruction, four times their absolute difference.

    The grid contains the first frame of each of ``count`` clips, evenly spaced in the first batch. ``outputs`` of the
    validation step are reconstructions, (B * F, C, H, W).
    """

    def __init__(self, folder: str, count: int = 6) -> None:
        self.folder, self.count = Path(folder), count

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx == 0 and trainer.is_global_zero:
            clips = batch["x"]
            selected = np.linspace(0, len(clips) - 1, min(self.count, len(clips))).round().astype(int)
            x = clips[selected, :, 0].float().cpu()
            y = outputs.reshape(len(clips), clips.shape[2], *outputs.shape[1:])[selected, 0].float().cpu()
            log_image(trainer, self.folder, "reconstruction", image_grid([x, y, (x - y).abs() * 4 - 1]), PATIENTS)
