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

ELASTIC_SMOOTHNESS = 1 / 8
"""Standard deviation of the Gaussian that smooths displacements in ``deform``, as a fraction of the smaller side."""


def gain(x: Tensor, factor: float) -> Tensor:
    """Multiply the intensities, 0 to 1, of pixels ``x`` (C, F, H, W) by ``factor``, clipped to 1."""
    return _pixels_from_intensity((x + 1) / 2 * factor)


def contrast(x: Tensor, gamma: float) -> Tensor:
    """Raise the intensities, 0 to 1, of pixels ``x`` (C, F, H, W) to the power ``gamma``."""
    return _pixels_from_intensity(((x + 1) / 2).clamp(0, 1) ** gamma)


def speckle(x: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Multiply intensities of pixels ``x`` (C, F, H, W) by 1 + ``strength`` * N(0, 1), equal noise for all channels."""
    noise = torch.from_numpy(rng.standard_normal((1, *x.shape[1:]), dtype=np.float32))
    return _pixels_from_intensity((x + 1) / 2 * (1 + strength * noise))


def add_noise(x: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Add ``strength`` * N(0, 1) to pixels or latents ``x`` (C, F, H, W), without clipping."""
    return x + strength * torch.from_numpy(rng.standard_normal(x.shape, dtype=np.float32))


def flip(x: Tensor, axis: int = -1) -> Tensor:
    """Flip ``x`` (C, F, H, W) horizontally, or vertically with ``axis`` -2."""
    return x.flip(axis)


def invert(x: Tensor) -> Tensor:
    """Exchange black and white in pixels ``x`` (C, F, H, W)."""
    return -x


def blur(x: Tensor, sigma: float) -> Tensor:
    """Blur frames of ``x`` (C, F, H, W) by a Gaussian with standard deviation ``sigma`` (pixels); border padding."""
    if not sigma:
        return x
    radius = math.ceil(3 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(x.dtype)
    frames = functional.pad(x.reshape(-1, 1, *x.shape[-2:]), (radius, radius, radius, radius), mode="replicate")
    frames = functional.conv2d(frames, kernel.view(1, 1, -1, 1))
    return functional.conv2d(frames, kernel.view(1, 1, 1, -1)).reshape(x.shape)


def deform(x: Tensor, amount: float, rng: np.random.Generator) -> Tensor:
    """Displace the pixels of ``x`` (C, F, H, W) by a smooth random field, which is equal for all frames.

    ``amount`` is the root mean square displacement in each direction, in pixels. The field is white noise smoothed by a
    Gaussian (``ELASTIC_SMOOTHNESS``). Interpolation is bilinear with border padding.
    """
    height, width = x.shape[-2:]
    sigma = ELASTIC_SMOOTHNESS * min(height, width)
    border = math.ceil(3 * sigma)  # margin that is cut off, so that the border moves as much as the center
    size = (2, 1, height + 2 * border, width + 2 * border)
    noise = torch.from_numpy(rng.standard_normal(size, dtype=np.float32))
    if not amount:
        return x
    field = blur(noise, sigma)[..., border:-border, border:-border]
    field = amount * field / field.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    step = torch.stack([field[0, 0] * 2 / width, field[1, 0] * 2 / height], dim=-1)  # displacement (right, down)
    grid = functional.affine_grid(torch.eye(2, 3)[None], [1, 1, height, width], align_corners=False) + step
    frames = x.reshape(1, -1, height, width)
    return functional.grid_sample(frames, grid, padding_mode="border", align_corners=False).reshape(x.shape)


def jpeg(x: Tensor, quality: int) -> Tensor:
    """Compress and decompress each channel of the frames of ``x`` (C, F, H, W) as JPEG with ``quality`` 1 to 95."""
    from PIL import Image

    frames = []
    for frame in to_uint8(x).reshape(-1, *x.shape[-2:]).numpy():
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "JPEG", quality=quality)
        frames.append(torch.from_numpy(np.asarray(Image.open(file)).copy()))
    return from_uint8(torch.stack(frames)).reshape(x.shape)


def affine(x: Tensor, shift: tuple[float, float] = (0.0, 0.0), degrees: float = 0.0, zoom: float = 1.0) -> Tensor:
    """Magnify ``x`` (C, F, H, W) by ``zoom``, rotate it about its center by ``degrees``, and shift it.

    ``shift`` is (down, right), as fractions of height and width. Rotation is counter-clockwise, and keeps angles in
    non-square frames. Interpolation is bilinear with border padding.
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


def _pixels_from_intensity(intensity: Tensor) -> Tensor:
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

    def change_pixels(self, x: Tensor, rng: np.random.Generator, other_patient: Tensor | None = None) -> Tensor:
        """Transform pixels ``x`` in [-1, 1], (C, F, H, W); ``other_patient``: pixels of another patient, as ``x``."""
        if self.blend and other_patient is not None:
            x = torch.lerp(x, other_patient, self.blend)
        if any(self.shift) or self.rotate or self.zoom != 1:
            x = affine(x, self.shift, self.rotate, self.zoom)
        for axis in self.flip:
            x = flip(x, axis)
        if self.elastic:
            x = deform(x, self.elastic, rng)
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

    def mix_latents(self, latents: Tensor, other_patient: Tensor | None) -> Tensor:
        """Interpolate ``latents``, (F, C, H, W), with latents of ``other_patient`` in the same shape."""
        if other_patient is None or not self.interpolate:
            return latents
        return torch.lerp(latents, other_patient, self.interpolate)


@dataclass(frozen=True)
class Augment:
    """Strength of each augmentation; 0 disables it. Except for noise, all frames of a sample change equally."""

    gain: float = 0.0
    """Intensities are multiplied by a random factor, 1 / (1 + gain) to 1 + gain. Pixels only."""
    contrast: float = 0.0
    """Intensities are raised to a random power, 1 / (1 + contrast) to 1 + contrast. Pixels only."""
    speckle: float = 0.0
    """Standard deviation of multiplicative noise. Pixels only."""
    noise: float = 0.0
    """Standard deviation of additive noise, in units of the network input."""
    shift: float = 0.0
    """Maximum shift, as a fraction of height and width; at most 1."""
    rotate: float = 0.0
    """Maximum rotation in both directions, in degrees; at most 180."""
    zoom: float = 0.0
    """Frames are magnified by a random factor, 1 to 1 + zoom, which crops the border."""
    flip: float = 0.0
    """Probability of a horizontal flip; at most 1."""

    def __post_init__(self) -> None:
        maxima = {"shift": 1.0, "rotate": 180.0, "flip": 1.0}
        for field in fields(self):
            validation.number(f"augment.{field.name}", getattr(self, field.name), 0, maxima.get(field.name, 100.0))

    def enabled_augmentations(self) -> list[str]:
        """Names of the enabled augmentations."""
        return [field.name for field in fields(self) if getattr(self, field.name)]

    def pixel_augmentations(self) -> list[str]:
        """Names of the enabled augmentations that are defined for pixels only."""
        return [name for name in self.enabled_augmentations() if name in ("gain", "contrast", "speckle")]

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
