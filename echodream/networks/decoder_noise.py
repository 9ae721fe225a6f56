"""Decoder noise: a small network that adds speckle to decoded frames, because latents cannot encode random speckle."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.nn import functional

from echodream import validation

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

NOISE_CHANNELS_KEY = "decoder_noise_channels"
"""Key of config.json for the number of noise maps of an autoencoder with decoder noise."""
NOISE_CORRELATION_KEY = "decoder_noise_correlation"
"""Key of config.json for the noise correlation of consecutive frames; if the key is absent, the noise is static."""
OLD_NOISE_KEY = "has_decoder_noise"
"""Key of config.json in earlier versions, which added noise at each decoder level (StyleGAN, 1812.04948)."""
_MIN_NOISE_WEIGHT = 0.01
"""Minimum weight, relative to the first weight, of the white noises that ``DecoderNoise._noise`` adds up."""


class DecoderNoise(nn.Module):
    """Network that generates speckle from white noise, and adds it to the frames (B, C, H, W) of a decoder.

    A convolution filters ``channels`` noise maps. Scale and offset of the filtered maps are computed for each pixel,
    from the features of the last decoder layer, (B, ``features``, H, W), and from the position in the frame. Speckle
    can therefore differ between tissue and chambers, and its direction and size can change with the position, like the
    point-spread function. Features and position change slowly over the frame, so that the speckle depends mainly on
    the noise and little on the patient.

    The noise is off until ``active`` is set. In training, each frame has new noise. In ``eval`` mode, the noise is a
    function of the seed of the recording and of the number of the frame in the recording. The noise of a recording is
    a first-order autoregressive process with ``correlation`` between consecutive frames, as in real recordings, where
    a part of the speckle changes in every frame. With ``correlation`` 1, all frames of a recording have equal noise.
    """

    active: Tensor
    scale: Tensor

    def __init__(self, channels: int, features: int, frame_channels: int, width: int = 16) -> None:
        super().__init__()
        self.filters = nn.Conv2d(channels, width, 7, padding=3, padding_mode="reflect")
        inputs = features + _position_polynomials(1, 1).shape[0]
        self.modulation = nn.Sequential(nn.Conv2d(inputs, 32, 1), nn.SiLU(), nn.Conv2d(32, 2 * width, 1))
        self.hidden = nn.Conv2d(width, 16, 3, padding=1, padding_mode="reflect")
        self.last = nn.Conv2d(16, frame_channels, 3, padding=1, padding_mode="reflect")
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)
        self.register_buffer("active", torch.zeros((), dtype=torch.bool))
        self.register_buffer("scale", torch.ones(()))
        self.correlation = 1.0
        self.seeds: Sequence[tuple[int, int | None]] = ((0, 0),)
        """Seed of the recording and number of the frame, of each frame of the batch, or one pair for all frames.

        With V times as many pairs as frames, V versions of each frame are decoded, one after another in the batch.
        A frame without a number is not part of a recording.
        """

    def add_speckle(self, layer: nn.Module, inputs: tuple[Tensor], frames: Tensor) -> Tensor | None:
        """Forward hook of the decoder's last ``layer``: add speckle to the decoded ``frames``, its output."""
        if not self.active:
            return None
        versions = max(len(self.seeds) // len(frames), 1)
        features, frames = (x.repeat_interleave(versions, dim=0) for x in (inputs[0], frames))
        return frames + self(features)

    def forward(self, features: Tensor) -> Tensor:
        """Speckle (B, C, H, W) for frames with ``features`` of the last decoder layer, (B, D, H, W)."""
        size = features.shape[2:]
        shape = (len(features), self.filters.in_channels, *size)
        if self.training:
            noise = torch.randn(shape, device=features.device, dtype=features.dtype)
        else:
            noise_of_frame = {frame: self._noise(*frame, shape[1:]) for frame in dict.fromkeys(self.seeds)}
            noise = torch.stack([noise_of_frame[frame] for frame in self.seeds]).to(features).expand(shape)
        position = _position_polynomials(*size).to(features).expand(len(features), -1, -1, -1)
        scale, offset = self.modulation(torch.cat([features, position], dim=1)).chunk(2, dim=1)
        filtered = functional.silu(self.filters(noise) * (1 + scale) + offset)
        return self.scale.to(features.dtype) * self.last(functional.silu(self.hidden(filtered)))

    def _noise(self, seed: int, frame: int | None, shape: Sequence[int]) -> Tensor:
        """Noise of the frame number ``frame`` of the recording with ``seed``, (channels, H, W), of unit variance.

        The noise of frame f is sum_j w_j e_(f - j) with w_j ~ correlation^j and independent white noise e_i.
        """
        if self.correlation == 1 or frame is None:
            return _white_noise(seed, *shape)
        weights = [1.0]
        while weights[-1] * self.correlation >= _MIN_NOISE_WEIGHT:
            weights.append(weights[-1] * self.correlation)
        newest, norm = frame + len(weights) - 1, math.hypot(*weights)
        innovations = [_white_noise(crc32(f"{seed} {newest - lag}".encode()), *shape) for lag in range(len(weights))]
        return torch.stack([weight / norm * each for weight, each in zip(weights, innovations, strict=True)]).sum(0)


@lru_cache(maxsize=8)
def _position_polynomials(height: int, width: int) -> Tensor:
    """Polynomials x, y, x^2 - 0.5, y^2 - 0.5, x y of the pixel position, (5, H, W); x and y are from -1 to 1."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    return torch.stack([x, y, x.square() - 0.5, y.square() - 0.5, x * y])


@lru_cache(maxsize=128)
def _white_noise(seed: int, channels: int, height: int, width: int) -> Tensor:
    """Gaussian white noise (channels, H, W). Only the lower 32 bits of ``seed`` are used."""
    return torch.randn((channels, height, width), generator=torch.Generator().manual_seed(seed))


def add_decoder_noise(network: "AutoencoderKL", channels: int) -> "AutoencoderKL":
    """Add a ``DecoderNoise`` with ``channels`` noise maps to the decoder of ``network``, in place."""
    validation.whole_number("vae.noise", channels, 1)
    noise = DecoderNoise(channels, network.config.block_out_channels[0], network.config.out_channels)
    network.decoder_noise = noise
    network.decoder.conv_out.register_forward_hook(noise.add_speckle)
    network.register_to_config(**{NOISE_CHANNELS_KEY: channels})
    return network


def decoder_noise(network: nn.Module) -> DecoderNoise | None:
    """The ``DecoderNoise`` of ``network``; None if ``network`` has no decoder noise."""
    noise: DecoderNoise | None = getattr(network, "decoder_noise", None)
    return noise


def set_noise_correlation(network: "AutoencoderKL", correlation: float) -> None:
    """Set the correlation, 0 to 1, of the decoder noise of consecutive frames, in ``network`` and its config.json."""
    validation.number("decoder_noise_correlation", correlation, 0, 1)
    if noise := decoder_noise(network):
        noise.correlation = float(correlation)
    network.register_to_config(**{NOISE_CORRELATION_KEY: float(correlation)})


@contextmanager
def noise_seeds(network: nn.Module, seeds: Sequence[int], frames: Sequence[int] | None = None) -> Iterator[None]:
    """Context that sets the ``seeds`` of the decoder noise of ``network``: one per frame, or one for all frames.

    ``frames``: number of each frame in its recording; by default, the frames are not frames of one recording.
    """
    noise = decoder_noise(network)
    if noise is None:
        yield
        return
    noise.seeds = list(zip(seeds, frames if frames is not None else [None] * len(seeds), strict=True))
    try:
        yield
    finally:
        noise.seeds = ((0, 0),)
