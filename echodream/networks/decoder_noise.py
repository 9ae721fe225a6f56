"""Noise inputs of a decoder, for speckle, which latents are too small to encode (StyleGAN, 1812.04948)."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from zlib import crc32

import torch
from torch import Tensor, nn

from echodream import validation

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

CONFIG_KEY = "has_decoder_noise"
"""Key of config.json that marks an autoencoder with decoder noise."""
CORRELATION_KEY = "decoder_noise_correlation"
"""Key of config.json: correlation of the decoder noise of consecutive frames; without it 1, static noise."""
_SMALLEST_WEIGHT = 0.01
"""Smallest weight, relative to the first, of a term in the sum of ``DecoderNoise._noise``; the rest is left out."""


class DecoderNoise(nn.Module):
    """Gaussian noise (B, 1, h, w), added to the input (B, C, h, w) of a decoder level with a trained scale per channel.

    The noise is off until ``active`` is set. In training, each frame has new noise. In ``eval`` mode, the noise is a
    function of ``level``, of the seed of the recording and of the number of the frame in the recording. The noise is a
    first-order autoregressive process with ``correlation`` between consecutive frames, because speckle and electronic
    noise of real recordings are partly new in every frame. With ``correlation`` 1, all frames of a recording have the
    same noise.
    """

    active: Tensor

    def __init__(self, level: int, channels: int, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((1, channels, 1, 1), float(scale)))
        self.register_buffer("active", torch.zeros((), dtype=torch.bool))
        self.level = level
        self.correlation = 1.0
        self.seeds: Sequence[tuple[int, int]] = ((0, 0),)
        """Seed of the recording and number of the frame, of each frame of the batch, or one pair for all frames."""

    def add_noise(self, block: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Forward pre-hook of the decoder level ``block``: add noise to the first of its ``inputs``."""
        if not self.active:
            return None
        x: Tensor = inputs[0]
        if self.training:
            noise = torch.randn((len(x), 1, *x.shape[2:]), device=x.device, dtype=x.dtype)
        else:
            noise_of_frame = {frame: self._noise(*frame, x.shape[2:]) for frame in dict.fromkeys(self.seeds)}
            noise = torch.stack([noise_of_frame[frame] for frame in self.seeds]).to(x)
        return (x + self.scale.to(x.dtype) * noise, *inputs[1:])

    def _noise(self, seed: int, frame: int, size: torch.Size) -> Tensor:
        """Noise of the frame number ``frame`` of the recording with ``seed``, (1, h, w), of unit variance.

        The noise of frame f is sum_j w_j e_(f - j) with w_j ~ correlation^j and independent white noise e_i.
        """
        if self.correlation == 1:
            return _white_noise(seed * 16 + self.level, *size)
        weights = [1.0]
        while weights[-1] * self.correlation >= _SMALLEST_WEIGHT:
            weights.append(weights[-1] * self.correlation)
        newest, norm = frame + len(weights) - 1, math.hypot(*weights)
        names = [f"{seed} {self.level} {newest - lag}" for lag in range(len(weights))]
        innovations = [_white_noise(crc32(name.encode()), *size) for name in names]
        return torch.stack([weight / norm * each for weight, each in zip(weights, innovations, strict=True)]).sum(0)


@lru_cache(maxsize=512)
def _white_noise(seed: int, height: int, width: int) -> Tensor:
    """Gaussian white noise (1, h, w). The generator of torch uses the lower 32 bits of ``seed``."""
    return torch.randn((1, height, width), generator=torch.Generator().manual_seed(seed))


def add_decoder_noise(network: "AutoencoderKL", scale: float) -> "AutoencoderKL":
    """Add a ``DecoderNoise`` with the initial ``scale`` to each decoder level of ``network``, in place."""
    validation.positive_number("vae.noise", scale)
    blocks: Any = network.decoder.up_blocks
    levels = [DecoderNoise(index, block.resnets[0].in_channels, scale) for index, block in enumerate(blocks)]
    network.decoder_noise = nn.ModuleList(levels)
    for level, block in zip(levels, blocks, strict=True):
        block.register_forward_pre_hook(level.add_noise)
    network.register_to_config(**{CONFIG_KEY: True})
    return network


def noise_levels(network: nn.Module) -> list[DecoderNoise]:
    """The ``DecoderNoise`` of each decoder level of ``network``. The list is empty if the decoder has no noise."""
    return list(getattr(network, "decoder_noise", ()))


def activate_noise(network: nn.Module) -> None:
    """Switch on the decoder noise of ``network``, in place."""
    for level in noise_levels(network):
        level.active.fill_(True)


def set_noise_correlation(network: "AutoencoderKL", correlation: float) -> None:
    """Set the correlation, 0 to 1, of the decoder noise of consecutive frames, in place; config.json has it, too."""
    validation.number("decoder_noise_correlation", correlation, 0, 1)
    for level in noise_levels(network):
        level.correlation = float(correlation)
    network.register_to_config(**{CORRELATION_KEY: float(correlation)})


@contextmanager
def noise_seeds(network: nn.Module, seeds: Sequence[int], frames: Sequence[int] | None = None) -> Iterator[None]:
    """Context in which the decoder noise of ``network`` has ``seeds``: one per frame, or one for all frames.

    ``frames``: number of each frame in its recording, 0 by default.
    """
    levels = noise_levels(network)
    pairs = list(zip(seeds, frames if frames is not None else [0] * len(seeds), strict=True))
    for level in levels:
        level.seeds = pairs
    try:
        yield
    finally:
        for level in levels:
            level.seeds = ((0, 0),)
