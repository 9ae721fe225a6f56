"""Lossless video files, FFV1 in Matroska: writing by PyAV (equal frames give equal bytes), reading by decord."""

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

_BITEXACT_FLAG = 1 << 23
_PIXEL_FORMATS = {1: ("gray", "gray"), 3: ("bgr0", "rgb24")}
"""Number of channels -> FFmpeg's pixel formats in the file and in memory; both conversions are exact."""


def write_video(path: Path, frames: np.ndarray, fps: float) -> None:
    """Write ``frames``, uint8 (F, H, W, C) with C 1 or 3, at ``fps`` frames per second, and verify every pixel.

    Raises ``StoreError`` for an invalid shape, type or frame rate, and if the file does not contain the same pixels.
    """
    import av

    _check_frames(path, frames, fps)
    in_file, in_memory = _PIXEL_FORMATS[frames.shape[3]]
    with av.open(str(path), "w", format="matroska", options={"fflags": "+bitexact"}) as container:
        stream = cast("VideoStream", container.add_stream("ffv1", rate=Fraction(fps).limit_denominator(100_000)))
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], in_file
        stream.codec_context.thread_count = 1
        stream.codec_context.flags |= _BITEXACT_FLAG
        stream.codec_context.options = {"level": "3", "slicecrc": "1", "g": "1"}
        encode_frames(container, stream, frames[..., 0] if in_memory == "gray" else frames, in_memory)
    if not np.array_equal(read_video(path, frames.shape[3]), frames):
        raise StoreError(f"{path.name}: the pixels in the file differ from the frames: install another build of PyAV")


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
        raise StoreError(f"{path.name}: frames are {frames.shape[2]}x{frames.shape[1]}, sides must be 1 to {MAX_SIDE}")
    if not FPS_RANGE[0] <= fps <= FPS_RANGE[1]:
        raise StoreError(f"{path.name}: {fps} frames per second; a store allows {FPS_RANGE[0]:g} to {FPS_RANGE[1]:g}")


def read_video(
    path: Path, channels: int, indices: Sequence[int] | None = None, frames: int | None = None
) -> np.ndarray:
    """Read the frames ``indices`` (default: all) as uint8 (F, H, W, C).

    Raises ``StoreError`` if the file cannot be decoded, or does not contain ``frames`` frames.
    """
    pixels = _read_with_decord(path, indices, frames)
    if pixels is None:
        pixels = _read_with_pyav(path, indices, frames)
    return pixels[..., :channels]


def _read_with_decord(path: Path, indices: Sequence[int] | None, frames: int | None) -> np.ndarray | None:
    """Read the frames ``indices`` by decord, as RGB, uint8 (F, H, W, 3); None reads all frames.

    Returns None if decord is not installed, counts another number of frames than ``frames``, or fails. decord
    fails for some widths (16, 24, 48, 72) and for a single frame.
    """
    os.environ.setdefault("DECORD_DUPLICATE_WARNING_THRESHOLD", "1.0")  # without this variable, decord prints paths
    try:
        import decord
    except (ImportError, OSError):  # decord has no wheel for this machine
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


def _read_with_pyav(path: Path, indices: Sequence[int] | None, frames: int | None) -> np.ndarray:
    """Read the frames ``indices`` by PyAV, gray or RGB; None reads all frames. Raises ``StoreError``."""
    import av

    selected = None if indices is None else set(indices)
    frame_pixels: dict[int, np.ndarray] = {}
    count = 0
    try:
        with _open_container(path) as container:
            for count, frame in enumerate(container.decode(_video_stream(container)), 1):
                if selected is None or count - 1 in selected:
                    is_gray = frame.format.name.startswith("gray")
                    pixels = frame.to_ndarray(format="gray" if is_gray else "rgb24")
                    frame_pixels[count - 1] = pixels[..., None] if is_gray else pixels
    except (av.error.FFmpegError, ValueError, OSError, IndexError) as error:
        raise StoreError(f"{path} cannot be decoded: create the store again") from error
    if frames is not None and count != frames:
        raise StoreError(f"{path} has {count} frames, FileList.csv states {frames}: create the store again")
    order = list(frame_pixels) if indices is None else list(indices)
    if not count or len({frame_pixels[index].shape for index in order if index in frame_pixels}) > 1:
        raise StoreError(f"{path} cannot be decoded: create the store again")
    if missing := [index for index in order if index not in frame_pixels]:
        raise StoreError(f"{path} has no frame {missing[0]}, it has {count} frames")
    return np.stack([frame_pixels[index] for index in order])


def probe_video(path: Path, channels: int) -> tuple[int, int, int]:
    """Number of frames, height and width of a video file, read from the container without decoding.

    Raises ``StoreError`` if the file is not an FFV1 video with ``channels`` channels.
    """
    import av

    try:
        with _open_container(path) as container:
            stream = _video_stream(container)
            codec, pixel_format = stream.codec_context.name, _PIXEL_FORMATS[channels][0]
            if codec != "ffv1" or stream.codec_context.pix_fmt != pixel_format:
                actual = f"{codec} {stream.codec_context.pix_fmt}"
                raise StoreError(f"{path} is {actual}, but a store holds ffv1 {pixel_format}")
            count = sum(packet.size > 0 for packet in container.demux(stream))
            return count, stream.height, stream.width
    except (av.error.FFmpegError, ValueError, OSError, IndexError) as error:
        raise StoreError(f"{path} is not a readable video: create the store again") from error


def _open_container(path: Path) -> "InputContainer":
    """Open a file by PyAV, only as Matroska, because a playlist could make PyAV open other files."""
    import av

    av.logging.set_level(av.logging.PANIC)
    return av.open(str(path.absolute()), format="matroska", options={"max_pixels": str(MAX_SIDE**2)})


def _video_stream(container: "InputContainer") -> "VideoStream":
    """First video stream. Raises ``IndexError`` without a stream, ``ValueError`` without a decoder."""
    stream = container.streams.video[0]
    if stream.codec_context is None:  # decoding without a decoder would crash the interpreter
        raise ValueError("no decoder")
    return stream
