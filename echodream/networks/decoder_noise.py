"""Noise in the decoder of an autoencoder, from which it generates speckle (StyleGAN, Karras et al. 1812.04948).

Latents of a few numbers cannot contain the speckle of a frame. A decoder without noise blurs it, or replaces it by
lines, and what it generates depends on errors of the latents.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from echodream import validation

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

CONFIG_KEY = "has_decoder_noise"
"""Key of the network's config.json."""


class DecoderNoise(nn.Module):
    """Gaussian noise (B, 1, h, w), added to the input (B, C, h, w) of a decoder level with a trained scale per channel.

    It is inactive until ``active`` is set. In training, each frame has new noise. Otherwise, the noise is a function
    of ``level`` and of the frame's seed in ``seeds`` (0 for every frame unless ``noise_seeds`` is used): decoding
    is deterministic, and frames with one seed have the same noise, so that the speckle of a video does not flicker.
    """

    active: Tensor

    def __init__(self, level: int, channels: int, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((1, channels, 1, 1), float(scale)))
        self.register_buffer("active", torch.zeros((), dtype=torch.bool))
        self.level = level
        self.seeds: Sequence[int] = (0,)

    def add(self, block: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Forward pre-hook of the decoder level ``block``: its inputs with noise."""
        if not self.active:
            return None
        x: Tensor = inputs[0]
        if self.training:
            noise = torch.randn((len(x), 1, *x.shape[2:]), device=x.device, dtype=x.dtype)
        else:
            noise = self._seeded_noise(x).to(x)
        return (x + self.scale.to(x.dtype) * noise, *inputs[1:])

    def _seeded_noise(self, x: Tensor) -> Tensor:
        by_seed = {
            seed: torch.randn((1, *x.shape[2:]), generator=torch.Generator().manual_seed(seed * 16 + self.level))
            for seed in dict.fromkeys(self.seeds)
        }
        return torch.stack([by_seed[seed] for seed in self.seeds])


def add_decoder_noise(network: "AutoencoderKL", scale: float) -> "AutoencoderKL":
    """Add inactive noise with the initial ``scale`` to every decoder level of ``network``, in place; returns it.

    The scales are weights of ``network``. Without this function, diffusers opens the folder of such a network with a
    warning about these weights, and decodes without noise.
    """
    validation.positive_number("vae.noise", scale)
    blocks: Any = network.decoder.up_blocks
    levels = [DecoderNoise(index, block.resnets[0].in_channels, scale) for index, block in enumerate(blocks)]
    network.decoder_noise = nn.ModuleList(levels)
    for level, block in zip(levels, blocks, strict=True):
        block.register_forward_pre_hook(level.add)
    network.register_to_config(**{CONFIG_KEY: True})
    return network


def noise_levels(network: nn.Module) -> list[DecoderNoise]:
    """The noise of each decoder level of ``network``; an empty list if it has none."""
    return list(getattr(network, "decoder_noise", ()))


def activate_noise(network: nn.Module) -> None:
    """Use the noise of ``network`` from now on, in place."""
    for level in noise_levels(network):
        level.active.fill_(True)


@contextmanager
def noise_seeds(network: nn.Module, seeds: Sequence[int]) -> Iterator[None]:
    """Use ``seeds`` for the noise of ``network``: one for each frame of the decoded batch, or one for all frames."""
    levels = noise_levels(network)
    for level in levels:
        level.seeds = seeds
    try:
        yield
    finally:
        for level in levels:
            level.seeds = (0,)
