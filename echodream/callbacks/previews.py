"""Preview samples of a diffusion model at each validation, in all loggers and in the folder of the run."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from echodream.callbacks.image_logging import any_logger_accepts, image_grid, log_image, log_video
from echodream.callbacks.wandb_logger import PATIENTS, SAMPLES
from echodream.networks.autoencoder import load_frozen_autoencoder

MAX_FRAMES = 8
"""Largest number of frames of a clip in a logged image."""
FPS = 16.0
"""Frame rate of the logged videos, in frames per second."""


class Previews(Callback):
    """Logs ``count`` samples, generated from fixed noise in ``steps`` steps.

    The samples have the conditions of the first validation batch and are decoded by the VAE in the folder ``vae``. If
    ``vae`` has no autoencoder for these latents, the first three latent channels are logged. A logged image has up to
    ``MAX_FRAMES`` frames of a clip in a row; a logged video has all frames. ``pl_module.preview(batch, count, steps)``
    returns (N, C, F, H, W).
    """

    def __init__(self, folder: str, vae: str, count: int = 6, steps: int = 20) -> None:
        self.folder, self.vae, self.count, self.steps = Path(folder), Path(vae), count, steps

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx or not trainer.is_global_zero or not self.count:
            return
        with torch.random.fork_rng(devices=[]):
            latents: Tensor = pl_module.preview(batch, self.count, self.steps)
        frames, conditions = latents.shape[2], getattr(getattr(pl_module, "conditioner", None), "names", ())
        content = PATIENTS if any("reference" in name for name in conditions) else SAMPLES  # references show patients
        indices = np.linspace(0, frames - 1, min(frames, MAX_FRAMES)).round().astype(int)
        rows = self._decode_latents(latents[:, :, indices])
        grid = image_grid(rows) if frames > 1 else image_grid([torch.cat(rows)])
        log_image(trainer, self.folder, "samples", grid, content)
        if frames > MAX_FRAMES and any_logger_accepts(trainer.loggers, content):
            rows = self._decode_latents(latents)
            video = [image_grid([torch.stack([row[frame] for row in rows])]) for frame in range(frames)]
            log_video(trainer, self.folder, "videos", video, FPS, content)

    def _decode_latents(self, latents: Tensor) -> list[Tensor]:
        """Frames of each sample, (F, C, H, W) in [-1, 1], from ``latents``, (N, C, F, H, W)."""
        samples, _, frames = latents.shape[:3]
        images = latents.transpose(1, 2).flatten(0, 1)
        vae: Any = load_frozen_autoencoder(self.vae) if (self.vae / "config.json").is_file() else None
        if vae is not None and vae.config.latent_channels == images.shape[1]:
            vae.to(images.device)
            with torch.inference_mode():
                pixels = torch.cat([vae.decode(chunk).sample for chunk in images.split(16)]).mean(1, keepdim=True)
        else:
            pixels = images[:, : 3 if images.shape[1] >= 3 else 1] / 3
        return list(pixels.float().cpu().unflatten(0, (samples, frames)))
