"""Conversion of stored pixels and latents to inputs of networks, and back. Pure functions."""

import torch
from torch import Tensor

from echodream.store import Statistics


def whiten(x: Tensor, statistics: Statistics, dim: int = 0) -> Tensor:
    """Normalize per channel: ``(x - mean) / std``, float32.

    ``x`` is (C, ...) with ``dim`` 0, or (B, C, ...) with ``dim`` 1. Raises ``ValueError`` if C does not match.
    """
    mean, std = _per_channel(x, statistics, dim)
    return (x - mean) / std


def unwhiten(x: Tensor, statistics: Statistics, dim: int = 0) -> Tensor:
    """The inverse of ``whiten``: ``x * std + mean``. ``x`` is (C, ...) with ``dim`` 0 or (B, C, ...) with ``dim`` 1."""
    mean, std = _per_channel(x, statistics, dim)
    return x * std + mean


def _per_channel(x: Tensor, statistics: Statistics, dim: int) -> tuple[Tensor, Tensor]:
    if x.shape[dim] != len(statistics.mean):
        raise ValueError(f"x is {tuple(x.shape)}: dimension {dim} is not the {len(statistics.mean)} channels")
    shape = [1] * x.ndim
    shape[dim] = -1
    mean, std = (
        torch.tensor(v, dtype=torch.float32, device=x.device).view(shape) for v in (statistics.mean, statistics.std)
    )
    return mean, std


def from_uint8(pixels: Tensor) -> Tensor:
    """Convert pixels from 0..255 to float32 in [-1, 1]. Any shape."""
    return pixels.to(torch.float32) / 127.5 - 1


def to_uint8(x: Tensor) -> Tensor:
    """The inverse of ``from_uint8``: rounded and clipped to 0..255. Any shape."""
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


class PosteriorMoments:
    """Running mean and std per channel of samples from diagonal Gaussian posteriors, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self._sum: Tensor = torch.zeros(())
        self._sum_of_squares: Tensor = torch.zeros(())

    def add(self, mean: Tensor, std: Tensor) -> None:
        """Add a batch of posteriors: mean and std, (N, C, h, w) each."""
        mean, std = mean.detach().to("cpu", torch.float64), std.detach().to("cpu", torch.float64)
        self.count += mean.numel() // mean.shape[1]
        self._sum = self._sum + mean.sum(dim=(0, 2, 3))
        self._sum_of_squares = self._sum_of_squares + (mean.square() + std.square()).sum(dim=(0, 2, 3))

    def mean(self) -> list[float]:
        """Mean of each channel; at least one posterior is needed."""
        return [float(value) for value in self._sum / self.count]

    def std(self) -> list[float]:
        """Standard deviation of each channel, at least 1e-6: variance of the means plus mean variance of posteriors."""
        variance = self._sum_of_squares / self.count - (self._sum / self.count).square()
        return [float(value) for value in variance.clamp(min=1e-12).sqrt()]
