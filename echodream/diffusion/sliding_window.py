"""Denoising of long clips by a network for short clips, in overlapping windows that are cross-faded at each step."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from echodream import validation
from echodream.diffusion.processes.base import Denoise
from echodream.errors import UserError

DenoiseWindows = Callable[[Tensor, Tensor, list[int]], Tensor]
"""Function from x (N*B, C, window, *rest), t (N*B,) and the first frames of N windows to the prediction for x."""


def window_starts(frames: int, window: int, overlap: int) -> list[int]:
    """First frames of evenly spaced windows that cover ``frames`` frames and overlap by at least ``overlap`` frames."""
    for key, value, least in (("frames", frames, 1), ("window", window, 1), ("overlap", overlap, 0)):
        validation.whole_number(key, value, least)
    if overlap >= window:
        raise UserError(f"overlap={overlap} is too large for window={window}: give less than the window")
    if frames <= window:
        return [0]
    gaps = math.ceil((frames - window) / (window - overlap))
    return [index * (frames - window) // gaps for index in range(gaps + 1)]


def blend_windows(windows: Tensor, starts: Sequence[int], frames: int) -> Tensor:
    """Join ``windows``, (W, B, C, window, *rest), to clips, (B, C, frames, *rest), by a weighted mean at each frame.

    The weight of a window decreases linearly from its center to its ends, so that windows are cross-faded linearly. The
    running mean returns equal windows exactly.
    """
    window = windows.shape[3]
    positions = torch.arange(window, device=windows.device)
    weight = torch.minimum(positions + 1, window - positions).to(windows.dtype)
    total = weight.new_zeros(frames)
    clips = windows.new_zeros(*windows.shape[1:3], frames, *windows.shape[4:])
    for values, start in zip(windows, starts, strict=True):
        total[start : start + window] += weight
        share = (weight / total[start : start + window]).view(-1, *[1] * (windows.dim() - 4))
        clips[:, :, start : start + window] = torch.lerp(clips[:, :, start : start + window], values, share)
    return clips


def sliding_window_denoiser(
    denoise_windows: DenoiseWindows, frames: int, window: int, overlap: int, batch: int
) -> Denoise:
    """Denoiser of clips (B, C, frames, *rest) from a denoiser of windows, with at most ``batch`` windows per call.

    The calls have as equal numbers of windows as possible.
    """
    starts = window_starts(frames, window, overlap)
    validation.whole_number("batch", batch, note=", the windows in one network call")
    size = math.ceil(len(starts) / math.ceil(len(starts) / batch))
    chunks = [starts[index : index + size] for index in range(0, len(starts), size)]

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        if x_t.shape[2] != frames:
            raise ValueError(f"a clip has {x_t.shape[2]} frames instead of {frames}")
        predictions = []
        for chunk in chunks:
            x = torch.cat([x_t[:, :, start : start + window] for start in chunk])
            prediction = denoise_windows(x, t.repeat(len(chunk)), chunk)
            predictions.append(prediction.unflatten(0, (len(chunk), len(t))))
        return blend_windows(torch.cat(predictions), starts, frames)

    return denoise
