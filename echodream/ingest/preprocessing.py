"""From the frames of a raw file to those of a store: checked, resampled by time stamp, cropped, turned, resized."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from echodream import validation
from echodream.errors import Rejected, UserError
from echodream.ingest.source import CellValue, Video
from echodream.store.schema import FPS_RANGE

_DARK = 12  # grey levels: nothing above it is a black frame; compression noise stays below
_STILL = 1  # grey levels: two frames that differ by no more anywhere are the same frame


@dataclass(frozen=True)
class Preprocessing:
    """What every recording of a study is brought to."""

    fps: float | None = 32.0
    """Frames per second; None keeps each recording's own. A single frame stays one."""
    size: tuple[int, int] | int | None = 112
    """Height and width in pixels, or one number for both; None keeps each recording's own."""
    crop: str = "none"
    """``sector`` cuts to the bounding box of what moves (the ultrasound sector), ``none`` keeps the frame."""
    fit: str = "stretch"
    """How another aspect ratio meets ``size``: ``stretch``, ``pad`` (black), or ``centre`` (cut)."""
    grey: bool = True
    rotate: int = 0
    """Degrees anticlockwise: 0, 90, 180 or 270."""
    flip: str = "none"
    """``horizontal``, ``vertical`` or ``none``; after the rotation."""
    max_black: float = 0.5
    """Reject when more than this share of the frames is black."""
    max_frozen: float = 0.9
    """Reject when more than this share of the frames repeats the one before."""

    def __post_init__(self) -> None:
        if self.size is not None:
            listed = isinstance(self.size, Sequence) and not isinstance(self.size, str)
            size: tuple[Any, ...] = tuple(self.size) if listed else (self.size, self.size)  # type: ignore[arg-type]
            if len(size) != 2 or not all(validation.is_whole(side, 16, 4096) for side in size):
                raise UserError(
                    f"data.size is {self.size!r}; give one number or [height, width], from 16 to 4096 pixels"
                )
            object.__setattr__(self, "size", size)
        validation.one_of("data.crop", self.crop, ("none", "sector"))
        validation.one_of("data.fit", self.fit, ("stretch", "pad", "centre"))
        validation.one_of("data.rotate", self.rotate, (0, 90, 180, 270))
        validation.one_of("data.flip", self.flip, ("none", "horizontal", "vertical"))
        if self.fps is not None:
            validation.frame_rate("data.fps", self.fps, note=", or null to keep each file's own")
        for name in ("max_black", "max_frozen"):
            validation.share(f"data.{name}", getattr(self, name))
        validation.true_or_false("data.grey", self.grey)


@dataclass(frozen=True)
class PreprocessedVideo:
    """Frames ready for a store."""

    frames: np.ndarray
    """uint8, (F, H, W, C)."""
    fps: float
    marks: dict[str, CellValue]
    """Frame numbers as text, ``"3 35 67"``, by column name."""


def check_video(video: Video) -> None:
    """Raise ``Rejected`` when ``video`` is not what ``Source.read`` promises: a reader's slip costs one recording."""
    frames, times = video.frames, np.asarray(video.times)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] not in (1, 3):
        raise Rejected(f"unreadable: frames are {frames.dtype} {frames.shape}, not uint8 (F, H, W, 1 or 3)")
    if times.shape != frames.shape[:1] or not len(times) or times[0] != 0 or not (np.diff(times) > 0).all():
        raise Rejected("unreadable: the frames' times do not increase from 0, one for each frame")
    if not FPS_RANGE[0] <= video.fps <= FPS_RANGE[1]:
        raise Rejected(f"implausible frame rate: {video.fps:g} frames per second")


def preprocess(video: Video, settings: Preprocessing, max_bytes: int = 4_000_000_000) -> PreprocessedVideo:
    """Bring ``video`` to ``settings``. Raises ``Rejected`` for black or frozen material, and when the result of
    resampling would be larger than ``max_bytes``."""
    check_black_and_frozen(video.frames, settings)
    fps = settings.fps or video.fps
    height, width = settings.size if isinstance(settings.size, tuple) else video.frames.shape[1:3]
    resampled = bool(settings.fps) and len(video.frames) > 1
    count = (float(video.times[-1]) + 1 / video.fps) * fps if resampled else len(video.frames)
    if count * height * width * (1 if settings.grey else 3) > max_bytes:
        raise Rejected(f"too large: {count:.0f} frames after resampling, at most {max_bytes} bytes are taken")
    index = resample_indices(video.times, video.fps, fps) if resampled else np.arange(len(video.frames))
    used, back = np.unique(index, return_inverse=True)
    frames = video.frames[used]
    if settings.crop == "sector":
        top, bottom, left, right = motion_bounding_box(video.frames)
        frames = frames[:, top:bottom, left:right]
    frames = np.rot90(frames, settings.rotate // 90, axes=(1, 2))
    if settings.flip != "none":
        frames = np.flip(frames, axis=2 if settings.flip == "horizontal" else 1)
    frames = resize(convert_color(frames, settings.grey), settings.size, settings.fit)[back]
    marks: dict[str, CellValue] = {}
    for name, moments in video.marks.items():
        if resampled:
            last = len(frames) - 1  # a mark on the last raw frame may lie beyond the last output frame's start
            found = {min(round(moment * fps), last) for moment in moments}
        else:
            found = {int(np.abs(video.times - moment).argmin()) for moment in moments}
        marks[name] = " ".join(str(frame) for frame in sorted(found) if 0 <= frame < len(frames))
    return PreprocessedVideo(np.ascontiguousarray(frames), fps, marks)


def check_black_and_frozen(frames: np.ndarray, settings: Preprocessing) -> None:
    """Raise ``Rejected`` when ``frames``, (F, H, W, C), are mostly black or mostly one still picture."""
    black = np.mean([frame.max() <= _DARK for frame in frames])
    if black > settings.max_black:
        raise Rejected(f"black: {black:.0%} of the frames, at most {settings.max_black:.0%} are taken")
    still = [int((np.maximum(a, b) - np.minimum(a, b)).max()) <= _STILL for a, b in pairwise(frames)]
    frozen = np.mean(still or [False])
    if frozen > settings.max_frozen:
        raise Rejected(
            f"frozen: {frozen:.0%} of the frames repeat the one before, at most {settings.max_frozen:.0%} may"
        )


def resample_indices(times: np.ndarray, source_fps: float, fps: float) -> np.ndarray:
    """For each output frame at k / ``fps``, the source frame nearest in time (the earlier one of two equally near).

    ``times`` are in seconds, (F,), increasing from 0; the last frame lasts 1 / ``source_fps``. The duration is kept to
    within half an output frame. Returns int, (F_out,).
    """
    duration = float(times[-1]) + 1 / source_fps
    count = max(1, int(np.floor(duration * fps + 0.5)))
    moments = np.arange(count) / fps
    right = np.clip(np.searchsorted(times, moments), 1, len(times) - 1) if len(times) > 1 else np.zeros(count, int)
    left = np.maximum(right - 1, 0)
    return np.where(times[right] - moments < moments - times[left] - 1e-9, right, left)


def motion_bounding_box(frames: np.ndarray) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of what changes over ``frames``, (F, H, W, C): text and rulers stand still.

    Rows and columns count when at least 2 % of their pixels move, so that a blinking marker does not widen the box.
    """
    moves = (frames.max(axis=0).astype(int) - frames.min(axis=0)).max(axis=-1) > 16
    rows, columns = (np.flatnonzero(moves.mean(axis=axis) >= 0.02) for axis in (1, 0))
    if len(rows) < 16 or len(columns) < 16:
        return 0, frames.shape[1], 0, frames.shape[2]
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def convert_color(frames: np.ndarray, grey: bool) -> np.ndarray:
    """Luma of RGB (ITU-R BT.601, rounded), or grey repeated to RGB: uint8 (F, H, W, 1 or 3)."""
    if grey and frames.shape[-1] == 3:
        return np.stack([np.rint(frame @ np.array([0.299, 0.587, 0.114])).astype(np.uint8) for frame in frames])[
            ..., None
        ]
    return frames if grey or frames.shape[-1] == 3 else np.repeat(frames, 3, axis=-1)


def resize(frames: np.ndarray, size: "tuple[int, int] | int | None", fit: str = "stretch") -> np.ndarray:
    """Resize uint8 (F, H, W, C) to ``size`` = (height, width) with an antialiased bicubic filter."""
    from PIL import Image

    if size is None or tuple(frames.shape[1:3]) == size:
        return frames
    assert isinstance(size, tuple)
    height, width = frames.shape[1:3]
    if fit == "stretch":
        inner, box = size, (0, 0, width, height)
    else:
        scale = (min if fit == "pad" else max)(size[0] / height, size[1] / width)
        inner = (min(size[0], max(1, round(height * scale))), min(size[1], max(1, round(width * scale))))
        cut_y, cut_x = (height - inner[0] / scale) / 2, (width - inner[1] / scale) / 2
        box = (max(0, cut_x), max(0, cut_y), min(width, width - cut_x), min(height, height - cut_y))
    out = np.zeros((len(frames), *size, frames.shape[3]), np.uint8)
    y, x = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    for target, frame in zip(out, frames, strict=True):
        picture = Image.fromarray(np.ascontiguousarray(frame[..., 0] if frame.shape[-1] == 1 else frame))
        small = np.asarray(picture.resize((inner[1], inner[0]), Image.Resampling.BICUBIC, box=box))
        target[y : y + inner[0], x : x + inner[1]] = small[..., None] if small.ndim == 2 else small
    return out
