"""Noise of clips whose frames share a part of it."""

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from echodream import validation


def check_shared(shared: float) -> float:
    """``shared`` if it is a share that frames can have in common. Raises ``UserError``."""
    return float(validation.number("model.shared_noise", shared, 0, below=1, note=", for example 0.5"))


def draw(
    shape: Sequence[int], shared: float = 0.0, generator: Generator | None = None, device: torch.device | None = None
) -> Tensor:
    """Standard normal noise of ``shape``, (..., C, *rest); any two frames of a clip correlate by ``shared``.

    With ``shared`` above 0 it is clips' noise, (..., C, F, H, W): sqrt(shared) times one draw for all frames plus
    sqrt(1 - shared) times one for each (the mixed noise of 2305.10474). What differs between frames, the motion, then
    stands out of the noise earlier than what they have in common.
    """
    own = torch.randn(tuple(shape), generator=generator, device=device)
    if not shared:
        return own
    common = torch.randn((*shape[:-3], 1, *shape[-2:]), generator=generator, device=device)
    return math.sqrt(shared) * common + math.sqrt(1 - shared) * own


def check_offset(offset: float) -> float:
    """``offset`` if it is a strength of ``add_offset``. Raises ``UserError``."""
    return float(validation.number("model.noise_offset", offset, 0, note=", for example 0.1"))


def add_offset(noise: Tensor, offset: float) -> Tensor:
    """``noise``, (B, C, *rest), plus ``offset`` times a normal number for each row and channel.

    With it networks whose last noise level still shows the data learn other brightnesses all the same; zero terminal
    SNR makes it needless (2305.08891, section 4).
    """
    if not offset:
        return noise
    shape = (*noise.shape[:2], *[1] * (noise.ndim - 2))
    return noise + offset * torch.randn(shape, device=noise.device, dtype=noise.dtype)
