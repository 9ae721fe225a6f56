"""Lossless video files: FFV1 in Matroska, written with PyAV (equal frames give equal bytes), read with decord."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from echodream.store.schema import StoreError

if TYPE_CHECKING:
    from av import VideoStream

_BITEXACT = 1 << 23
_PIXELS = {1: ("gray", "gray"), 3: ("bgr0", "rgb24")}  # channels -> (stored, given): both conversions are exact


def write_video(path: Path, frames: np.ndarray, fps: float) -> None:
    """Write uint8 ``frames``, (F, H, W, C) with C 1 or 3, and read them back to be sure that no pixel changed.

    Raises ``StoreError`` if a pixel did change.
    """
    import av

    stored, given = _PIXELS[frames.shape[3]]
    with av.open(str(path), "w", format="matroska", options={"fflags": "+bitexact"}) as container:
        stream = cast("VideoStream", container.add_stream("ffv1", rate=Fraction(fps).limit_denominator(100_000)))
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], stored
        stream.codec_context.thread_count = 1
        stream.codec_context.flags |= _BITEXACT
        stream.codec_context.options = {"level": "3", "slicecrc": "1", "g": "1"}
        for index, frame in enumerate(np.ascontiguousarray(frames)):
            picture = av.VideoFrame.from_ndarray(frame[..., 0] if given == "gray" else frame, format=given)
            picture.pts = index
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    if not np.array_equal(read_video(path, frames.shape[3]), frames):
        raise StoreError(f"{path.name}: the pixels read back differ from those written; this build of FFmpeg is unfit")


def read_video(
    path: Path, channels: int, indices: Sequence[int] | None = None, frames: int | None = None
) -> np.ndarray:
    """Read the frames at ``indices`` (all by default) as uint8 (F, H, W, C).

    Raises ``StoreError`` when the file cannot be decoded, or does not hold the number of ``frames`` it should.
    """
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(str(path), num_threads=1)
        if frames is not None and len(reader) != frames:
            raise StoreError(f"{path} holds {len(reader)} frames, FileList.csv says {frames}: make the store again")
        pixels = reader.get_batch(list(range(len(reader)) if indices is None else indices)).asnumpy()
    except (decord.DECORDError, RuntimeError, IndexError) as error:
        raise StoreError(f"{path} cannot be decoded: make the store again") from error
    return pixels[..., :channels]


def probe_video(path: Path) -> tuple[int, int, int]:
    """Frames, height and width from the container alone, nothing decoded. Raises ``StoreError``."""
    import av

    av.logging.set_level(av.logging.PANIC)
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise StoreError(f"{path} has no video stream")
            stream = container.streams.video[0]
            count = sum(packet.size > 0 for packet in container.demux(stream))
            return count, stream.height, stream.width
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise StoreError(f"{path} is not a readable video: make the store again") from error
