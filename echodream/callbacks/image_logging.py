"""Logging of images and videos to the loggers and to the folder of the run."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from torch import Tensor

from echodream.callbacks.wandb_logger import PATIENTS, PrivateWandbLogger
from echodream.datamodules.normalization import to_uint8


def log_image(trainer: pl.Trainer, folder: Path, name: str, image: np.ndarray, content: str = PATIENTS) -> None:
    """Write ``image``, uint8 (height, width, 3), to ``folder`` and to the loggers that accept its ``content``."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(folder / f"{name}_{trainer.current_epoch:05d}.png")
    send_image(trainer.loggers, name, image, trainer.global_step, content)


def send_image(loggers: Iterable[Logger], name: str, image: np.ndarray, step: int, content: str) -> None:
    """Send ``image``, uint8 (height, width, 3), to the ``loggers`` that accept its ``content``."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, image, step, dataformats="HWC")
        elif isinstance(logger, PrivateWandbLogger) and logger.accepts(content):
            logger.log_image(name, [Image.fromarray(image)], step=step)


def any_logger_accepts(loggers: Sequence[Logger], content: str) -> bool:
    """Whether any of ``loggers`` accepts images and videos of ``content``."""
    wandb_accepts = any(logger.accepts(content) for logger in loggers if isinstance(logger, PrivateWandbLogger))
    return wandb_accepts or any(isinstance(logger, TensorBoardLogger) for logger in loggers)


def log_video(
    trainer: pl.Trainer, folder: Path, name: str, frames: Sequence[np.ndarray], fps: float, content: str
) -> None:
    """Write ``frames``, uint8 (height, width, 3) each, as GIF to ``folder`` and the loggers that accept ``content``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}_{trainer.current_epoch:05d}.gif"
    images = [Image.fromarray(frame) for frame in frames]
    images[0].save(path, save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0)
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            _send_gif_to_tensorboard(logger, name, path, images[0].size, trainer.global_step)
        elif isinstance(logger, PrivateWandbLogger) and logger.accepts(content):
            logger.log_video(name, [str(path)], step=trainer.global_step, format=["gif"])


def _send_gif_to_tensorboard(logger: Any, name: str, path: Path, size: tuple[int, int], step: int) -> None:
    """Send the GIF file ``path`` without moviepy, which ``add_video`` of TensorBoard needs."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    image = Summary.Image(width=size[0], height=size[1], colorspace=3, encoded_image_string=path.read_bytes())
    logger.experiment._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)


def image_grid(rows: list[Tensor]) -> np.ndarray:
    """Grid image, uint8 (height, width, 3), from rows of images in [-1, 1], (N, C, H, W) each."""
    gap = 2
    count, _, height, width = rows[0].shape
    grid = np.full((len(rows) * (height + gap) - gap, count * (width + gap) - gap, 3), 64, np.uint8)
    for row_number, row in enumerate(rows):
        for column, image in enumerate(row):
            top, left = row_number * (height + gap), column * (width + gap)
            grid[top : top + height, left : left + width] = to_uint8(image).permute(1, 2, 0).numpy()
    return grid
