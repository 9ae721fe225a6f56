"""Samples at each validation, decoded, in every logger and in the run's folder."""

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from echodream.callbacks.image_logging import accept_videos, image_grid, log_image, log_video
from echodream.callbacks.wandb_logger import PATIENTS, SAMPLES

MOST = 8
"""Frames of a clip in a picture."""
FPS = 16.0
"""Of the clips beside each other: slow enough to look at."""


class Previews(Callback):
    """``count`` samples with the conditions of the first held-out batch, in ``steps`` steps, from the same noise.

    Decoded by the VAE at ``vae`` where there is one of such latents; else their first three channels are shown. Clips
    are shown as some of their frames, a row each, and beating side by side where a logger takes videos. The module's
    ``preview(batch, count, steps)`` returns (N, C, F, H, W).
    """

    def __init__(self, folder: str, vae: str, count: int = 6, steps: int = 20) -> None:
        self.folder, self.vae, self.count, self.steps = Path(folder), Path(vae), count, steps

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw for the first batch."""
        if batch_idx or not trainer.is_global_zero or not self.count:
            return
        with torch.random.fork_rng(devices=[]):
            latents: Tensor = pl_module.preview(batch, self.count, self.steps)  # type: ignore[operator]
        frames, shows = latents.shape[2], PATIENTS if _begins_with_a_patient(pl_module) else SAMPLES
        picked = np.linspace(0, frames - 1, min(frames, MOST)).round().astype(int)
        rows = self._pixels(latents[:, :, picked])
        picture = image_grid(rows) if frames > 1 else image_grid([torch.cat(rows)])
        log_image(trainer, self.folder, "samples", picture, shows)
        if frames > MOST and accept_videos(trainer.loggers, shows):
            rows = self._pixels(latents)
            beating = [image_grid([torch.stack([row[frame] for row in rows])]) for frame in range(frames)]
            log_video(trainer, self.folder, "videos", beating, FPS, shows)

    def _pixels(self, latents: Tensor) -> list[Tensor]:
        """A row of frames, (F, C, H, W) in [-1, 1], for each sample."""
        samples, _, frames = latents.shape[:3]
        stills = latents.transpose(1, 2).flatten(0, 1)
        network = self._network(stills.shape[1])
        if network is not None:
            network.to(stills.device)
            with torch.inference_mode():
                pixels = torch.cat([network.decode(part).sample for part in stills.split(16)]).mean(1, keepdim=True)
        else:
            pixels = stills[:, :3] / 3 if stills.shape[1] >= 3 else stills[:, :1] / 3
        return list(pixels.float().cpu().unflatten(0, (samples, frames)))

    def _network(self, channels: int) -> Any:
        if not (self.vae / "config.json").is_file():
            return None
        from echodream.networks.autoencoder import load_frozen_autoencoder

        network = load_frozen_autoencoder(self.vae)
        return network if network.config.latent_channels == channels else None


def _begins_with_a_patient(module: pl.LightningModule) -> bool:
    """Whether samples are drawn from frames of the held-out batch, which then shows through."""
    return any("reference" in name for name in getattr(getattr(module, "conditioner", None), "names", ()))
