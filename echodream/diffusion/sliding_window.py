"""Denoising of long clips by a network for short clips, in overlapping windows that are cross-faded at each step."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from echodream import validation
from echodream.diffusion.processes.base import Denoise
from echodream.errors import UserError

ALL, AUTO = "all", "auto"
"""Values of ``windows`` other than numbers: all windows of a clip in one call, or as many as the memory allows."""
CPU_WINDOWS = 8
"""Largest number of windows per call on a CPU, with ``AUTO``; more windows need more memory and are not faster."""
DenoiseWindows = Callable[[Tensor, Tensor, list[int]], Tensor]
"""Function from x (N*B, C, window, *rest), t (N*B,) and start indices of N windows to the prediction for x."""


def window_starts(frames: int, window: int, overlap: int) -> list[int]:
    """Start indices of evenly spaced windows that cover ``frames`` frames, with at least ``overlap`` shared frames."""
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

    The weight of a window decreases linearly from its center to its ends, so that windows are cross-faded linearly. If
    windows are equal, their weighted mean is exactly equal to each window.
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
    denoise_windows: DenoiseWindows, frames: int, window: int, overlap: int, batch: int | str
) -> Denoise:
    """Denoiser of clips (B, C, frames, *rest) from a denoiser of windows, with at most ``batch`` windows per call.

    The windows are distributed over the calls as evenly as possible. With ``AUTO``, a call on a GPU has all windows; if
    the GPU memory is not sufficient, this call and all later calls have at most half as many windows. A call on a CPU
    has at most ``CPU_WINDOWS`` windows.
    """
    starts = window_starts(frames, window, overlap)
    limit = len(starts) if batch in (ALL, AUTO) else check_windows("batch", batch)

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        nonlocal limit
        if x_t.shape[2] != frames:
            raise ValueError(f"a clip has {x_t.shape[2]} frames instead of {frames}")
        if batch == AUTO and x_t.device.type == "cpu":
            limit = min(limit, CPU_WINDOWS)
        while True:
            try:
                predictions = [predict(x_t, t, chunk) for chunk in _split_evenly(starts, limit)]
                return blend_windows(torch.cat(predictions), starts, frames)
            except torch.OutOfMemoryError:
                if batch != AUTO or limit == 1:
                    raise
            limit = math.ceil(limit / 2)

    def predict(x_t: Tensor, t: Tensor, chunk: list[int]) -> Tensor:
        x = torch.cat([x_t[:, :, start : start + window] for start in chunk])
        return denoise_windows(x, t.repeat(len(chunk)), chunk).unflatten(0, (len(chunk), len(t)))

    return denoise


def check_windows(key: str, value: Any) -> Any:
    """Return ``value`` if it is a number of windows, ``ALL`` or ``AUTO``."""
    if value in (ALL, AUTO):
        return value
    return validation.whole_number(key, value, note=f", the number of windows per network call, or {ALL} or {AUTO}")


def _split_evenly(starts: list[int], max_size: int) -> list[list[int]]:
    """Split ``starts`` into the smallest number of lists with at most ``max_size`` entries, of almost equal length."""
    size = math.ceil(len(starts) / math.ceil(len(starts) / max_size))
    return [starts[index : index + size] for index in range(0, len(starts), size)]
