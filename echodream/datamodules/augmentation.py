"""Random augmentation of training samples: pure functions on pixels in [-1, 1], (C, F, H, W), and ``Augment``."""

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from echodream import validation


def gain(x: Tensor, factor: float) -> Tensor:
    """Multiply the intensities of pixels by ``factor``, clipped at white. (C, F, H, W)."""
    return _from_intensity((x + 1) / 2 * factor)


def contrast(x: Tensor, gamma: float) -> Tensor:
    """Raise the intensities of pixels, 0 to 1, to the power ``gamma``. (C, F, H, W)."""
    return _from_intensity(((x + 1) / 2).clamp(0, 1) ** gamma)


def speckle(x: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Multiplicative noise: multiply intensities by 1 + ``strength`` * N(0, 1). (C, F, H, W).

    The noise is independent for each frame and shared by the channels of a pixel.
    """
    noise = torch.from_numpy(rng.standard_normal((1, *x.shape[1:]), dtype=np.float32))
    return _from_intensity((x + 1) / 2 * (1 + strength * noise))


def add_noise(x: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Additive noise: ``x`` + ``strength`` * N(0, 1), not clipped, also for latents. (C, F, H, W)."""
    return x + strength * torch.from_numpy(rng.standard_normal(x.shape, dtype=np.float32))


def flip(x: Tensor) -> Tensor:
    """Horizontal flip. (C, F, H, W)."""
    return x.flip(-1)


def affine(x: Tensor, shift: tuple[float, float] = (0.0, 0.0), degrees: float = 0.0, zoom: float = 1.0) -> Tensor:
    """Magnify every frame ``zoom`` times, rotate it counter-clockwise by ``degrees`` about its center, then shift it.

    ``shift`` is (down, right), as fractions of the height and the width. Bilinear interpolation with border padding.
    Angles are correct in pixels also for non-square frames. (C, F, H, W).
    """
    height, width = x.shape[-2:]
    cos, sin = math.cos(math.radians(degrees)) / zoom, math.sin(math.radians(degrees)) / zoom
    # in pixels from the center: source = R(-degrees) / zoom @ (target - shift), x to the right, y down
    down, right = shift[0] * height, shift[1] * width
    to_x = [cos, -sin * height / width, -(cos * right - sin * down) * 2 / width]
    to_y = [sin * width / height, cos, -(sin * right + cos * down) * 2 / height]
    theta = torch.tensor([[to_x, to_y]], dtype=torch.float32)
    frames = x.reshape(1, -1, height, width)
    grid = functional.affine_grid(theta, [1, 1, height, width], align_corners=False)
    return functional.grid_sample(frames, grid, padding_mode="border", align_corners=False).reshape(x.shape)


def _from_intensity(intensity: Tensor) -> Tensor:
    return intensity.clamp(0, 1) * 2 - 1


@dataclass(frozen=True)
class Augment:
    """Strengths of the augmentations; 0 disables one. All frames of a sample get the same values, except for noise.

    Raises ``UserError`` for a value out of range.
    """

    gain: float = 0.0
    """Multiplies intensities by a factor from 1 / (1 + gain) to 1 + gain. Pixels only."""
    contrast: float = 0.0
    """Raises intensities to a power from 1 / (1 + contrast) to 1 + contrast. Pixels only."""
    speckle: float = 0.0
    """Standard deviation of multiplicative noise. Pixels only."""
    noise: float = 0.0
    """Standard deviation of additive noise, in the units of the network's input."""
    shift: float = 0.0
    """Largest shift, as a fraction of the height and width; at most 1."""
    rotate: float = 0.0
    """Largest rotation in either direction, in degrees; at most 180."""
    zoom: float = 0.0
    """Magnifies frames 1 to 1 + zoom times, which crops the border."""
    flip: float = 0.0
    """Probability of a horizontal flip; at most 1."""

    def __post_init__(self) -> None:
        most = {"shift": 1.0, "rotate": 180.0, "flip": 1.0}
        for field in fields(self):
            validation.number(f"augment.{field.name}", getattr(self, field.name), 0, most.get(field.name, 100.0))

    def pixel_augmentations(self) -> list[str]:
        """Names of the enabled augmentations that exist for pixels only, not for latents."""
        return [name for name in ("gain", "contrast", "speckle") if getattr(self, name)]

    def __call__(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """Augment one sample, (C, F, H, W). The same state of ``rng`` gives the same result."""
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
