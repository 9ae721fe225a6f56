"""Clips of any length from a network that sees one window: overlapping windows, cross-faded at every step."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from echodream import validation
from echodream.diffusion.processes.base import Denoise
from echodream.errors import UserError

DenoiseAt = Callable[[Tensor, Tensor, list[int]], Tensor]
"""(x (N*B, C, window, *rest), t (N*B,), the N first frames) to the prediction for x. Row n * B + b is window n of b."""


def starts(frames: int, window: int, overlap: int) -> list[int]:
    """The first frame of each window over ``frames``: evenly spread, at least ``overlap`` frames shared by neighbours.

    The first is 0 and the last window ends with the last frame. Where ``frames`` is at most ``window`` there is one
    window, as long as the clip.
    """
    for key, value, least in (("frames", frames, 1), ("window", window, 1), ("overlap", overlap, 0)):
        validation.whole_number(key, value, least)
    if overlap >= window:
        raise UserError(f"overlap={overlap} leaves a window={window} no frame of its own; give less than the window")
    if frames <= window:
        return [0]
    gaps = math.ceil((frames - window) / (window - overlap))
    return [index * (frames - window) // gaps for index in range(gaps + 1)]


def blend(parts: Tensor, starts: Sequence[int], frames: int) -> Tensor:
    """Windows, (W, B, C, window, *rest), joined to (B, C, frames, *rest) as weighted means of those over each frame.

    A window's weight falls evenly from its middle to its ends, which cross-fades neighbours linearly over what they
    share. The mean is taken as it goes, so that windows that agree come back exactly as they are.
    """
    window = parts.shape[3]
    places = torch.arange(window, device=parts.device)
    hat = torch.minimum(places + 1, window - places).to(parts.dtype)
    total = hat.new_zeros(frames)
    joined = parts.new_zeros(*parts.shape[1:3], frames, *parts.shape[4:])
    for part, start in zip(parts, starts, strict=True):
        total[start : start + window] += hat
        share = (hat / total[start : start + window]).view(-1, *[1] * (parts.dim() - 4))
        joined[:, :, start : start + window] = torch.lerp(joined[:, :, start : start + window], part, share)
    return joined


def windowed(denoise_at: DenoiseAt, frames: int, window: int, overlap: int, batch: int) -> Denoise:
    """A denoiser of clips, (B, C, frames, *rest), from one of windows, at most ``batch`` of them in a call."""
    firsts = starts(frames, window, overlap)
    validation.whole_number("batch", batch, note=", the windows in one network call")

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        if x_t.shape[2] != frames:
            raise ValueError(f"a clip of {frames} frames is expected, not of {x_t.shape[2]}")
        done = []
        for at in range(0, len(firsts), batch):
            some = firsts[at : at + batch]
            x = torch.cat([x_t[:, :, first : first + window] for first in some])
            done.append(denoise_at(x, t.repeat(len(some)), some).unflatten(0, (len(some), len(t))))
        return blend(torch.cat(done), firsts, frames)

    return denoise
