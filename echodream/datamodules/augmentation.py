"""Random augmentation of training samples, pixels (C, F, H, W) in [-1, 1] or latents."""

import io
import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from echodream import validation
from echodream.datamodules.normalization import from_uint8, to_uint8

SMOOTHNESS = 1 / 8
"""Standard deviation of the Gaussian that smooths displacements in ``elastic``, as a fraction of the smaller side."""


def gain(x: Tensor, factor: float) -> Tensor:
    """Multiply the intensities, 0 to 1, of pixels ``x`` (C, F, H, W) by ``factor``, clipped to 1."""
    return _from_intensity((x + 1) / 2 * factor)


def contrast(x: Tensor, gamma: float) -> Tensor:
    """Raise the intensities, 0 to 1, of pixels ``x`` (C, F, H, W) to the power ``gamma``."""
    return _from_intensity(((x + 1) / 2).clamp(0, 1) ** gamma)


def speckle(x: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Multiply the intensities of pixels ``x`` (C, F, H, W) by 1 + ``strength`` * N(0, 1), independent of channel."""
    noise = torch.from_numpy(rng.standard_normal((1, *x.shape[1:]), dtype=np.float32))
    return _from_intensity((x + 1) / 2 * (1 + strength * noise))


def add_noise(x: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Add ``strength`` * N(0, 1) to pixels or latents ``x`` (C, F, H, W), without clipping."""
    return x + strength * torch.from_numpy(rng.standard_normal(x.shape, dtype=np.float32))


def flip(x: Tensor, axis: int = -1) -> Tensor:
    """Horizontal flip, or vertical flip with ``axis`` -2. (C, F, H, W)."""
    return x.flip(axis)


def invert(x: Tensor) -> Tensor:
    """Exchange black and white. (C, F, H, W)."""
    return -x


def blur(x: Tensor, sigma: float) -> Tensor:
    """Blur every frame by a Gaussian with standard deviation ``sigma`` in pixels; border padding. (C, F, H, W)."""
    if not sigma:
        return x
    radius = math.ceil(3 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(x.dtype)
    frames = functional.pad(x.reshape(-1, 1, *x.shape[-2:]), (radius, radius, radius, radius), mode="replicate")
    frames = functional.conv2d(frames, kernel.view(1, 1, -1, 1))
    return functional.conv2d(frames, kernel.view(1, 1, 1, -1)).reshape(x.shape)


def elastic(x: Tensor, amount: float, rng: np.random.Generator) -> Tensor:
    """Displace pixels smoothly by a random field, which all frames share. (C, F, H, W).

    ``amount`` is the root mean square displacement in each direction, in pixels. The field is white noise smoothed by a
    Gaussian (``SMOOTHNESS``). Bilinear interpolation with border padding.
    """
    height, width = x.shape[-2:]
    sigma = SMOOTHNESS * min(height, width)
    border = math.ceil(3 * sigma)  # a margin that is cut off, so that the border moves as much as the center
    size = (2, 1, height + 2 * border, width + 2 * border)
    noise = torch.from_numpy(rng.standard_normal(size, dtype=np.float32))
    if not amount:
        return x
    field = blur(noise, sigma)[..., border:-border, border:-border]
    field = amount * field / field.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    step = torch.stack([field[0, 0] * 2 / width, field[1, 0] * 2 / height], dim=-1)  # to the right, down
    grid = functional.affine_grid(torch.eye(2, 3)[None], [1, 1, height, width], align_corners=False) + step
    frames = x.reshape(1, -1, height, width)
    return functional.grid_sample(frames, grid, padding_mode="border", align_corners=False).reshape(x.shape)


def jpeg(x: Tensor, quality: int) -> Tensor:
    """Compress and decompress every frame as JPEG with ``quality`` 1 to 95, each channel by itself. (C, F, H, W)."""
    from PIL import Image

    frames = []
    for frame in to_uint8(x).reshape(-1, *x.shape[-2:]).numpy():
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "JPEG", quality=quality)
        frames.append(torch.from_numpy(np.asarray(Image.open(file)).copy()))
    return from_uint8(torch.stack(frames)).reshape(x.shape)


def affine(x: Tensor, shift: tuple[float, float] = (0.0, 0.0), degrees: float = 0.0, zoom: float = 1.0) -> Tensor:
    """Magnify ``x`` (C, F, H, W) by ``zoom``, rotate it about its center by ``degrees``, and shift it.

    ``shift`` is (down, right), as fractions of height and width. Rotation is counter-clockwise, and correct in pixels
    for non-square frames. Interpolation is bilinear with border padding.
    """
    height, width = x.shape[-2:]
    cos, sin = math.cos(math.radians(degrees)) / zoom, math.sin(math.radians(degrees)) / zoom
    # source = R(-degrees) / zoom @ (target - shift), in pixels from the center, x to the right, y down
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
class Transform:
    """A transform of frames with fixed amounts.

    ``gain``: factor of intensities. ``contrast``: exponent of intensities. ``speckle``: standard deviation of
    multiplicative noise. ``shift``: (down, right), as fractions of height and width. ``rotate``: degrees. ``zoom``:
    magnification. ``flip``: reversed axes of (C, F, H, W). ``blur``: standard deviation in pixels. ``elastic``: root
    mean square displacement in pixels. ``jpeg``: quality, 0 for no compression. ``blend`` and ``interpolate``: weights
    of the pixels and of the latents of another patient. ``invert``: whether black and white are exchanged.
    """

    gain: float = 1.0
    contrast: float = 1.0
    speckle: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)
    rotate: float = 0.0
    zoom: float = 1.0
    flip: tuple[int, ...] = ()
    blur: float = 0.0
    elastic: float = 0.0
    jpeg: int = 0
    blend: float = 0.0
    interpolate: float = 0.0
    invert: bool = False

    def change_pixels(self, x: Tensor, rng: np.random.Generator, other: Tensor | None = None) -> Tensor:
        """Transformed pixels in [-1, 1], (C, F, H, W); ``other``: the same number of frames of another patient."""
        if self.blend and other is not None:
            x = torch.lerp(x, other, self.blend)
        if any(self.shift) or self.rotate or self.zoom != 1:
            x = affine(x, self.shift, self.rotate, self.zoom)
        for axis in self.flip:
            x = flip(x, axis)
        if self.elastic:
            x = elastic(x, self.elastic, rng)
        x = blur(x, self.blur)
        if self.gain != 1:
            x = gain(x, self.gain)
        if self.contrast != 1:
            x = contrast(x, self.contrast)
        if self.speckle:
            x = speckle(x, self.speckle, rng)
        if self.invert:
            x = invert(x)
        return jpeg(x, self.jpeg) if self.jpeg else x

    def mix_latents(self, latents: Tensor, other: Tensor | None) -> Tensor:
        """Latents, (f, C, H, W), interpolated with those of ``other``."""
        return latents if other is None or not self.interpolate else torch.lerp(latents, other, self.interpolate)


@dataclass(frozen=True)
class Augment:
    """Strengths of augmentations, which are equal for all frames of a sample, except for noise; 0 disables one."""

    gain: float = 0.0
    """Range of a factor of intensities: from 1 / (1 + gain) to 1 + gain. Pixels only."""
    contrast: float = 0.0
    """Range of a power of intensities: from 1 / (1 + contrast) to 1 + contrast. Pixels only."""
    speckle: float = 0.0
    """Standard deviation of multiplicative noise. Pixels only."""
    noise: float = 0.0
    """Standard deviation of additive noise, in units of the network input."""
    shift: float = 0.0
    """Maximum shift, as a fraction of height and width; at most 1."""
    rotate: float = 0.0
    """Maximum rotation in both directions, in degrees; at most 180."""
    zoom: float = 0.0
    """Range of the magnification: from 1 to 1 + zoom. Magnification crops the border."""
    flip: float = 0.0
    """Probability of a horizontal flip; at most 1."""

    def __post_init__(self) -> None:
        maxima = {"shift": 1.0, "rotate": 180.0, "flip": 1.0}
        for field in fields(self):
            validation.number(f"augment.{field.name}", getattr(self, field.name), 0, maxima.get(field.name, 100.0))

    def enabled(self) -> list[str]:
        """Names of the enabled augmentations."""
        return [field.name for field in fields(self) if getattr(self, field.name)]

    def pixel_augmentations(self) -> list[str]:
        """Names of the enabled augmentations that are defined for pixels only."""
        return [name for name in self.enabled() if name in ("gain", "contrast", "speckle")]

    def __call__(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """Augment one sample, (C, F, H, W), with random numbers from ``rng``."""
        amounts = rng.uniform(-1, 1, 6)
        transform = Transform(
            gain=(1 + self.gain) ** amounts[4],
            contrast=(1 + self.contrast) ** amounts[5],
            speckle=self.speckle,
            shift=(self.shift * amounts[0], self.shift * amounts[1]),
            rotate=self.rotate * amounts[2],
            zoom=1 + self.zoom * abs(amounts[3]),
            flip=(-1,) if rng.random() < self.flip else (),
        )
        x = transform.change_pixels(x, rng)
        return add_noise(x, self.noise, rng) if self.noise else x
