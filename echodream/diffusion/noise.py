"""Gaussian noise for training and sampling, with optional correlation between frames and offset per channel."""

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor


def sample_noise(
    shape: Sequence[int], shared: float = 0.0, generator: Generator | None = None, device: torch.device | None = None
) -> Tensor:
    """Standard normal noise of ``shape`` (..., C, *rest), with correlation ``shared`` between two frames of a clip.

    If ``shared`` is above 0, the shape is (..., C, F, H, W). The noise is sqrt(shared) times noise common to all frames
    plus sqrt(1 - shared) times independent noise of each frame (mixed noise, arXiv 2305.10474).
    """
    independent = torch.randn(tuple(shape), generator=generator, device=device)
    if not shared:
        return independent
    common = torch.randn((*shape[:-3], 1, *shape[-2:]), generator=generator, device=device)
    return math.sqrt(shared) * common + math.sqrt(1 - shared) * independent


def add_noise_offset(noise: Tensor, offset: float) -> Tensor:
    """Add ``offset`` times a normal random number per row and channel to ``noise``, (B, C, *rest); arXiv 2305.08891."""
    if not offset:
        return noise
    shape = (*noise.shape[:2], *[1] * (noise.ndim - 2))
    return noise + offset * torch.randn(shape, device=noise.device, dtype=noise.dtype)
