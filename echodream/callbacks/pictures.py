"""Pictures at each validation, in every logger and in the run's folder."""

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from echodream.datamodules.transforms import to_uint8


class Pictures(Callback):
    """A grid of held-out frames: input, reconstruction, and four times their difference, one column each.

    The module's validation step returns the reconstructions, (B * F, C, H, W); the first frame of ``count`` clips,
    spread over the first batch, is shown.
    """

    def __init__(self, folder: str, count: int = 6) -> None:
        self.folder, self.count = Path(folder), count

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the first batch."""
        if batch_idx == 0 and trainer.is_global_zero:
            clips = batch["x"]
            stride = clips.shape[2]
            picked = np.linspace(0, len(clips) - 1, min(self.count, len(clips))).round().astype(int)
            x = clips[picked, :, 0].float().cpu()
            y = outputs.reshape(len(clips), stride, *outputs.shape[1:])[picked, 0].float().cpu()
            log_picture(trainer, self.folder, "reconstruction", grid([x, y, (x - y).abs() * 4 - 1]))


def log_picture(trainer: pl.Trainer, folder: Path, name: str, picture: np.ndarray) -> None:
    """Write ``picture``, uint8 (height, width, 3), to ``folder`` and to every logger that takes pictures."""
    from PIL import Image
    from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger

    folder.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(picture)
    image.save(folder / f"{name}_{trainer.current_epoch:05d}.png")
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, picture, trainer.global_step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            logger.log_image(name, [image], step=trainer.global_step)


def grid(rows: list[Tensor], gap: int = 2) -> np.ndarray:
    """Rows of images in [-1, 1], each (N, C, H, W), as one picture: uint8, (height, width, 3)."""
    count, _, height, width = rows[0].shape
    picture = np.full((len(rows) * (height + gap) - gap, count * (width + gap) - gap, 3), 64, np.uint8)
    for down, row in enumerate(rows):
        for across, image in enumerate(row):
            pixels = to_uint8(image).permute(1, 2, 0).numpy()
            top, left = down * (height + gap), across * (width + gap)
            picture[top : top + height, left : left + width] = pixels
    return picture
