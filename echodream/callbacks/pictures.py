"""Pictures at each validation, in every logger and in the run's folder."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger
from torch import Tensor

from echodream.callbacks.tracking import PATIENTS, Wandb
from echodream.datamodules.normalization import to_uint8


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
            log_picture(trainer, self.folder, "reconstruction", grid([x, y, (x - y).abs() * 4 - 1]), PATIENTS)


def log_picture(trainer: pl.Trainer, folder: Path, name: str, picture: np.ndarray, shows: str = PATIENTS) -> None:
    """Write ``picture``, uint8 (height, width, 3), to ``folder`` and to every logger that takes pictures.

    ``shows`` is what is on it, one of ``tracking.KINDS``: a logger that sends pictures away takes some kinds only.
    """
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(folder / f"{name}_{trainer.current_epoch:05d}.png")
    send_picture(trainer.loggers, name, picture, trainer.global_step, shows)


def send_picture(loggers: Iterable[Logger], name: str, picture: np.ndarray, step: int, shows: str) -> None:
    """Give ``picture``, uint8 (height, width, 3), that shows what ``shows`` says, to ``loggers`` that take it."""
    from PIL import Image
    from pytorch_lightning.loggers import TensorBoardLogger

    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, picture, step, dataformats="HWC")
        elif isinstance(logger, Wandb) and logger.shows(shows):
            logger.log_image(name, [Image.fromarray(picture)], step=step)


def takes_videos(loggers: Iterable[Logger], shows: str) -> bool:
    """Whether one of ``loggers`` takes a video that shows what ``shows`` says."""
    from pytorch_lightning.loggers import TensorBoardLogger

    return any(
        isinstance(each, TensorBoardLogger) or (isinstance(each, Wandb) and each.shows(shows)) for each in loggers
    )


def log_video(
    trainer: pl.Trainer, folder: Path, name: str, frames: Sequence[np.ndarray], fps: float, shows: str
) -> None:
    """Write ``frames``, uint8 (height, width, 3) each, as a GIF to ``folder``, and to the loggers that take it."""
    from PIL import Image
    from pytorch_lightning.loggers import TensorBoardLogger

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}_{trainer.current_epoch:05d}.gif"
    stills = [Image.fromarray(frame) for frame in frames]
    stills[0].save(path, save_all=True, append_images=stills[1:], duration=round(1000 / fps), loop=0)
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            _to_tensorboard(logger, name, path, stills[0].size, trainer.global_step)
        elif isinstance(logger, Wandb) and logger.shows(shows):
            logger.log_video(name, [str(path)], step=trainer.global_step, format=["gif"])


def _to_tensorboard(logger: Any, name: str, path: Path, size: tuple[int, int], step: int) -> None:
    """An animated GIF as it is: ``add_video`` would make one, and needs moviepy to do so."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    image = Summary.Image(width=size[0], height=size[1], colorspace=3, encoded_image_string=path.read_bytes())
    logger.experiment._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)


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
