"""Converts decoded arrays to a ``Video`` with uint8 frames, which are gray if all channels are equal."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from echodream.errors import Rejected
from echodream.ingest.source import CellValue, Video

MAX_FRAME_GAP = 10.0
"""Longest accepted time between two frames in seconds; resampling repeats frames to fill gaps."""
FPS_RANGE = (0.5, 1000.0)
ROTATIONS = (0, 90, 180, 270)
FLIPS = ("none", "horizontal", "vertical")


def to_uint8(volume: np.ndarray, declared_range: tuple[float, float] | None = None) -> np.ndarray:
    """Convert the pixels of a recording to uint8 with one scale for all frames. Raises ``Rejected``.

    uint8 pixels are unchanged. Floats within 0..1 are multiplied by 255, and values within 0..255 are rounded. Floats
    may exceed 0..1 or 0..255 by a tenth, for example after interpolation. Other values are scaled linearly from
    ``declared_range``, or else from the range of the recording. NaN and infinity become the smallest finite value.
    """
    if volume.dtype == np.uint8:
        return volume
    if volume.dtype.kind not in "biuf":
        raise Rejected(f"pixels of type {volume.dtype} are not numbers")
    tolerance = 0.0
    if volume.dtype.kind == "f":
        tolerance = 0.1
        finite = np.isfinite(volume)
        if not finite.any():
            raise Rejected("unreadable: no pixel is a number")
        if not finite.all():
            volume = np.where(finite, volume, volume[finite].min())
    low, high = float(volume.min()), float(volume.max())
    if low >= -tolerance * high:
        if tolerance and high <= 1 + tolerance:
            return scale_to_uint8(volume, 0, 1)
        if high <= 255 * (1 + tolerance):
            return scale_to_uint8(volume, 0, 255)
    if not math.isfinite(high - low):
        raise Rejected("unreadable: the range of the pixel values exceeds floating point")
    return scale_to_uint8(volume, *(declared_range or (low, high)))


def scale_to_uint8(volume: np.ndarray, low: float, high: float) -> np.ndarray:
    """Scale ``volume``, (F, ...), linearly from ``low``..``high`` to 0..255, clip, and round to uint8."""
    scale = 255 / (high - low) if high > low else 0.0
    scaled = ((frame.astype(np.float64) - low) * scale for frame in volume)
    return np.stack([np.rint(np.clip(frame, 0, 255)).astype(np.uint8) for frame in scaled])


def blend_over_black(pixels: np.ndarray) -> np.ndarray:
    """Blend uint8 gray and alpha, (H, W, 2), or RGBA, (H, W, 4), over black. Returns (H, W) or (H, W, 3).

    The color of transparent pixels is removed, because transparent pixels may hide a text or a face.
    """
    blended = np.rint(pixels[..., :-1] * (pixels[..., -1:] / 255)).astype(np.uint8)
    return blended[..., 0] if blended.shape[-1] == 1 else blended


def collapse_gray(frames: np.ndarray) -> np.ndarray:
    """Convert gray frames, (F, H, W) or with three equal channels, to (F, H, W, 1); color frames are unchanged."""
    if frames.ndim == 3:
        frames = frames[..., None]
    elif frames.shape[-1] == 3 and all((frame == frame[..., :1]).all() for frame in frames):
        frames = frames[..., :1]
    return np.ascontiguousarray(frames)


def rotate_and_flip(frames: np.ndarray, rotate: int, flip: str) -> np.ndarray:
    """Rotate frames, (F, H, W[, C]), counter-clockwise by ``rotate`` degrees, then flip them (``FLIPS``)."""
    frames = np.rot90(frames, rotate // 90, axes=(1, 2))
    return frames if flip == "none" else np.flip(frames, axis=2 if flip == "horizontal" else 1)


def check_fps(fps: float) -> float:
    """Return ``fps``. Raises ``Rejected`` if ``fps`` is an implausible frame rate."""
    low, high = FPS_RANGE
    if not (math.isfinite(fps) and low <= fps <= high):
        raise Rejected(f"implausible frame rate: {fps:g} frames per second, {low:g} to {high:g} are accepted")
    return fps


def uniform_times(frames: int, fps: float) -> np.ndarray:
    """Compute the times of ``frames`` frames at a constant frame rate, in seconds, float64, (F,)."""
    return np.arange(frames, dtype=np.float64) / check_fps(fps)


def make_video(
    frames: np.ndarray,
    times: np.ndarray,
    fps: float,
    columns: Mapping[str, CellValue] | None = None,
    marks: Mapping[str, Sequence[float]] | None = None,
) -> Video:
    """Build a ``Video`` of uint8 ``frames``, (F, H, W) or (F, H, W, C), at ``times`` in seconds, (F,).

    Marks outside the recording are removed. Raises ``Rejected`` for invalid times or frame rates.
    """
    times = np.asarray(times, dtype=np.float64)
    if len(frames) != len(times):
        raise Rejected(f"unreadable: {len(frames)} frames for {len(times)} time stamps")
    gaps = np.diff(times)
    if not (np.isfinite(times).all() and (gaps > 0).all()):
        raise Rejected("the times of the frames do not increase")
    if gaps.size and gaps.max() > MAX_FRAME_GAP:
        raise Rejected(f"implausible times: {gaps.max():.6g} s between two frames, the limit is {MAX_FRAME_GAP:g} s")
    end = float(times[-1]) + 1 / check_fps(fps)
    inside = {name: tuple(time for time in seconds if 0 <= time < end) for name, seconds in (marks or {}).items()}
    inside = {name: seconds for name, seconds in inside.items() if seconds}
    return Video(collapse_gray(frames), times - times[0], fps, dict(columns or {}), inside)


def convert_marks_to_seconds(times: np.ndarray, frames: Mapping[str, Sequence[int]]) -> dict[str, tuple[float, ...]]:
    """Convert ED and ES from frame numbers, which start at 0, to seconds; remove frames outside the recording."""
    inside = {name: [number for number in numbers if 0 <= number < len(times)] for name, numbers in frames.items()}
    return {name: tuple(times[numbers].tolist()) for name, numbers in inside.items() if numbers}
