"""Converts decoded arrays to a ``Video``: uint8 frames, gray if all channels are equal, and increasing times."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from echodream.errors import Rejected
from echodream.ingest.source import CellValue, Video

MAX_GAP = 10.0
"""Longest accepted time between two frames in seconds: resampling would fill a longer gap with repeated frames."""
FPS_RANGE = (0.5, 1000.0)
ROTATIONS = (0, 90, 180, 270)
FLIPS = ("none", "horizontal", "vertical")


def to_uint8(volume: np.ndarray, declared: tuple[float, float] | None = None) -> np.ndarray:
    """Convert the pixels of a recording to uint8 with one scale for all frames. Raises ``Rejected``.

    uint8 is unchanged; floats within 0..1 are multiplied by 255; values within 0..255 are rounded; other values are
    scaled linearly from the ``declared`` range, or else from the minimum to the maximum of the recording. Floats may
    leave 0..1 or 0..255 by a tenth, as after interpolation, and are clipped. NaN and infinity become the minimum.
    """
    if volume.dtype == np.uint8:
        return volume
    if volume.dtype.kind not in "biuf":
        raise Rejected(f"pixels of type {volume.dtype} are not numbers")
    slack = 0.0
    if volume.dtype.kind == "f":
        slack = 0.1
        finite = np.isfinite(volume)
        if not finite.any():
            raise Rejected("unreadable: no pixel is a number")
        if not finite.all():
            volume = np.where(finite, volume, volume[finite].min())
    low, high = float(volume.min()), float(volume.max())
    if low >= -slack * high:
        if slack and high <= 1 + slack:
            return scale_to_uint8(volume, 0, 1)
        if high <= 255 * (1 + slack):
            return scale_to_uint8(volume, 0, 255)
    if not math.isfinite(high - low):
        raise Rejected("unreadable: the pixels span more than a number can hold")
    return scale_to_uint8(volume, *(declared or (low, high)))


def scale_to_uint8(volume: np.ndarray, low: float, high: float) -> np.ndarray:
    """Scale ``volume``, (F, ...), linearly from ``low``..``high`` to 0..255, with clipping and rounding: uint8."""
    scale = 255 / (high - low) if high > low else 0.0
    scaled = ((frame.astype(np.float64) - low) * scale for frame in volume)
    return np.stack([np.rint(np.clip(frame, 0, 255)).astype(np.uint8) for frame in scaled])


def blend_over_black(pixels: np.ndarray) -> np.ndarray:
    """uint8 gray and alpha, (H, W, 2), or RGBA, (H, W, 4), as gray, (H, W), or RGB, (H, W, 3), on a black background.

    A text or face below a transparent pixel is still in the file; it does not come into the result.
    """
    blended = np.rint(pixels[..., :-1] * (pixels[..., -1:] / 255)).astype(np.uint8)
    return blended[..., 0] if blended.shape[-1] == 1 else blended


def collapse_gray(frames: np.ndarray) -> np.ndarray:
    """Frames as (F, H, W, 1) if they are (F, H, W) or have three equal channels; else (F, H, W, 3), unchanged."""
    if frames.ndim == 3:
        frames = frames[..., None]
    elif frames.shape[-1] == 3 and all((frame == frame[..., :1]).all() for frame in frames):
        frames = frames[..., :1]
    return np.ascontiguousarray(frames)


def rotate_and_flip(frames: np.ndarray, rotate: int, flip: str) -> np.ndarray:
    """Rotate frames, (F, H, W[, C]), counter-clockwise by ``rotate`` of ``ROTATIONS`` degrees, then ``flip`` them."""
    frames = np.rot90(frames, rotate // 90, axes=(1, 2))
    return frames if flip == "none" else np.flip(frames, axis=2 if flip == "horizontal" else 1)


def check_fps(fps: float) -> float:
    """``fps``, if it is a plausible frame rate. Raises ``Rejected``."""
    low, high = FPS_RANGE
    if not (math.isfinite(fps) and low <= fps <= high):
        raise Rejected(f"implausible frame rate: {fps:g} frames per second, {low:g} to {high:g} are accepted")
    return fps


def uniform_times(frames: int, fps: float) -> np.ndarray:
    """Times in seconds of ``frames`` frames at a constant frame rate: float64, (F,)."""
    return np.arange(frames, dtype=np.float64) / check_fps(fps)


def make_video(
    frames: np.ndarray,
    times: np.ndarray,
    fps: float,
    columns: Mapping[str, CellValue] | None = None,
    marks: Mapping[str, Sequence[float]] | None = None,
) -> Video:
    """A ``Video`` of uint8 ``frames``, (F, H, W) or (F, H, W, C), at ``times`` in seconds, (F,), after checking both.

    Marks outside the recording are dropped. Raises ``Rejected``.
    """
    times = np.asarray(times, dtype=np.float64)
    if len(frames) != len(times):
        raise Rejected(f"unreadable: {len(frames)} frames for {len(times)} time stamps")
    gaps = np.diff(times)
    if not (np.isfinite(times).all() and (gaps > 0).all()):
        raise Rejected("the times of the frames do not increase")
    if gaps.size and gaps.max() > MAX_GAP:
        raise Rejected(f"implausible times: {gaps.max():.6g} s between two frames, the limit is {MAX_GAP:g} s")
    end = float(times[-1]) + 1 / check_fps(fps)
    kept = {name: tuple(moment for moment in moments if 0 <= moment < end) for name, moments in (marks or {}).items()}
    kept = {name: moments for name, moments in kept.items() if moments}
    return Video(collapse_gray(frames), times - times[0], fps, dict(columns or {}), kept)


def convert_marks_to_seconds(times: np.ndarray, frames: Mapping[str, Sequence[int]]) -> dict[str, tuple[float, ...]]:
    """Convert marks from frame numbers (from 0) to seconds; numbers outside the recording are dropped."""
    return {
        name: tuple(float(times[number]) for number in numbers if 0 <= number < len(times))
        for name, numbers in frames.items()
    }
