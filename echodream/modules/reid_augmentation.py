"""Augmentations of ``model=reid``: copies of training frames, resampled latents, and noise."""

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from echodream import validation
from echodream.datamodules.augmentation import Augment
from echodream.datamodules.normalization import unwhiten
from echodream.datamodules.random_transforms import RandomTransform
from echodream.datamodules.recordings import Recordings
from echodream.errors import UserError
from echodream.modules.vae import split_into_chunks
from echodream.networks.autoencoder import load_frozen_autoencoder
from echodream.networks.decoder_noise import decoder_noise, noise_seeds
from echodream.store import Statistics
from echodream.weights import fingerprint

PIXEL_TRANSFORMS = tuple(field.name for field in fields(Augment) if field.name != "flip")
"""Settings of ``Augment``, each of which is disabled for a copy with probability 0.5."""


@dataclass(frozen=True)
class Copies:
    """Copies of training frames for one batch, in the scale of the store."""

    frames: Tensor
    """P copies, (P, C, H, W), if ``originals`` is set. Else 2 P copies, of which copies n and n + P form pair n."""
    rows: Tensor
    """Row of the training recording of each original frame, int64 (P,)."""
    originals: Tensor | None = None
    """Original frame of each copy, (P, C, H, W)."""


@dataclass(frozen=True)
class FrameBank:
    """Training frames and their copies."""

    frames: Tensor
    """N original frames, each followed by its V copies, in the scale of the store: (N, V + 1, C, H, W)."""
    rows: Tensor
    """Row of the training recording of each original frame, int64 (N,)."""

    def sample_pairs(self, count: int, distinct: bool = False) -> Copies:
        """Two different versions (original or copy) of each of ``count`` random frames.

        With ``distinct``, no frame is selected twice, so there are at most N pairs.
        """
        indices = torch.randperm(len(self.rows))[:count] if distinct else torch.randint(len(self.rows), (count,))
        count = len(indices)
        first, step = (torch.randint(self.frames.shape[1] - shift, (count,)) for shift in (0, 1))
        second = (first + 1 + step) % self.frames.shape[1]
        return Copies(torch.cat([self.frames[indices, first], self.frames[indices, second]]), self.rows[indices])

    def sample_with_originals(self, count: int) -> Copies:
        """Sample ``count`` random frames, with a random copy of each frame."""
        indices = torch.randint(len(self.rows), (count,))
        copy = torch.randint(1, self.frames.shape[1], (count,))
        return Copies(self.frames[indices, copy], self.rows[indices], self.frames[indices, 0])


class CopyAugmentation:
    """Make ``variants`` copies of each of ``frames`` random training frames at the start of each epoch.

    Copies pass through the frozen autoencoder in the folder ``vae``. Latents are decoded, changed by ``augment`` and
    encoded; pixels are changed, encoded and decoded. If the decoder has noise, each copy is decoded with new noise, so
    that the model learns to ignore the generated speckle.

    Each change of an ``Augment`` is disabled with probability 0.5, so that some copies have a single change. A
    ``RandomTransform`` is sampled as for the copies of the filter, and mixes in frames of other patients. For a batch
    of B pairs, ``share`` * B pairs of copies are sampled. All random numbers come from torch's global generator.
    """

    def __init__(self, vae: str, augment: Augment | RandomTransform, frames: int, variants: int, share: float) -> None:
        for name, value, low in (("frames", frames, 0), ("variants", variants, 1)):
            validation.whole_number(f"model.copies.{name}", value, low)
        validation.number("model.copies.share", share, 0)
        self.folder, self.augment, self.frames, self.variants, self.share = vae, augment, frames, variants, share
        self.network: Any = None
        self.vae_fingerprint: str | None = None
        """Fingerprint of the autoencoder; None before ``load_autoencoder``."""

    def load_autoencoder(self, expected: str | None) -> None:
        """Load the autoencoder if copies are enabled. ``expected`` is its required fingerprint; None allows any."""
        if not self.frames or not self.share:
            return
        if not Path(self.folder).is_dir():
            remedy = "train a vae (model=vae), or disable copies (model.copies.frames=0)"
            raise UserError(f"model.vae={self.folder} does not exist, and copies need this vae: {remedy}")
        self.network = load_frozen_autoencoder(self.folder)
        self.vae_fingerprint = fingerprint(self.network)
        if expected is not None and self.vae_fingerprint != expected:
            raise UserError(f"model.vae={self.folder} is not the encoder of these latents: give the vae of the latents")

    def build_frame_bank(self, rows: Recordings, device: torch.device) -> FrameBank | None:
        """Sample random frames of random recordings, and copy them, for the CPU; None if copies are disabled."""
        if self.network is None:
            return None
        self.network.to(device)
        rng = np.random.default_rng(int(torch.randint(2**31, ())))
        row_numbers = rng.integers(len(rows), size=self.frames)
        frames = [rows.read(row, [int(rng.integers(rows.frames[row]))], rng)[:, 0] for row in row_numbers.tolist()]
        statistics = rows.store.dataset.statistics
        patients = np.split(rows.patient_numbers[row_numbers], range(16, self.frames, 16))
        chunks = [
            self.copy_frames(chunk.to(device), statistics, rng, numbers).cpu()
            for chunk, numbers in zip(torch.stack(frames).split(16), patients, strict=True)
        ]
        return FrameBank(torch.cat(chunks), torch.from_numpy(row_numbers))

    @torch.no_grad()
    def copy_frames(
        self, x: Tensor, statistics: Statistics | None, rng: np.random.Generator, patients: np.ndarray | None = None
    ) -> Tensor:
        """Copy frames (K, C, H, W), which are whitened latents if ``statistics`` are given, or pixels.

        Returns originals and V copies in the scale of the store, (K, V + 1, C, H, W). ``patients`` (K,) are the numbers
        of the patients of the frames; None disables the mixing of patients.
        """
        partners = self._sample_partners(len(x), patients, rng)
        if statistics is not None:
            x = unwhiten(x, statistics, dim=1)
            pixels, weights = self._change_pixels(self._decode_variants(x), rng, partners)
            copies = torch.lerp(self._encode(pixels), x[partners], weights)
        else:
            pixels, weights = self._change_pixels(x.repeat_interleave(self.variants, dim=0), rng, partners)
            latents = self._encode(pixels)
            latents = torch.lerp(latents, self._encode(x[partners]), weights) if weights.any() else latents
            copies = self._decode(latents)
            copies = copies.mean(dim=1, keepdim=True) if x.shape[1] == 1 else copies
        return torch.cat([x[:, None], copies.unflatten(0, (len(x), self.variants))], dim=1)

    def _sample_partners(self, frames: int, patients: np.ndarray | None, rng: np.random.Generator) -> list[int]:
        """Index of a random frame of another patient, or, without one, of its own frame, for each of K * V copies."""
        own = [frame for frame in range(frames) for _ in range(self.variants)]
        if patients is None or isinstance(self.augment, Augment) or not self.augment.needs_other_patient:
            return own
        choices = [np.flatnonzero(patients != patient) for patient in patients]
        return [int(rng.choice(choices[frame])) if len(choices[frame]) else frame for frame in own]

    def _change_pixels(self, pixels: Tensor, rng: np.random.Generator, partners: list[int]) -> tuple[Tensor, Tensor]:
        """Frames with random changes, (K * V, C, H, W), and mixing weights of latents, (K * V, 1, 1, 1).

        ``partners`` are the indices, from 0 to K - 1, of the frames that are mixed into the copies.
        """
        frames, changed, weights = pixels.cpu()[:, :, None], [], []
        for frame, partner in zip(frames, partners, strict=True):
            if isinstance(self.augment, Augment):
                changed.append(self._select_random_transforms(self.augment, rng)(frame, rng)[:, 0])
                weights.append(0.0)
            else:
                transform = self.augment.sample(rng)
                changed.append(transform.change_pixels(frame, rng, frames[partner * self.variants])[:, 0])
                weights.append(transform.interpolate)
        return torch.stack(changed).to(pixels.device), torch.tensor(weights).view(-1, 1, 1, 1).to(pixels.device)

    @staticmethod
    def _select_random_transforms(augment: Augment, rng: np.random.Generator) -> Augment:
        """Copy of ``augment`` in which random changes are disabled, except the flip, which has its own probability."""
        return replace(augment, **{name: 0.0 for name in PIXEL_TRANSFORMS if rng.random() < 0.5})

    def _encode(self, pixels: Tensor) -> Tensor:
        pixels = pixels.expand(-1, self.network.config.in_channels, -1, -1)
        return torch.cat([self.network.encode(x).latent_dist.sample().float() for x in split_into_chunks(pixels, 64)])

    def _decode_variants(self, latents: Tensor) -> Tensor:
        """Decode each latent V times, (K, D, h, w) to (K * V, C, H, W); equal results without decoder noise."""
        if decoder_noise(self.network):
            return self._decode(latents, self.variants)
        return self._decode(latents).repeat_interleave(self.variants, dim=0)

    def _decode(self, latents: Tensor, versions: int = 1) -> Tensor:
        """Pixels in [-1, 1], (N * versions, C, H, W), of latents (N, D, h, w).

        If the decoder has noise, each version has new noise. Without, ``versions`` must be 1.
        """
        parts = []
        for part in split_into_chunks(latents, 64):
            has_noise = decoder_noise(self.network) is not None
            seeds = torch.randint(2**32, (versions * len(part),)).tolist() if has_noise else [0]
            with noise_seeds(self.network, seeds):
                parts.append(self.network.decode(part).sample.float())
        return torch.cat(parts).clamp(-1, 1)


def sample_frames(rows: Recordings, frames: int = 4096, seed: int = 0) -> Tensor:
    """Sample about ``frames`` frames, (N, C, H, W), evenly over the recordings ``rows`` and over time."""
    rng, per_recording = np.random.default_rng(seed), max(1, frames // len(rows))
    indices = [np.unique(np.linspace(0, length - 1, per_recording).round().astype(int)) for length in rows.frames]
    clips = [rows.read(row, selected.tolist(), rng) for row, selected in enumerate(indices)]
    return torch.cat(clips, dim=1).transpose(0, 1)


def principal_components(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """PCA of frames, (N, C, H, W): mean (M,), ascending variances (M,) and axes (M, M), float64; M is C * H * W."""
    flat = x.flatten(1).double()
    variance, axes = torch.linalg.eigh(torch.cov(flat.T))
    return flat.mean(dim=0), variance.clamp(min=0), axes


class GaussianRedraw:
    """Add noise to latents, and replace them by posterior samples of a Gaussian model of the training latents.

    Approximates SDEdit (noising and denoising by a diffusion model) without a diffusion model. The standard deviation
    of the noise is log-uniform from ``low`` to ``high`` (whitened units). ``share`` is the probability for a frame.
    """

    def __init__(self, share: float, low: float, high: float) -> None:
        validation.fraction("model.redraw.share", share)
        if not 0 < low <= high < math.inf:
            raise UserError(f"model.redraw.low={low} and high={high}: give two positive numbers, low not above high")
        self.share, self.low, self.high = share, low, high
        self.mean, self.variance, self.axes = torch.zeros(0), torch.zeros(0), torch.zeros(0, 0)

    def fit(self, x: Tensor) -> None:
        """Fit mean and covariance to whitened latents, (N, C, H, W)."""
        self.mean, self.variance, self.axes = principal_components(x)

    def __call__(self, x: Tensor) -> Tensor:
        """Replace whitened latents, (B, C, H, W), each with probability ``share``."""
        is_replaced = torch.rand(len(x)) < self.share
        ends = torch.tensor([self.low, self.high]).log()
        sigma = (ends[0] + (ends[1] - ends[0]) * torch.rand(len(x))).exp()
        redrawn = self.sample_posterior(x, sigma.to(x.device))
        return torch.where(is_replaced.to(x.device).view(-1, 1, 1, 1), redrawn, x)

    def sample_posterior(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Add noise of ``sigma``, (B,), to ``x``, (B, C, H, W), and sample the Gaussian posterior of clean ``x``."""
        mean, variance, axes = (part.to(x.device, x.dtype) for part in (self.mean, self.variance, self.axes))
        noise = sigma.to(x.dtype)[:, None].square()
        components = (x.flatten(1) - mean) @ axes
        gain = variance / (variance + noise)
        components = gain * (components + noise.sqrt() * torch.randn_like(components))
        components = components + (gain * noise).sqrt() * torch.randn_like(components)
        return (components @ axes.T + mean).view_as(x)


class ReidAugmentation:
    """All augmentations of ``model=reid``. Each augmentation is optional.

    ``copies`` adds pairs of copies to each batch. ``redraw`` resamples latents (not pixels). ``noise`` is the maximum
    standard deviation of Gaussian noise, in normalized units. Each frame has a random standard deviation.
    """

    def __init__(
        self, copies: CopyAugmentation | None = None, redraw: GaussianRedraw | None = None, noise: float = 0.0
    ) -> None:
        validation.number("model.noise", noise, 0, note=", a standard deviation")
        self.copies, self.noise = copies, noise
        self.redraw = redraw if redraw is not None and redraw.share else None
        self.frame_bank: FrameBank | None = None
        """Training frames of the current epoch with their copies; None if copies are disabled."""

    @property
    def makes_copies(self) -> bool:
        """Whether copies are added to the batches."""
        return self.copies is not None and bool(self.copies.frames and self.copies.share)

    @property
    def vae_fingerprint(self) -> str | None:
        """Fingerprint of the autoencoder that makes copies; None before it is loaded."""
        return None if self.copies is None else self.copies.vae_fingerprint

    def prepare(self, rows: Recordings, latents: bool) -> None:
        """Load the autoencoder for copies, and fit the Gaussian model of ``redraw`` to training latents."""
        if self.copies is not None:
            self.copies.load_autoencoder(rows.store.dataset.encoder if latents else None)
        self.redraw = self.redraw if latents else None
        if self.redraw is not None:
            self.redraw.fit(sample_frames(rows))

    def start_epoch(self, rows: Recordings, device: torch.device) -> None:
        """Generate the copies of training frames for a new epoch."""
        self.frame_bank = None if self.copies is None else self.copies.build_frame_bank(rows, device)

    def sample_copies(self, pairs: int, *, with_originals: bool, distinct: bool = False) -> Copies | None:
        """Sample copies for a batch of ``pairs`` pairs of frames; None if copies are disabled. See ``FrameBank``."""
        count = 0 if self.copies is None else max(int(distinct), round(self.copies.share * pairs))
        if self.frame_bank is None or not count:
            return None
        bank = self.frame_bank
        return bank.sample_with_originals(count) if with_originals else bank.sample_pairs(count, distinct)

    def augment_whitened(self, x: Tensor) -> Tensor:
        """Apply ``redraw`` to whitened latents, (B, C, H, W); pixels are unchanged."""
        return x if self.redraw is None else self.redraw(x)

    def augment_inputs(self, x: Tensor, std: Tensor) -> Tensor:
        """Add Gaussian noise to frames (B, C, H, W), in units of ``std``, the input std of the network."""
        if not self.noise:
            return x
        level = self.noise * torch.rand(len(x), 1, 1, 1, device=x.device)
        return x + level * std * torch.randn_like(x)
