"""Random augmentation of training samples. Pure functions."""

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from echodream import validation


def gain(x: Tensor, factor: float) -> Tensor:
    """Pixels with intensities multiplied by ``factor``, cut at white. (C, F, H, W)."""
    return _from_intensity(_intensity(x) * factor)


def contrast(x: Tensor, gamma: float) -> Tensor:
    """Pixels with intensities raised to the power ``gamma``; black and white stay. (C, F, H, W)."""
    return _from_intensity(_intensity(x).clamp(0, 1) ** gamma)


def speckle(x: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Pixels with intensities multiplied by 1 + ``strength`` times standard normal noise. (C, F, H, W).

    The noise differs between frames and is the same for the channels of a pixel.
    """
    noise = torch.from_numpy(rng.standard_normal((1, *x.shape[1:]), dtype=np.float32))
    return _from_intensity(_intensity(x) * (1 + strength * noise))


def add_noise(x: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """``x`` plus ``strength`` times standard normal noise; nothing is cut, so latents may be given. (C, F, H, W)."""
    return x + strength * torch.from_numpy(rng.standard_normal(x.shape, dtype=np.float32))


def flip(x: Tensor) -> Tensor:
    """Left and right exchanged. (C, F, H, W)."""
    return x.flip(-1)


def affine(x: Tensor, shift: tuple[float, float] = (0.0, 0.0), degrees: float = 0.0, zoom: float = 1.0) -> Tensor:
    """Every frame magnified ``zoom`` times and rotated anticlockwise by ``degrees`` about its centre, then shifted.

    ``shift`` is (down, right) as shares of the height and the width. Bilinear; outside the frame its border goes on.
    Angles are true in pixels, also where height and width differ. (C, F, H, W).
    """
    height, width = x.shape[-2:]
    cos, sin = math.cos(math.radians(degrees)) / zoom, math.sin(math.radians(degrees)) / zoom
    # in pixels from the centre: source = R(-degrees) / zoom @ (target - shift), x to the right, y down
    down, right = shift[0] * height, shift[1] * width
    to_x = [cos, -sin * height / width, -(cos * right - sin * down) * 2 / width]
    to_y = [sin * width / height, cos, -(sin * right + cos * down) * 2 / height]
    theta = torch.tensor([[to_x, to_y]], dtype=torch.float32)
    frames = x.reshape(1, -1, height, width)
    grid = functional.affine_grid(theta, [1, 1, height, width], align_corners=False)
    return functional.grid_sample(frames, grid, padding_mode="border", align_corners=False).reshape(x.shape)


def _intensity(x: Tensor) -> Tensor:
    return (x + 1) / 2


def _from_intensity(intensity: Tensor) -> Tensor:
    return intensity.clamp(0, 1) * 2 - 1


@dataclass(frozen=True)
class Augment:
    """How much a sample is varied; 0 is not at all. One draw holds for all frames of a sample, noise apart.

    Raises ``UserError`` for a negative amount, and for what cannot be (see each field).
    """

    gain: float = 0.0
    """Intensities times a factor between 1 / (1 + gain) and 1 + gain. Pixels only."""
    contrast: float = 0.0
    """Intensities to a power between 1 / (1 + contrast) and 1 + contrast. Pixels only."""
    speckle: float = 0.0
    """Strength of multiplicative noise. Pixels only."""
    noise: float = 0.0
    """Standard deviation of additive noise, in the units a network sees."""
    shift: float = 0.0
    """Largest shift, as a share of the side; below 1."""
    rotate: float = 0.0
    """Largest rotation either way, in degrees; up to 180."""
    zoom: float = 0.0
    """Magnified between 1 and 1 + zoom times, which crops the border."""
    flip: float = 0.0
    """Probability of exchanging left and right; up to 1."""

    def __post_init__(self) -> None:
        most = {"shift": 1.0, "rotate": 180.0, "flip": 1.0}
        for field in fields(self):
            validation.number(f"augment.{field.name}", getattr(self, field.name), 0, most.get(field.name, 100.0))

    def for_pixels_only(self) -> list[str]:
        """Names of what is asked for and has a meaning for pixels alone."""
        return [name for name in ("gain", "contrast", "speckle") if getattr(self, name)]

    def __call__(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """Vary one sample: (C, F, H, W). The same ``rng`` state gives the same result."""
        amounts = rng.uniform(-1, 1, 6)
        if self.shift or self.rotate or self.zoom:
            down, right = self.shift * amounts[0], self.shift * amounts[1]
            x = affine(x, (down, right), self.rotate * amounts[2], 1 + self.zoom * abs(amounts[3]))
        if rng.random() < self.flip:
            x = flip(x)
        if self.gain:
            x = gain(x, (1 + self.gain) ** amounts[4])
        if self.contrast:
            x = contrast(x, (1 + self.contrast) ** amounts[5])
        if self.speckle:
            x = speckle(x, self.speckle, rng)
        return add_noise(x, self.noise, rng) if self.noise else x
