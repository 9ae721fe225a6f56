"""Sampling from a trained diffusion model: each sample is a function of the seed and its row number only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from echodream.datamodules.normalization import unwhiten
from echodream.datamodules.sampling_requests import SamplingRequest
from echodream.diffusion.guidance import Guidance
from echodream.diffusion.model import DiffusionModel, repeat_values
from echodream.diffusion.noise import sample_noise
from echodream.diffusion.processes.base import Denoise
from echodream.diffusion.sliding_window import sliding_window_denoiser
from echodream.errors import UserError


@dataclass(frozen=True)
class SamplingConfig:
    """Settings of sampling: seed, number of steps, sampler, guidance and spacing of the timesteps."""

    seed: int
    steps: int
    sampler: str | None
    """Entry of ``SAMPLERS``; None: the default sampler of the diffusion process."""
    guidance: Guidance
    spacing: str | None = None
    """Spacing of the sampling timesteps; None: the spacing of the diffusion process."""
    clip_limit: float | None = None
    """Largest absolute value of predicted whitened latents (or residuals); None: no limit."""


@dataclass(frozen=True)
class ClipLengthConfig:
    """Length of the sampled clips. A clip that is longer than a training clip consists of overlapping windows."""

    frames: int
    window: int
    """Number of frames of a training clip."""
    overlap: int
    """Number of frames that neighboring windows share."""
    windows_per_call: int | str
    """Largest number of windows per call of the network, "all" or "auto" (``sliding_window_denoiser``)."""
    join: str = "crossfade"
    """"crossfade": all windows are denoised together, and overlaps are blended at every sampler step; "continue":
    windows are sampled one after another, with the last frames of the previous window as reference frames."""


def seeded_generator(*key: int) -> torch.Generator:
    """Random generator on the CPU whose state is a function of the integers ``key``."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) & (2**63 - 1))


def row_generator(seed: int, row: int, video: bool = False) -> torch.Generator:
    """Random generator of the sample number ``row``, different for images and videos of the same seed and row."""
    return seeded_generator(seed, row, int(video))


def batch_noise(
    shape: Sequence[int], generators: Sequence[torch.Generator], device: torch.device, shared: float = 0.0
) -> Tensor:
    """Noise of ``shape``, (C, *rest), from each of B generators, on ``device``: (B, C, *rest); see ``sample_noise``."""
    return torch.stack([sample_noise(shape, shared, generator) for generator in generators]).to(device)


class SamplingModule(pl.LightningModule):
    """Samples images, or clips of ``length`` (default: as in training). ``weak`` is the model for autoguidance."""

    def __init__(
        self,
        model: DiffusionModel,
        config: SamplingConfig,
        length: ClipLengthConfig | None = None,
        weak: DiffusionModel | None = None,
    ) -> None:
        super().__init__()
        self.model, self.config, self.length, self.weak = model, config, length, weak

    def predict_step(self, batch: SamplingRequest, batch_idx: int) -> list[Tensor]:
        """Sampled latents of each row: unscaled, float32 (F, C, H, W), on the CPU."""
        latents = self.sample_latents(batch.rows, batch.values)
        if not torch.isfinite(latents).all():
            raise UserError("a sample is not finite: train the model again, or lower the scales of guidance")
        return [row.transpose(0, 1).float().cpu() for row in latents]

    def sample_latents(self, rows: list[int], values: Mapping[str, Tensor]) -> Tensor:
        """Samples with the numbers ``rows`` and the condition ``values``: unscaled latents, (B, C, F, H, W)."""
        metadata = self.model.metadata
        generators = [row_generator(self.config.seed, row, self.model.is_video) for row in rows]
        values = self.model.conditioner.precompute(values)
        if not self.model.is_video:
            shape: tuple[int, ...] = (metadata.channels * metadata.frames, metadata.height, metadata.width)
            residual = self._run_sampler(self._guided_denoiser(values), shape, generators)
            stacked = self.model.from_residual(residual, values)
            whitened = stacked.unflatten(1, (metadata.frames, metadata.channels)).transpose(1, 2)
        elif self.length is not None and self.length.join == "continue":
            whitened = self._sample_consecutive_windows(values, generators)
        else:
            frames = self.length.frames if self.length else metadata.frames
            shape = (metadata.channels, frames, metadata.height, metadata.width)
            residual = self._run_sampler(self._clip_denoiser(values), shape, generators)
            whitened = self.model.from_residual(residual, values)
        return unwhiten(whitened, metadata.statistics, dim=1)

    def _run_sampler(self, denoise: Denoise, shape: tuple[int, ...], generators: list[torch.Generator]) -> Tensor:
        """Samples, (B, *shape), one for each of the ``generators``: whitened images, or residuals of clips."""
        shared = self.model.metadata.shared_noise if self.model.is_video else 0.0
        noise = batch_noise(shape, generators, self.device, shared)
        process = self.model.process.for_sampling(self.config.spacing, self.config.clip_limit)
        return process.sample(denoise, noise, self.config.steps, self.config.sampler, generators, shared_noise=shared)

    def _guided_denoiser(self, values: Mapping[str, Tensor]) -> Denoise:
        """Guided denoiser for noisy latents x_t with as many frames as in training."""
        weak = self.weak.predictor(values) if self.weak is not None else None
        return self.model.guided_denoiser(self.config.guidance, values, self.config.steps, weak)

    def _clip_denoiser(self, values: Mapping[str, Tensor]) -> Denoise:
        """Guided denoiser for noisy latents x_t with any number of frames."""
        size = self.length
        if size is None or size.frames <= size.window:
            return self._guided_denoiser(values)

        denoisers: dict[tuple[int, ...], Denoise] = {}

        def denoise_windows(x: Tensor, t: Tensor, starts: list[int]) -> Tensor:
            if tuple(starts) not in denoisers:  # condition values do not change between steps
                denoisers[tuple(starts)] = self._guided_denoiser(shift_references(values, starts))
            return denoisers[tuple(starts)](x, t)

        return sliding_window_denoiser(denoise_windows, size.frames, size.window, size.overlap, size.windows_per_call)

    def _sample_consecutive_windows(self, values: Mapping[str, Tensor], generators: list[torch.Generator]) -> Tensor:
        """Whitened clips, sampled window by window; the last frames of a window are references for the next window."""
        assert self.length is not None
        metadata, length = self.model.metadata, self.length
        clip: Tensor | None = None
        while clip is None or clip.shape[2] < length.frames:
            window_values = dict(values)
            if clip is not None:
                window_values = shift_references(values, [clip.shape[2] - length.overlap])
                times = torch.arange(length.overlap, device=clip.device).expand(len(clip), -1).float()
                frames = [window_values["reference"], clip[:, :, -length.overlap :]]
                window_values["reference"] = torch.cat(frames, dim=2)
                window_values["reference_time"] = torch.cat([window_values["reference_time"], times], dim=1)
            shape = (metadata.channels, length.window, metadata.height, metadata.width)
            residual = self._run_sampler(self._guided_denoiser(window_values), shape, generators)
            window = self.model.from_residual(residual, window_values)
            clip = window if clip is None else torch.cat([clip, window[:, :, length.overlap :]], dim=2)
        return clip[:, :, : length.frames]


def shift_references(values: Mapping[str, Tensor], starts: list[int]) -> dict[str, Tensor]:
    """Condition ``values`` for each window; times of reference frames count from the first frame of the window."""
    shifted = repeat_values(values, len(starts))
    if "reference_time" in shifted:
        times = shifted["reference_time"]
        begin = torch.tensor(starts, dtype=times.dtype).to(times.device, non_blocking=True)
        shifted["reference_time"] = times - begin.repeat_interleave(len(times) // len(starts))[:, None]
    return shifted
