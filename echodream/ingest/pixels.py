"""From decoded arrays to the frames of a ``Video``: uint8, grey where the material is grey, times that increase."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from echodream.errors import Rejected
from echodream.ingest.source import CellValue, Video

MAX_GAP = 10.0
"""Seconds: a longer pause between two frames is a damaged time stamp, and would be filled with repeated frames."""
FPS_RANGE = (0.5, 1000.0)


def to_uint8(volume: np.ndarray) -> np.ndarray:
    """The whole recording on one scale of 0..255.

    uint8 stays as it is; floats within 0..1 are multiplied by 255; values within 0..255 are rounded; anything else is
    stretched from the recording's minimum to its maximum. Not-a-number and infinity become the minimum.
    """
    if volume.dtype == np.uint8:
        return volume
    if volume.dtype.kind not in "biuf":
        raise Rejected(f"pixels of type {volume.dtype} are not numbers")
    if volume.dtype.kind == "f":
        finite = np.isfinite(volume)
        if not finite.any():
            raise Rejected("unreadable: no pixel is a number")
        if not finite.all():
            volume = np.where(finite, volume, volume[finite].min())
    low, high = float(volume.min()), float(volume.max())
    if low >= 0 and high <= 255:
        unit = 255.0 if volume.dtype.kind == "f" and high <= 1 else 1.0
        return np.stack([np.rint(frame.astype(np.float64) * unit).astype(np.uint8) for frame in volume])
    if not math.isfinite(high - low):
        raise Rejected("unreadable: the pixels span more than a number can hold")
    scale = 255 / (high - low) if high > low else 0.0
    return np.stack([np.rint((frame.astype(np.float64) - low) * scale).astype(np.uint8) for frame in volume])


def collapse_gray(frames: np.ndarray) -> np.ndarray:
    """(F, H, W, 3) with three equal channels, or (F, H, W), as (F, H, W, 1); colour stays (F, H, W, 3)."""
    if frames.ndim == 3:
        return np.ascontiguousarray(frames[..., None])
    if frames.shape[-1] == 3 and all(
        np.array_equal(frame[..., 0], frame[..., 1]) and np.array_equal(frame[..., 0], frame[..., 2])
        for frame in frames
    ):
        frames = frames[..., :1]
    return np.ascontiguousarray(frames)


def check_fps(fps: float) -> float:
    """``fps`` if it is a frame rate at all. Raises ``Rejected``."""
    low, high = FPS_RANGE
    if not (math.isfinite(fps) and low <= fps <= high):
        raise Rejected(f"implausible frame rate: {fps:g} frames per second, {low:g} to {high:g} are taken")
    return fps


def uniform_times(frames: int, fps: float) -> np.ndarray:
    """Times in seconds of ``frames`` frames taken at an even rate."""
    return np.arange(frames, dtype=np.float64) / check_fps(fps)


def make_video(
    frames: np.ndarray,
    times: np.ndarray,
    fps: float,
    columns: Mapping[str, CellValue] | None = None,
    marks: Mapping[str, Sequence[float]] | None = None,
) -> Video:
    """A ``Video`` of uint8 ``frames`` (F, H, W) or (F, H, W, C) taken at ``times``; both are checked.

    Marks beyond the recording's end are left out. Raises ``Rejected``.
    """
    times = np.asarray(times, dtype=np.float64)
    if len(frames) != len(times):
        raise Rejected(f"unreadable: {len(frames)} frames for {len(times)} time stamps")
    gaps = np.diff(times)
    if not (np.isfinite(times).all() and (gaps > 0).all()):
        raise Rejected("the frames' times do not increase")
    if gaps.size and gaps.max() > MAX_GAP:
        raise Rejected(f"implausible times: {gaps.max():.6g} s between two frames, at most {MAX_GAP:g} s are taken")
    end = float(times[-1]) + 1 / check_fps(fps)
    kept = {name: tuple(moment for moment in moments if 0 <= moment < end) for name, moments in (marks or {}).items()}
    kept = {name: moments for name, moments in kept.items() if moments}
    return Video(collapse_gray(frames), times - times[0], fps, dict(columns or {}), kept)


def marks_in_seconds(times: np.ndarray, frames: Mapping[str, Sequence[int]]) -> dict[str, tuple[float, ...]]:
    """Frame numbers (from 0) as moments in seconds; numbers outside the recording are left out."""
    return {
        name: tuple(float(times[number]) for number in numbers if 0 <= number < len(times))
        for name, numbers in frames.items()
    }
