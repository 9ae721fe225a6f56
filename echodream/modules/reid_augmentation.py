"""Frames as a copy could show them: through the autoencoder, changed as pixels, or half drawn anew."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from echodream import validation
from echodream.datamodules.augmentation import Augment
from echodream.datamodules.normalization import unwhiten
from echodream.datamodules.recordings import Recordings
from echodream.errors import UserError
from echodream.modules.vae import chunks
from echodream.networks.autoencoder import load_frozen
from echodream.store import Statistics
from echodream.weights import fingerprint

KINDS = ("gain", "contrast", "speckle", "noise", "shift", "rotate", "zoom")


@dataclass(frozen=True)
class FrameBank:
    """Frames with copies of them."""

    frames: Tensor
    """As stored: (N, V + 1, C, H, W). The first of each row is the frame itself, the others are its copies."""
    rows: Tensor
    """Which recording each is of: int64, (N,)."""

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Two different ones of ``count`` rows: (2, count, C, H, W), and the recording of each row, (count,)."""
        picked = torch.randint(len(self.rows), (count,))
        first, step = (torch.randint(self.frames.shape[1] - shift, (count,)) for shift in (0, 1))
        second = (first + 1 + step) % self.frames.shape[1]
        return torch.stack([self.frames[picked, first], self.frames[picked, second]]), self.rows[picked]

    def sourced(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """A copy from each of ``count`` rows and the frame that it is of, (count, C, H, W) each, and the recordings."""
        picked = torch.randint(len(self.rows), (count,))
        copy = torch.randint(1, self.frames.shape[1], (count,))
        return self.frames[picked, copy], self.frames[picked, 0], self.rows[picked]


class CopyAugmentation:
    """Makes ``variants`` copies of each of ``frames`` training frames, anew in each epoch; batches draw from them.

    They are made by the frozen autoencoder at the folder ``vae``. Latents are decoded once, varied ``variants`` times
    as pixels by ``augment``, and encoded again. Pixels are varied, encoded, and decoded. Each kind of variation is left
    out half of the time, so that copies with only one of them come, too. To each batch of B pairs ``share`` * B pairs
    are added. What is drawn comes from torch's global generator.
    """

    def __init__(self, vae: str, augment: Augment, frames: int, variants: int, share: float) -> None:
        for name, value, low in (("frames", frames, 0), ("variants", variants, 1)):
            validation.whole_number(f"model.copies.{name}", value, low)
        validation.number("model.copies.share", share, 0)
        self.folder, self.augment, self.frames, self.variants, self.share = vae, augment, frames, variants, share
        self.network: Any = None
        self.encoder: str | None = None
        """Fingerprint of the autoencoder, once it is loaded."""

    def adapt(self, encoder: str | None) -> None:
        """Load the autoencoder, unless no copy is wanted. ``encoder`` is the fingerprint that it must have, if any."""
        if not self.frames or not self.share:
            return
        if not Path(self.folder).is_dir():
            raise UserError(
                f"model.vae={self.folder} does not exist, and copies are made with it: train it (model=vae), or do "
                "without (model.copies.frames=0)"
            )
        self.network = load_frozen(self.folder)
        self.encoder = fingerprint(self.network)
        if encoder is not None and self.encoder != encoder:
            raise UserError(f"model.vae={self.folder} is not the encoder of these latents: give the one that made them")

    def bank(self, rows: Recordings, device: torch.device) -> FrameBank | None:
        """Random frames of random recordings with their copies, on the CPU; None where no copy is wanted."""
        if self.network is None:
            return None
        self.network.to(device)
        rng = np.random.default_rng(int(torch.randint(2**31, ())))
        picked = rng.integers(len(rows), size=self.frames)
        read = [rows.read(row, [int(rng.integers(rows.frames[row]))], rng)[:, 0] for row in picked.tolist()]
        made = []
        for part in torch.stack(read).split(16):
            made.append(self.made(part.to(device), rows.store.dataset.statistics, rng).cpu())
        return FrameBank(torch.cat(made), torch.from_numpy(picked))

    @torch.no_grad()
    def made(self, x: Tensor, statistics: Statistics | None, rng: np.random.Generator) -> Tensor:
        """Frames as ``Recordings`` reads them, (K, C, H, W), each with its copies: as stored, (K, V + 1, C, H, W).

        With ``statistics`` they are whitened latents, without pixels.
        """
        if statistics is not None:
            x = unwhiten(x, statistics, dim=1)
            copies = self._encode(self._varied(self._decode(x), rng))
        else:
            copies = self._decode(self._encode(self._varied(x, rng)))
            copies = copies.mean(dim=1, keepdim=True) if x.shape[1] == 1 else copies
        return torch.cat([x[:, None], copies.unflatten(0, (len(x), self.variants))], dim=1)

    def _varied(self, pixels: Tensor, generator: np.random.Generator) -> Tensor:
        """``variants`` of each frame, one after the other: (K, C, H, W) to (K * V, C, H, W)."""
        each = [frame[:, None] for frame in pixels.cpu() for _ in range(self.variants)]
        varied = [self._some(generator)(frame, generator)[:, 0] for frame in each]
        return torch.stack(varied).to(pixels.device)

    def _some(self, generator: np.random.Generator) -> Augment:
        """``augment`` without some of its kinds; a flip comes by its own probability."""
        return replace(self.augment, **{name: 0.0 for name in KINDS if generator.random() < 0.5})

    def _encode(self, pixels: Tensor) -> Tensor:
        pixels = pixels.expand(-1, self.network.config.in_channels, -1, -1)
        return torch.cat([self.network.encode(part).latent_dist.sample() for part in chunks(pixels, 64)])

    def _decode(self, latents: Tensor) -> Tensor:
        return torch.cat([self.network.decode(part).sample for part in chunks(latents, 64)]).clamp(-1, 1)


def some(rows: Recordings, frames: int = 4096, seed: int = 0) -> Tensor:
    """About ``frames`` frames of ``rows``, as many of each recording, as it reads them: (N, C, H, W)."""
    rng, each = np.random.default_rng(seed), max(1, frames // len(rows))
    taken = [np.unique(np.linspace(0, length - 1, each).round().astype(int)) for length in rows.frames.tolist()]
    read = [rows.read(row, indices.tolist(), rng) for row, indices in enumerate(taken)]
    return torch.cat(read, dim=1).transpose(0, 1)


def spectrum(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, rising variances and principal axes of frames, (N, C, H, W): (M,), (M,) and (M, M), float64."""
    flat = x.flatten(1).double()
    variance, axes = torch.linalg.eigh(torch.cov(flat.T))
    return flat.mean(dim=0), variance.clamp(min=0), axes


class GaussianRedraw:
    """Latents noised and drawn again by the Gaussian generator that fits the training latents best.

    What a diffusion model makes of a half noised frame, without the model: noise of a standard deviation drawn between
    ``low`` and ``high`` (log-uniform, in whitened units) is added, and the result is replaced by a draw from what the
    Gaussian says of the frame behind it. A ``share`` of all frames is redrawn.
    """

    def __init__(self, share: float, low: float, high: float) -> None:
        validation.share("model.redraw.share", share)
        if not 0 < low <= high < float("inf"):
            raise UserError(f"model.redraw.low and high are {low} and {high}: give two positive numbers in this order")
        self.share, self.low, self.high = share, low, high
        self.mean, self.variance, self.axes = torch.zeros(0), torch.zeros(0), torch.zeros(0, 0)

    def adapt(self, rows: Recordings, frames: int = 4096) -> None:
        """Fit the Gaussian to about ``frames`` frames of ``rows``."""
        self.fit(some(rows, frames))

    def fit(self, x: Tensor) -> None:
        """Fit mean and covariance to whitened latents, (N, C, H, W)."""
        self.mean, self.variance, self.axes = spectrum(x)

    def __call__(self, x: Tensor) -> Tensor:
        """``x``, whitened latents (B, C, H, W), with a share of its rows redrawn."""
        chosen = torch.rand(len(x)) < self.share
        ends = torch.tensor([self.low, self.high]).log()
        sigma = (ends[0] + (ends[1] - ends[0]) * torch.rand(len(x))).exp()
        drawn = self.draw(x, sigma.to(x.device))
        return torch.where(chosen.to(x.device).view(-1, 1, 1, 1), drawn, x)

    def draw(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Each row noised by its ``sigma``, (B,), and drawn from the Gaussian's posterior: (B, C, H, W)."""
        mean, variance, axes = (part.to(x.device, x.dtype) for part in (self.mean, self.variance, self.axes))
        noise = sigma.to(x.dtype)[:, None].square()
        place = (x.flatten(1) - mean) @ axes
        gain = variance / (variance + noise)
        place = gain * (place + noise.sqrt() * torch.randn_like(place))
        place = place + (gain * noise).sqrt() * torch.randn_like(place)
        return (place @ axes.T + mean).view_as(x)
