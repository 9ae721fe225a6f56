"""Conversion of stored pixels and latents to network inputs, and the inverse conversions."""

import torch
from torch import Tensor

from echodream.store import Statistics


def whiten(x: Tensor, statistics: Statistics, dim: int = 0) -> Tensor:
    """Normalize ``x``, with channels in dimension ``dim``, to ``(x - mean) / std``, float32."""
    mean, std = _broadcast_statistics(x, statistics, dim)
    return (x - mean) / std


def unwhiten(x: Tensor, statistics: Statistics, dim: int = 0) -> Tensor:
    """Inverse of ``whiten``: ``x * std + mean``, with channels in dimension ``dim``."""
    mean, std = _broadcast_statistics(x, statistics, dim)
    return x * std + mean


def _broadcast_statistics(x: Tensor, statistics: Statistics, dim: int) -> Tensor:
    """Mean and standard deviation in shapes that broadcast with ``x``: (2, 1, ..., C, ..., 1)."""
    if x.shape[dim] != len(statistics.mean):
        raise ValueError(f"x is {tuple(x.shape)}: dimension {dim} does not have {len(statistics.mean)} channels")
    moments = torch.tensor([statistics.mean, statistics.std], dtype=torch.float32, device=x.device)
    return moments.view(2, *(-1 if axis == dim % x.ndim else 1 for axis in range(x.ndim)))


def from_uint8(pixels: Tensor) -> Tensor:
    """Convert pixels of any shape from 0..255 to float32 in [-1, 1]."""
    return pixels.to(torch.float32) / 127.5 - 1


def to_uint8(x: Tensor) -> Tensor:
    """Inverse of ``from_uint8``, rounded and clipped to 0..255."""
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


class PosteriorMoments:
    """Running mean and standard deviation, per channel, of samples of Gaussian posteriors, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self._sum: Tensor = torch.zeros(())
        self._sum_of_squares: Tensor = torch.zeros(())

    def add(self, mean: Tensor, std: Tensor) -> None:
        """Add a batch of posteriors with ``mean`` and ``std``, (N, C, h, w) each."""
        mean, std = mean.detach().to("cpu", torch.float64), std.detach().to("cpu", torch.float64)
        self.count += mean.numel() // mean.shape[1]
        self._sum = self._sum + mean.sum(dim=(0, 2, 3))
        self._sum_of_squares = self._sum_of_squares + (mean.square() + std.square()).sum(dim=(0, 2, 3))

    def mean(self) -> list[float]:
        """Mean of each channel."""
        return (self._sum / self.count).tolist()

    def std(self) -> list[float]:
        """Standard deviation of each channel, at least 1e-6."""
        variance = self._sum_of_squares / self.count - (self._sum / self.count).square()
        return variance.clamp(min=1e-12).sqrt().tolist()
