"""Drawing with a trained diffusion model: each sample a function of the seed and its row alone."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from echodream.datamodules.normalization import unwhiten
from echodream.datamodules.sampling_requests import SamplingRequest
from echodream.diffusion.guidance import Guidance
from echodream.diffusion.model import DiffusionModel, repeated
from echodream.diffusion.noise import draw
from echodream.diffusion.processes.base import Denoise
from echodream.diffusion.sliding_window import windowed
from echodream.errors import UserError


@dataclass(frozen=True)
class SamplingConfig:
    """How samples are drawn from noise."""

    seed: int
    steps: int
    sampler: str | None
    guidance: Guidance


@dataclass(frozen=True)
class ClipLengthConfig:
    """How clips become longer than those of training."""

    frames: int
    window: int
    overlap: int
    """Frames that neighbouring windows share."""
    batch: int
    """Windows that go through the network at once."""
    join: str = "crossfade"
    """"crossfade": all windows at every step, blended; "continue": one after another, given the last frames before."""


def generator_of(seed: int, row: int, video: bool = False) -> torch.Generator:
    """The source of all randomness of the sample number ``row``; a video has not the noise of the image it begins from.

    The image and the video of one seed and row would otherwise share their first numbers.
    """
    state = np.random.SeedSequence((seed, row, int(video))).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) & (2**63 - 1))


class SamplingModule(pl.LightningModule):
    """Images, or clips of any length, drawn from noise.

    ``weak`` is a worse model of the same kind for autoguidance. Clips need a ``length``.
    """

    def __init__(
        self,
        model: DiffusionModel,
        recipe: SamplingConfig,
        length: ClipLengthConfig | None = None,
        weak: DiffusionModel | None = None,
    ) -> None:
        super().__init__()
        self.model, self.recipe, self.length, self.weak = model, recipe, length, weak

    def predict_step(self, batch: SamplingRequest, batch_idx: int) -> list[Tensor]:
        """For each row its latents, unscaled, float32 (F, C, H, W) on the CPU."""
        drawn = self.draw(batch.rows, batch.values)
        if not torch.isfinite(drawn).all():
            raise UserError("a sample is not finite: the model's training failed, or guidance is far too strong")
        return [row.transpose(0, 1).float().cpu() for row in drawn]

    def draw(self, rows: list[int], values: Mapping[str, Tensor]) -> Tensor:
        """The samples number ``rows`` with the conditions' ``values``: unscaled latents, (B, C, F, H, W)."""
        facts = self.model.facts
        generators = [generator_of(self.recipe.seed, row, self.model.is_video) for row in rows]
        if not self.model.is_video:
            stacked = (facts.channels * facts.frames, facts.height, facts.width)
            whitened = self._sample(self._denoise(values), _noise(stacked, generators, self.device), generators)
            whitened = whitened.unflatten(1, (facts.frames, facts.channels)).transpose(1, 2)
        elif self.length is not None and self.length.join == "continue":
            whitened = self._continued(values, generators)
        else:
            frames = self.length.frames if self.length else facts.frames
            shape = (facts.channels, frames, facts.height, facts.width)
            noise = _noise(shape, generators, self.device, facts.shared_noise)
            whitened = self.model.latents(self._sample(self._windowed(values), noise, generators), values)
        return unwhiten(whitened, facts.statistics, dim=1)

    def _sample(self, denoise: Denoise, noise: Tensor, generators: list[torch.Generator]) -> Tensor:
        recipe = self.recipe
        return self.model.process.sample(denoise, noise, recipe.steps, recipe.sampler, generators)

    def _denoise(self, values: Mapping[str, Tensor]) -> Denoise:
        """The network under guidance, for x_t as large as in training."""
        model, weak = self.model, self.weak.predictor(values) if self.weak is not None else None
        return self.recipe.guidance.denoiser(model.predictor(values), model.conditioner.names, model.process, weak)

    def _windowed(self, values: Mapping[str, Tensor]) -> Denoise:
        """The network under guidance, for x_t of any number of frames."""
        length = self.length
        if length is None or length.frames <= length.window:
            return self._denoise(values)

        def denoise_at(x: Tensor, t: Tensor, starts: list[int]) -> Tensor:
            return self._denoise(_from(values, starts))(x, t)

        return windowed(denoise_at, length.frames, length.window, length.overlap, length.batch)

    def _continued(self, values: Mapping[str, Tensor], generators: list[torch.Generator]) -> Tensor:
        """Window after window, each given the last frames of the one before as further references."""
        assert self.length is not None
        facts, length = self.model.facts, self.length
        made: Tensor | None = None
        while made is None or made.shape[2] < length.frames:
            given = dict(values)
            if made is not None:
                given = _from(values, [made.shape[2] - length.overlap])
                times = torch.arange(length.overlap, device=made.device).expand(len(made), -1).float()
                given["reference"] = torch.cat([given["reference"], made[:, :, -length.overlap :]], dim=2)
                given["reference_time"] = torch.cat([given["reference_time"], times], dim=1)
            shape = (facts.channels, length.window, facts.height, facts.width)
            noise = _noise(shape, generators, self.device, facts.shared_noise)
            window = self.model.latents(self._sample(self._denoise(given), noise, generators), given)
            made = window if made is None else torch.cat([made, window[:, :, length.overlap :]], dim=2)
        return made[:, :, : length.frames]


def _noise(
    shape: tuple[int, ...], generators: list[torch.Generator], device: torch.device, shared: float = 0.0
) -> Tensor:
    return torch.stack([draw(shape, shared, generator) for generator in generators]).to(device)


def _from(values: Mapping[str, Tensor], starts: list[int]) -> dict[str, Tensor]:
    """The values for windows that begin at ``starts``, one window after another: references lie relative to them."""
    given = repeated(values, len(starts))
    if "reference_time" in given:
        times = given["reference_time"]
        begin = torch.tensor(starts, dtype=times.dtype, device=times.device)
        given["reference_time"] = times - begin.repeat_interleave(len(times) // len(starts))[:, None]
    return given
