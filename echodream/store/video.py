"""Lossless video files: FFV1 in Matroska, written with PyAV (equal frames give equal bytes), read with decord."""

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from echodream.store.schema import FPS_RANGE, MAX_SIDE, StoreError

if TYPE_CHECKING:
    from av import VideoStream
    from av.container import InputContainer, OutputContainer

_BITEXACT = 1 << 23
_PIXEL_FORMATS = {1: ("gray", "gray"), 3: ("bgr0", "rgb24")}
"""Channels -> FFmpeg's pixel format in the file and in memory; both conversions are exact."""


def write_video(path: Path, frames: np.ndarray, fps: float) -> None:
    """Write ``frames``, uint8 (F, H, W, C) with C 1 or 3, at ``fps`` frames per second, and verify every pixel.

    Raises ``StoreError`` for another shape or type, a frame rate out of range, or pixels that differ when read back.
    """
    import av

    _check_frames(path, frames, fps)
    in_file, in_memory = _PIXEL_FORMATS[frames.shape[3]]
    with av.open(str(path), "w", format="matroska", options={"fflags": "+bitexact"}) as container:
        stream = cast("VideoStream", container.add_stream("ffv1", rate=Fraction(fps).limit_denominator(100_000)))
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], in_file
        stream.codec_context.thread_count = 1
        stream.codec_context.flags |= _BITEXACT
        stream.codec_context.options = {"level": "3", "slicecrc": "1", "g": "1"}
        encode_frames(container, stream, frames[..., 0] if in_memory == "gray" else frames, in_memory)
    if not np.array_equal(read_video(path, frames.shape[3]), frames):
        raise StoreError(f"{path.name}: the pixels read back differ from those written: install another build of PyAV")


def encode_frames(container: "OutputContainer", stream: "VideoStream", frames: np.ndarray, pixel_format: str) -> None:
    """Encode ``frames``, uint8 (F, H, W) for ``pixel_format`` "gray", (F, H, W, 3) for "rgb24", into a PyAV stream."""
    import av

    for index, frame in enumerate(frames):
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format=pixel_format)
        picture.pts = index
        container.mux(stream.encode(picture))
    container.mux(stream.encode(None))


def _check_frames(path: Path, frames: np.ndarray, fps: float) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] not in _PIXEL_FORMATS or not len(frames):
        raise StoreError(f"{path.name}: frames are {frames.dtype} {frames.shape}, not uint8 (F, H, W, 1 or 3)")
    if not all(1 <= side <= MAX_SIDE for side in frames.shape[1:3]):
        raise StoreError(f"{path.name}: frames are {frames.shape[2]}x{frames.shape[1]}, a side has 1 to {MAX_SIDE}")
    if not FPS_RANGE[0] <= fps <= FPS_RANGE[1]:
        raise StoreError(f"{path.name}: {fps} frames per second, a store holds {FPS_RANGE[0]:g} to {FPS_RANGE[1]:g}")


def read_video(
    path: Path, channels: int, indices: Sequence[int] | None = None, frames: int | None = None
) -> np.ndarray:
    """Read the frames ``indices`` (default: all) as uint8 (F, H, W, C).

    Raises ``StoreError`` when the file cannot be decoded, or does not hold ``frames`` frames.
    """
    pixels = decord_frames(path, indices, frames)
    if pixels is None:
        pixels = _pyav_frames(path, indices, frames)
    return pixels[..., :channels]


def decord_frames(path: Path, indices: Sequence[int] | None, frames: int | None) -> np.ndarray | None:
    """The frames ``indices`` (None: all) as RGB, uint8 (F, H, W, 3), decoded by decord.

    None if decord is not installed, finds another number than ``frames``, or fails, as it does for some widths (16, 24,
    48, 72) and for a single frame.
    """
    os.environ.setdefault("DECORD_DUPLICATE_WARNING_THRESHOLD", "1.0")  # otherwise it prints the path of damaged files
    try:
        import decord
    except (ImportError, OSError):  # there is no wheel for this machine
        return None
    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(str(path.absolute()), num_threads=1)
        if frames is not None and len(reader) != frames:
            return None
        batch: np.ndarray = reader.get_batch(list(range(len(reader)) if indices is None else indices)).asnumpy()
    except (decord.DECORDError, decord.DECORDLimitReachedError, RuntimeError, ValueError, IndexError, StopIteration):
        return None
    return batch


def _pyav_frames(path: Path, indices: Sequence[int] | None, frames: int | None) -> np.ndarray:
    """The frames ``indices`` (None: all), gray or RGB, by PyAV, which decodes the whole file. Raises ``StoreError``."""
    import av

    selected = None if indices is None else set(indices)
    frame_pixels: dict[int, np.ndarray] = {}
    count = 0
    try:
        with _open_container(path) as container:
            for count, frame in enumerate(container.decode(_video_stream(container)), 1):
                if selected is None or count - 1 in selected:
                    gray = frame.format.name.startswith("gray")
                    pixels = frame.to_ndarray(format="gray" if gray else "rgb24")
                    frame_pixels[count - 1] = pixels[..., None] if gray else pixels
    except (av.error.FFmpegError, ValueError, OSError, IndexError) as error:
        raise StoreError(f"{path} cannot be decoded: create the store again") from error
    if frames is not None and count != frames:
        raise StoreError(f"{path} holds {count} frames, FileList.csv states {frames}: create the store again")
    order = list(frame_pixels) if indices is None else list(indices)
    if not count or len({frame_pixels[index].shape for index in order if index in frame_pixels}) > 1:
        raise StoreError(f"{path} cannot be decoded: create the store again")
    if missing := [index for index in order if index not in frame_pixels]:
        raise StoreError(f"{path} has no frame {missing[0]}, it holds {count}")
    return np.stack([frame_pixels[index] for index in order])


def probe_video(path: Path, channels: int | None = None) -> tuple[int, int, int]:
    """Number of frames, height and width of a video file, from the container, without decoding frames.

    Raises ``StoreError`` when the file is not an FFV1 video with ``channels`` channels.
    """
    import av

    try:
        with _open_container(path) as container:
            stream = _video_stream(container)
            stored, expected = stream.codec_context.pix_fmt, _PIXEL_FORMATS[channels][0] if channels else None
            if stream.codec_context.name != "ffv1" or expected not in (None, stored):
                found = f"{stream.codec_context.name} {stored}"
                raise StoreError(f"{path} is {found}, but a store holds ffv1 {expected or ''}".rstrip())
            count = sum(packet.size > 0 for packet in container.demux(stream))
            return count, stream.height, stream.width
    except (av.error.FFmpegError, ValueError, OSError, IndexError) as error:
        raise StoreError(f"{path} is not a readable video: create the store again") from error


def _open_container(path: Path) -> "InputContainer":
    """Open a file with PyAV, as Matroska only: a playlist could make the reader open other files."""
    import av

    av.logging.set_level(av.logging.PANIC)
    return av.open(str(path.absolute()), format="matroska", options={"max_pixels": str(MAX_SIDE**2)})


def _video_stream(container: "InputContainer") -> "VideoStream":
    """The first video stream. Raises ``IndexError`` when there is none, ``ValueError`` when it has no decoder."""
    stream = container.streams.video[0]
    if stream.codec_context is None:  # decoding such a stream would crash the interpreter
        raise ValueError("no decoder")
    return stream
