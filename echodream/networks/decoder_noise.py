"""Noise inputs of a decoder, for speckle, which latents are too small to encode (StyleGAN, 1812.04948)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from echodream import validation

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

CONFIG_KEY = "has_decoder_noise"
"""Key of config.json that marks an autoencoder with decoder noise."""


class DecoderNoise(nn.Module):
    """Gaussian noise (B, 1, h, w), added to the input (B, C, h, w) of a decoder level with a trained scale per channel.

    The noise is off until ``active`` is set. In training, each frame has new noise. In ``eval`` mode, the noise is a
    function of ``level`` and of the seed of the frame. Equal seeds in a video prevent flicker of the speckle.
    """

    active: Tensor

    def __init__(self, level: int, channels: int, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((1, channels, 1, 1), float(scale)))
        self.register_buffer("active", torch.zeros((), dtype=torch.bool))
        self.level = level
        self.seeds: Sequence[int] = (0,)

    def add_noise(self, block: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Forward pre-hook of the decoder level ``block``: add noise to the first of its ``inputs``."""
        if not self.active:
            return None
        x: Tensor = inputs[0]
        if self.training:
            noise = torch.randn((len(x), 1, *x.shape[2:]), device=x.device, dtype=x.dtype)
        else:
            noise_of_seed = {
                seed: torch.randn((1, *x.shape[2:]), generator=torch.Generator().manual_seed(seed * 16 + self.level))
                for seed in dict.fromkeys(self.seeds)
            }
            noise = torch.stack([noise_of_seed[seed] for seed in self.seeds]).to(x)
        return (x + self.scale.to(x.dtype) * noise, *inputs[1:])


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


@contextmanager
def noise_seeds(network: nn.Module, seeds: Sequence[int]) -> Iterator[None]:
    """Context in which the decoder noise of ``network`` has ``seeds``: one per frame, or one for all frames."""
    levels = noise_levels(network)
    for level in levels:
        level.seeds = seeds
    try:
        yield
    finally:
        for level in levels:
            level.seeds = (0,)
