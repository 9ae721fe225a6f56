"""Preprocessing of recordings: checks, resampling by time stamps, cropping, rotation, gray conversion, resizing."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from echodream import validation
from echodream.errors import Rejected, UserError
from echodream.ingest import burned_in_text
from echodream.ingest.pixels import FLIPS, ROTATIONS, rotate_and_flip
from echodream.ingest.source import CellValue, Video
from echodream.store.schema import FPS_RANGE

_BLACK_LEVEL = 12
"""Largest gray level of a black frame; compression noise is below this level."""
_FROZEN_LEVEL = 1
"""Largest difference in gray levels between a frame and its repetition."""


@dataclass(frozen=True)
class Preprocessing:
    """Settings of the preprocessing of all recordings of a study. Raises ``UserError`` for invalid values."""

    fps: float | None = 32.0
    """Frames per second after resampling. None keeps the frame rate of each recording, except that recordings with a
    variable frame rate are resampled to their nominal rate. Single frames are not resampled."""
    size: tuple[int, int] | int | None = 112
    """Height and width in pixels, or one number for both; None keeps the size of each recording."""
    crop: str = "none"
    """"sector" crops to the bounding box of moving pixels (the ultrasound sector), "none" does not crop."""
    fit: str = "stretch"
    """Fit to the aspect ratio of ``size``: "stretch", "pad" (with black), or "centre" (center crop)."""
    grey: bool = True
    """Whether frames are stored in gray, with one channel, instead of RGB."""
    rotate: int = 0
    """Rotation in degrees counter-clockwise: 0, 90, 180 or 270."""
    flip: str = "none"
    """Flip after the rotation: "horizontal", "vertical" or "none"."""
    max_black: float = 0.5
    """Largest accepted fraction of black frames."""
    max_frozen: float = 0.9
    """Largest accepted fraction of frames that repeat the previous frame."""
    text: str | None = None
    """Treatment of burned-in text, one of ``burned_in_text.TEXT_MODES``; None disables the search for text."""

    def __post_init__(self) -> None:
        if self.size is not None:
            listed = isinstance(self.size, Sequence) and not isinstance(self.size, str)
            size: tuple[Any, ...] = tuple(self.size) if listed else (self.size, self.size)  # type: ignore[arg-type]
            if len(size) != 2 or not all(validation.is_whole(side, 16, 4096) for side in size):
                raise UserError(f"data.size is {self.size!r}; give one number or [height, width], 16 to 4096 pixels")
            object.__setattr__(self, "size", size)
        validation.one_of("data.crop", self.crop, ("none", "sector"))
        validation.one_of("data.fit", self.fit, ("stretch", "pad", "centre"))
        validation.one_of("data.rotate", self.rotate, ROTATIONS)
        validation.one_of("data.flip", self.flip, FLIPS)
        if self.fps is not None:
            validation.frame_rate("data.fps", self.fps, note=", or null to keep each file's own")
        for name in ("max_black", "max_frozen"):
            validation.fraction(f"data.{name}", getattr(self, name))
        validation.true_or_false("data.grey", self.grey)
        if self.text is not None:
            validation.one_of("text", self.text, burned_in_text.TEXT_MODES)
            if not burned_in_text.is_installed():
                raise UserError(f"text={self.text} needs the extra text-check: {burned_in_text.INSTALL_COMMAND}")


@dataclass(frozen=True)
class PreprocessedVideo:
    """Preprocessed frames of a recording."""

    frames: np.ndarray
    """Pixels, uint8, (F, H, W, C)."""
    fps: float
    columns: dict[str, CellValue]
    """Columns ED and ES, frame numbers as text such as "3 35 67", and TextBoxes, the number of text boxes."""


def check_video(video: Video) -> None:
    """Raise ``Rejected`` if shapes, types, times or frame rate of ``video`` are invalid."""
    frames, times = video.frames, np.asarray(video.times)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] not in (1, 3):
        raise Rejected(f"unreadable: frames are {frames.dtype} {frames.shape}, not uint8 (F, H, W, 1 or 3)")
    if times.shape != frames.shape[:1] or not len(times) or times[0] != 0 or not (np.diff(times) > 0).all():
        raise Rejected("unreadable: the times of the frames do not increase from 0, one per frame")
    if not FPS_RANGE[0] <= video.fps <= FPS_RANGE[1]:
        raise Rejected(f"implausible frame rate: {video.fps:g} frames per second")


def preprocess(video: Video, settings: Preprocessing, max_bytes: int = 4_000_000_000) -> PreprocessedVideo:
    """Preprocess ``video``. Raises ``Rejected`` for too many black or frozen frames, or more than ``max_bytes``."""
    check_black_and_frozen(video.frames, settings)
    fps = settings.fps or video.fps
    aspect = 1 / video.pixel_aspect if settings.rotate % 180 else video.pixel_aspect
    raw_size = square_pixel_size(video.frames, video.pixel_aspect)
    height, width = settings.size if isinstance(settings.size, tuple) else raw_size
    uniform = np.linspace(video.times[0], video.times[-1], len(video.times))
    is_uneven = bool(np.abs(video.times - uniform).max() > 1 / fps)
    resampled = len(video.frames) > 1 and (bool(settings.fps) or is_uneven)
    count = (float(video.times[-1]) + 1 / video.fps) * fps if resampled else len(video.frames)
    if count * height * width * (1 if settings.grey else 3) > max_bytes:
        raise Rejected(f"too large: {count:.0f} frames after resampling, the limit is {max_bytes} bytes")
    index = resample_indices(video.times, video.fps, fps) if resampled else np.arange(len(video.frames))
    source_frames, inverse = np.unique(index, return_inverse=True)
    frames = video.frames[source_frames]
    if settings.crop == "sector":
        top, bottom, left, right = motion_bounding_box(video.frames)
        frames = frames[:, top:bottom, left:right]
    columns: dict[str, CellValue] = {}
    if settings.text is not None:
        frames, columns[burned_in_text.TEXT_BOXES_COLUMN] = burned_in_text.apply_text_mode(frames, settings.text)
    frames = rotate_and_flip(frames, settings.rotate, settings.flip)
    size = settings.size if isinstance(settings.size, tuple) else square_pixel_size(frames, aspect)
    frames = resize(convert_color(frames, settings.grey), size, settings.fit, aspect)[inverse]
    for name, times in video.marks.items():
        if resampled:
            last = len(frames) - 1  # a mark on the last raw frame may be later than the last output frame
            numbers = {min(round(time * fps), last) for time in times}
        else:
            numbers = {int(np.abs(video.times - time).argmin()) for time in times}
        columns[name] = " ".join(str(number) for number in sorted(numbers) if 0 <= number < len(frames))
    return PreprocessedVideo(np.ascontiguousarray(frames), fps, columns)


def check_black_and_frozen(frames: np.ndarray, settings: Preprocessing) -> None:
    """Raise ``Rejected`` if too many of ``frames``, (F, H, W, C), are black or repeat the previous frame."""
    black = np.mean([frame.max() <= _BLACK_LEVEL for frame in frames])
    if black > settings.max_black:
        raise Rejected(f"black: {black:.0%} of the frames, the limit is {settings.max_black:.0%}")
    repeats = [int((np.maximum(a, b) - np.minimum(a, b)).max()) <= _FROZEN_LEVEL for a, b in pairwise(frames)]
    frozen = np.mean(repeats or [False])
    if frozen > settings.max_frozen:
        raise Rejected(f"frozen: {frozen:.0%} of the frames repeat the previous one, limit {settings.max_frozen:.0%}")


def resample_indices(times: np.ndarray, source_fps: float, fps: float) -> np.ndarray:
    """Find the source frame nearest in time to each output time k / ``fps``, or the earlier of two nearest frames.

    ``times`` are in seconds, (F,), increasing from 0; the last frame lasts 1 / ``source_fps``. The duration changes by
    at most 0.5 / ``fps``. Returns int, (F_out,).
    """
    duration = float(times[-1]) + 1 / source_fps
    count = max(1, int(np.floor(duration * fps + 0.5)))
    output_times = np.arange(count) / fps
    right = np.clip(np.searchsorted(times, output_times), 1, len(times) - 1) if len(times) > 1 else np.zeros(count, int)
    left = np.maximum(right - 1, 0)
    return np.where(times[right] - output_times < output_times - times[left] - 1e-9, right, left)


def motion_bounding_box(frames: np.ndarray) -> tuple[int, int, int, int]:
    """Find top, bottom, left and right of the pixels that change over ``frames``, (F, H, W, C).

    Rows and columns in which fewer than 2 % of the pixels change are ignored, such as those of a blinking marker.
    """
    moves = (frames.max(axis=0).astype(int) - frames.min(axis=0)).max(axis=-1) > 16
    rows, columns = (np.flatnonzero(moves.mean(axis=axis) >= 0.02) for axis in (1, 0))
    if len(rows) < 16 or len(columns) < 16:
        return 0, frames.shape[1], 0, frames.shape[2]
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def convert_color(frames: np.ndarray, grey: bool) -> np.ndarray:
    """Convert RGB to rounded luma (ITU-R BT.601) if ``grey``, else gray to RGB. Returns uint8, (F, H, W, 1 or 3)."""
    if grey and frames.shape[-1] == 3:
        luma = np.array([0.299, 0.587, 0.114])
        return np.stack([np.rint(frame @ luma).astype(np.uint8)[..., None] for frame in frames])
    return frames if grey or frames.shape[-1] == 3 else np.repeat(frames, 3, axis=-1)


def square_pixel_size(frames: np.ndarray, aspect: float) -> tuple[int, int]:
    """Compute height and width of ``frames``, (F, H, W, C), in square pixels, without reducing a side.

    ``aspect`` is the width of a pixel of ``frames`` divided by its height.
    """
    height, width = frames.shape[1:3]
    return (height, round(width * aspect)) if aspect > 1 else (round(height / aspect), width)


def resize(frames: np.ndarray, size: tuple[int, int], fit: str = "stretch", aspect: float = 1.0) -> np.ndarray:
    """Resize uint8 frames, (F, H, W, C), to ``size`` = (height, width) with an antialiased bicubic filter.

    ``aspect`` is the width of a pixel of ``frames`` divided by its height. Unless ``fit`` is "stretch", output pixels
    are square.
    """
    from PIL import Image

    height, width = frames.shape[1:3]
    if (height, width) == size and (fit == "stretch" or aspect == 1):
        return frames
    if fit == "stretch":
        inner, box = size, (0, 0, width, height)
    else:
        scale = (min if fit == "pad" else max)(size[0] / height, size[1] / (width * aspect))
        inner = (min(size[0], max(1, round(height * scale))), min(size[1], max(1, round(width * aspect * scale))))
        cut_y, cut_x = (height - inner[0] / scale) / 2, (width - inner[1] / (aspect * scale)) / 2
        box = (max(0, cut_x), max(0, cut_y), min(width, width - cut_x), min(height, height - cut_y))
    out = np.zeros((len(frames), *size, frames.shape[3]), np.uint8)
    y, x = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    for target, frame in zip(out, frames, strict=True):
        picture = Image.fromarray(np.ascontiguousarray(frame[..., 0] if frame.shape[-1] == 1 else frame))
        resized = np.asarray(picture.resize((inner[1], inner[0]), Image.Resampling.BICUBIC, box=box))
        target[y : y + inner[0], x : x + inner[1]] = resized.reshape(*inner, -1)
    return out
