"""A store of pixels that is read as latents: frames are encoded on reading, and latents are not written to disk."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from echodream.datamodules.normalization import from_uint8
from echodream.errors import UserError
from echodream.networks.autoencoder import check_frame_size, downsampling_factor
from echodream.store import Store
from echodream.weights import fingerprint

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from torch import Tensor

BATCH_FRAMES = 16
"""Number of frames that are encoded in one batch."""


class EncodedStore(Store):
    """The video store ``pixels``, read as latents that ``network`` encodes as in ``stage=encode``.

    ``study``: the store of latents with which the samples are compared; its statistics normalize the latents. Raises
    ``UserError`` if frames have another size or other channels than in ``study``.
    """

    def __init__(self, pixels: Store, network: "AutoencoderKL", study: Store) -> None:
        factor = downsampling_factor(network)
        check_frame_size(pixels, network.config.in_channels, factor)
        latent_size = (study.dataset.height, study.dataset.width)
        for name, height, width in pixels.table[["FileName", "FrameHeight", "FrameWidth"]].itertuples(index=False):
            if None not in latent_size and (height // factor, width // factor) != latent_size:
                expected = [side * factor for side in latent_size if side is not None]
                size = expected[0] if expected[0] == expected[1] else expected
                raise UserError(
                    f"{pixels.root}: {name} has {width}x{height} pixels, and the recordings of {study.root} had "
                    f"{expected[1]}x{expected[0]}: ingest the samples again with data.size={size}"
                )
        self.root, self.table, self.pixels, self.network = pixels.root, pixels.table, pixels, network
        self._cached_frames, self._cached_latents = {}, {}
        self.dataset = replace(
            pixels.dataset,
            kind="latent",
            layout="F,C,H,W",
            channels=network.config.latent_channels,
            height=latent_size[0],
            width=latent_size[1],
            fidelity="float16",
            statistics=study.dataset.statistics,
            encoder=fingerprint(network),
        )

    def path(self, name: str) -> Path:
        """Path of the video of the recording ``name``."""
        return self.pixels.path(name)

    def frames(self, name: str, indices: Sequence[int] | None = None) -> np.ndarray:
        """Pixels of the frames ``indices`` of a recording, by default all: uint8, (F, H, W, C)."""
        return self.pixels.frames(name, indices)

    @torch.no_grad()
    def latents(self, name: str, start: int = 0, stop: int | None = None) -> "tuple[Tensor, Tensor]":
        """Unscaled posterior mean and std of the frames ``start`` to ``stop``: float16, (F, C, H, W) each."""
        numbers = range(*slice(start, stop).indices(self._frame_counts[name]))
        x = from_uint8(torch.from_numpy(self.frames(name, numbers)).permute(0, 3, 1, 2)).to(self.network.device)
        parts = [self.network.encode(part).latent_dist for part in x.split(BATCH_FRAMES)]
        mean, std = torch.cat([part.mean for part in parts]), torch.cat([part.std for part in parts])
        return mean.half().cpu(), std.half().cpu()
