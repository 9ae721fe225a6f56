"""Decoder noise: a small network that adds speckle to decoded frames, because latents cannot encode random speckle."""

import math
from collections.abc import Callable, Iterator, Sequence
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
STATIC_SHARE_KEY = "decoder_noise_static_share"
"""Key of config.json: true if the decoder noise has a network for its static share."""
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
    If there is a network ``static_share``, its output s for a pixel is the share of noise that is equal in all frames:
    the noise is sqrt(s) times static noise plus sqrt(1 - s) times that process. Tissue then flickers less than blood.
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
        self.static_share: StaticShare | None = None
        self.correlation = 1.0
        self.seeds: Sequence[tuple[int, int | None]] = ((0, None),)
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
        inputs = self.modulation_inputs(features)
        noise = self.noise_maps(features, inputs)
        scale, offset = self.modulation(inputs).chunk(2, dim=1)
        filtered = functional.silu(self.filters(noise) * (1 + scale) + offset)
        return self.scale.to(features.dtype) * self.last(functional.silu(self.hidden(filtered)))

    def noise_maps(self, features: Tensor, inputs: Tensor) -> Tensor:
        """Noise maps of unit variance, (B, channels, H, W); ``inputs``: those of ``modulation_inputs``."""
        if self.training:
            shape = (len(features), self.filters.in_channels, *features.shape[2:])
            return torch.randn(shape, device=features.device, dtype=features.dtype)
        noise = self._stack_noise(self._noise, features)
        if self.static_share is None or self.seeds[0][1] is None:
            return noise
        share = self.static_share(inputs).detach()  # the gradient of the square root is infinite at 0
        return share.sqrt() * self._stack_noise(self._static_noise, features) + (1 - share).sqrt() * noise

    def modulation_inputs(self, features: Tensor) -> Tensor:
        """``features`` of the last decoder layer, (B, D, H, W), and the pixel position: (B, D + 5, H, W)."""
        position = _position_polynomials(*features.shape[2:]).to(features)
        return torch.cat([features, position.expand(len(features), -1, -1, -1)], dim=1)

    def _stack_noise(self, noise: Callable[[int, int | None, Sequence[int]], Tensor], features: Tensor) -> Tensor:
        """Noise maps of all frames of a batch, (B, channels, H, W); ``noise`` computes those of one frame."""
        shape = (self.filters.in_channels, *features.shape[2:])
        noise_of_frame = {frame: noise(*frame, shape) for frame in dict.fromkeys(self.seeds)}
        stacked = torch.stack([noise_of_frame[frame] for frame in self.seeds]).to(features)
        return stacked.expand(len(features), *shape)

    def _static_noise(self, seed: int, frame: int | None, shape: Sequence[int]) -> Tensor:
        """Noise of all frames of the recording with ``seed``, (channels, H, W), independent of ``_noise``."""
        return _white_noise(crc32(f"{seed} static".encode()), *shape)

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


class StaticShare(nn.Module):
    """Share of the decoder noise, from 0 to ``factor``, that is equal in all frames of a recording, (B, 1, H, W).

    The inputs, (B, D, H, W), are those of ``DecoderNoise.modulation_inputs``.
    """

    factor: Tensor

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(inputs, 16, 1), nn.SiLU(), nn.Conv2d(16, 1, 1))
        self.register_buffer("factor", torch.ones(()))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.factor * torch.sigmoid(self.layers(inputs))


@lru_cache(maxsize=8)
def _position_polynomials(height: int, width: int) -> Tensor:
    """Polynomials x, y, x^2 - 0.5, y^2 - 0.5, x y of the pixel position, (5, H, W); x and y are from -1 to 1."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    return torch.stack([x, y, x.square() - 0.5, y.square() - 0.5, x * y])


@lru_cache(maxsize=128)
def _white_noise(seed: int, channels: int, height: int, width: int) -> Tensor:
    """Gaussian white noise (channels, H, W). Only the lower 32 bits of ``seed`` are used."""
    return torch.randn((channels, height, width), generator=torch.Generator().manual_seed(seed))


def add_decoder_noise(network: "AutoencoderKL", channels: int, has_static_share: bool = False) -> "AutoencoderKL":
    """Add a ``DecoderNoise`` with ``channels`` noise maps to the decoder of ``network``, in place.

    ``has_static_share``: also add the network of the static share, whose weights are loaded later.
    """
    validation.whole_number("vae.noise", channels, 1)
    noise = DecoderNoise(channels, network.config.block_out_channels[0], network.config.out_channels)
    network.decoder_noise = noise
    network.decoder.conv_out.register_forward_hook(noise.add_speckle)
    network.register_to_config(**{NOISE_CHANNELS_KEY: channels})
    if has_static_share:
        add_static_share(network)
    return network


def add_static_share(network: "AutoencoderKL") -> StaticShare:
    """Add a new network of the static share to the decoder noise of ``network``, in place, and return this network."""
    noise = decoder_noise(network)
    assert noise is not None
    inputs = network.config.block_out_channels[0] + len(_position_polynomials(1, 1))
    noise.static_share = StaticShare(inputs).to(noise.scale.device)
    network.register_to_config(**{STATIC_SHARE_KEY: True})
    return noise.static_share


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


@torch.no_grad()
def decode_without_noise(network: "AutoencoderKL", latents: Tensor) -> tuple[Tensor, Tensor]:
    """Frames, (N, C, H, W), without decoder noise, and features of the last decoder layer, (N, D, H, W)."""
    noise, features = decoder_noise(network), list[Tensor]()
    assert noise is not None
    was_active = noise.active.clone()
    handle = network.decoder.conv_out.register_forward_pre_hook(lambda layer, inputs: features.append(inputs[0]))
    noise.active.fill_(False)
    try:
        frames = [network.decode(part).sample for part in latents.split(16)]
    finally:
        noise.active.copy_(was_active)
        handle.remove()
    return torch.cat(frames), torch.cat(features)


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
        noise.seeds = ((0, None),)
