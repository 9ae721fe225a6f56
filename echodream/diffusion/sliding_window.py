"""Clips of any length from a network for short clips: overlapping windows, cross-faded at every sampler step."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from echodream import validation
from echodream.diffusion.processes.base import Denoise
from echodream.errors import UserError

DenoiseWindows = Callable[[Tensor, Tensor, list[int]], Tensor]
"""(x (N*B, C, window, *rest), window by window, t (N*B,), first frames of N windows) to the prediction for x."""


def window_starts(frames: int, window: int, overlap: int) -> list[int]:
    """First frame of each window over ``frames``: evenly spaced, neighbors share at least ``overlap`` frames.

    The windows cover all frames. If ``frames`` is at most ``window``, there is one window, as long as the clip.
    """
    for key, value, least in (("frames", frames, 1), ("window", window, 1), ("overlap", overlap, 0)):
        validation.whole_number(key, value, least)
    if overlap >= window:
        raise UserError(f"overlap={overlap} is not possible with window={window}; give less than the window")
    if frames <= window:
        return [0]
    gaps = math.ceil((frames - window) / (window - overlap))
    return [index * (frames - window) // gaps for index in range(gaps + 1)]


def blend_windows(parts: Tensor, starts: Sequence[int], frames: int) -> Tensor:
    """Windows, (W, B, C, window, *rest), joined to (B, C, frames, *rest) by a weighted mean at each frame.

    The weight of a window decreases linearly from its center to its ends, which cross-fades neighbors linearly over
    their overlap. The mean is updated window by window, so that windows with equal values are returned exactly.
    """
    window = parts.shape[3]
    positions = torch.arange(window, device=parts.device)
    weight = torch.minimum(positions + 1, window - positions).to(parts.dtype)
    total = weight.new_zeros(frames)
    joined = parts.new_zeros(*parts.shape[1:3], frames, *parts.shape[4:])
    for part, start in zip(parts, starts, strict=True):
        total[start : start + window] += weight
        share = (weight / total[start : start + window]).view(-1, *[1] * (parts.dim() - 4))
        joined[:, :, start : start + window] = torch.lerp(joined[:, :, start : start + window], part, share)
    return joined


def sliding_window_denoiser(
    denoise_windows: DenoiseWindows, frames: int, window: int, overlap: int, batch: int
) -> Denoise:
    """Denoiser of clips, (B, C, frames, *rest), from one of windows, with at most ``batch`` windows per call."""
    starts = window_starts(frames, window, overlap)
    validation.whole_number("batch", batch, note=", the windows in one network call")

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        if x_t.shape[2] != frames:
            raise ValueError(f"a clip of {frames} frames is expected, not of {x_t.shape[2]}")
        predictions = []
        for index in range(0, len(starts), batch):
            chunk = starts[index : index + batch]
            x = torch.cat([x_t[:, :, start : start + window] for start in chunk])
            prediction = denoise_windows(x, t.repeat(len(chunk)), chunk)
            predictions.append(prediction.unflatten(0, (len(chunk), len(t))))
        return blend_windows(torch.cat(predictions), starts, frames)

    return denoise
