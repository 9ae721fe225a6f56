"""Decodes video files, GIFs and numbered images to a ``Video``. Headers are checked before frames are decoded."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from echodream.errors import Rejected
from echodream.ingest.pixels import check_fps, make_video, to_uint8, uniform_times
from echodream.ingest.source import Limits, Video
from echodream.store.video import decord_frames

if TYPE_CHECKING:
    from av.container import InputContainer
    from PIL.Image import Image

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mpeg", ".mpg", ".mkv", ".webm", ".m4v", ".wmv")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,avi,mpeg,mpegts,mpegvideo,h264,hevc,m4v,matroska,webm,asf,flv"
_GRAY_FORMATS = ("gray", "ya", "mono")
_ORIENTATION = 0x0112
_GIF_DEFAULT = 0.1
"""Duration in seconds of a GIF frame without a stated duration, as in browsers."""


@dataclass(frozen=True)
class _Header:
    """Properties of a video file that are known without decoding."""

    width: int
    height: int
    pixel_format: str
    pts: list[float | None]
    """Time stamps in seconds, one per frame, in the order of the file."""
    rate: float | None


def read_video_file(path: Path, limits: Limits, fps: float | None = None) -> Video:
    """Decode a video file with decord, or with PyAV for gray pixel formats and when decord fails.

    Times are the time stamps of the file. If these are missing or do not increase, times are frame number / average
    frame rate. ``fps`` replaces both. Raises ``Rejected`` when the file is truncated or damaged.
    """
    header = _read_header(path, limits)
    frames, pts = None, header.pts
    if not header.pixel_format.startswith(_GRAY_FORMATS):
        frames = decord_frames(path, None, len(header.pts))
    if frames is None:
        frames, pts = _pyav_frames(path, header, limits)
    if fps is not None:
        return make_video(frames, uniform_times(len(frames), fps), fps)
    times = _frame_times(pts, header.rate)
    return make_video(frames, times, _frame_rate(times, header.rate))


def _open_container(path: Path, limits: Limits) -> "InputContainer":
    """Open a file with PyAV, as a video container only: a playlist could make the reader open other files."""
    import av

    av.logging.set_level(av.logging.PANIC)
    options = {"format_whitelist": _CONTAINERS, "max_pixels": str(limits.max_side**2)}
    return av.open(str(path.absolute()), options=options)


def _read_header(path: Path, limits: Limits) -> _Header:
    import av

    try:
        with _open_container(path, limits) as container:
            if not container.streams.video:
                raise Rejected("unreadable: no video stream")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise Rejected("unreadable: no decoder for the video stream")
            width, height = stream.width, stream.height
            limits.check(max(stream.frames, limits.min_frames), height, width)
            pts, skipped = _packet_times(container, limits)
            announced, name = stream.frames - skipped, container.format.name
            rate = next((float(r) for r in (stream.average_rate, stream.guessed_rate, stream.base_rate) if r), None)
            pixel_format = stream.codec_context.pix_fmt or ""
    except (av.error.FFmpegError, OSError, ValueError, OverflowError, UnicodeError) as error:
        raise Rejected(f"unreadable: {_decoder_message(error)}") from error
    limits.check(len(pts), height, width)
    if announced - len(pts) > (0 if "mp4" in name else 1 + 0.05 * announced):
        raise Rejected(f"unreadable: truncated, {len(pts)} of {announced} frames are there")
    return _Header(width, height, pixel_format, pts, rate)


def _packet_times(container: "InputContainer", limits: Limits) -> tuple[list[float | None], int]:
    """Time stamps of the packets that are shown, and the number of packets that an edit list discards."""
    pts: list[float | None] = []
    skipped = 0
    for packet in container.demux(container.streams.video[0]):
        if not packet.size:
            continue
        if packet.is_discard:
            skipped += 1
        else:
            pts.append(None if packet.pts is None else float(packet.pts * packet.time_base))
        if len(pts) + skipped > limits.max_frames:
            break
    return pts, skipped


def _pyav_frames(path: Path, header: _Header, limits: Limits) -> tuple[np.ndarray, list[float | None]]:
    """All frames, gray (F, H, W) or RGB (F, H, W, 3), and their time stamps, decoded by PyAV."""
    import av

    form = "gray" if header.pixel_format.startswith(_GRAY_FORMATS) else "rgb24"
    frames: list[np.ndarray] = []
    pts: list[float | None] = []
    try:
        with _open_container(path, limits) as container:
            for frame in container.decode(video=0):
                if (frame.width, frame.height) != (header.width, header.height):
                    raise Rejected("unreadable: the frame size changes within the recording")
                limits.check(max(len(frames) + 1, limits.min_frames), header.height, header.width)
                frames.append(frame.to_ndarray(format=form))
                pts.append(frame.time)
    except (av.error.FFmpegError, OSError, ValueError, OverflowError) as error:
        count = f"{len(frames)} of {len(header.pts)} frames"
        raise Rejected(f"unreadable: {_decoder_message(error)}, after {count}") from error
    if len(frames) != len(header.pts):
        raise Rejected(f"unreadable: {len(frames)} frames can be decoded, {len(header.pts)} are in the file")
    return np.stack(frames), pts


def _decoder_message(error: Exception) -> str:
    """Text of a decoder error, without the file path."""
    reason = getattr(error, "strerror", None) or type(error).__name__
    return str(reason).strip().rstrip(".").lower()


def _frame_times(pts: Sequence[float | None], rate: float | None) -> np.ndarray:
    """Time stamps from 0 if all exist and increase, else frame number / ``rate``."""
    stamps = sorted(stamp for stamp in pts if stamp is not None)
    if len(stamps) == len(pts) and all(before < after for before, after in pairwise(stamps)):
        return np.asarray(stamps, dtype=np.float64) - stamps[0]
    if rate is None:
        raise Rejected("neither time stamps nor a frame rate")
    return uniform_times(len(pts), rate)


def _frame_rate(times: np.ndarray, rate: float | None) -> float:
    """The stated frame rate if it agrees within 10 % with the rate measured from the time stamps, else the latter."""
    measured = 1 / float(np.median(np.diff(times)))
    return check_fps(rate if rate is not None and abs(rate / measured - 1) < 0.1 else measured)


def read_gif(path: Path, limits: Limits, fps: float | None = None) -> Video:
    """Decode an animated GIF with its own frame durations (0.1 s where the file states none)."""
    frames: list[np.ndarray] = []
    durations: list[float] = []
    try:
        with _open_image(path) as image:
            count = int(getattr(image, "n_frames", 1))
            limits.check(count, image.height, image.width)
            for index in range(count):
                image.seek(index)
                frames.append(_to_array(image.convert("RGB")))
                durations.append(float(image.info.get("duration") or 0) / 1000 or _GIF_DEFAULT)
    except _pillow_errors() as error:
        raise Rejected(f"unreadable: {type(error).__name__} after {len(frames)} frames") from error
    if fps is not None:
        return make_video(np.stack(frames), uniform_times(len(frames), fps), fps)
    times = np.concatenate([[0.0], np.cumsum(durations)])
    return make_video(np.stack(frames), times[:-1], len(frames) / float(times[-1]))


def read_image_sequence(paths: Sequence[Path], limits: Limits, fps: float) -> Video:
    """Images of one size, in the order of ``paths``, as a recording with ``fps`` frames per second.

    Images with more than 8 bits are scaled with one scale for the whole recording, see ``pixels.to_uint8``.
    """
    frames: list[np.ndarray] = []
    try:
        for path in paths:
            with _open_image(path) as image:
                limits.check(len(paths), image.height, image.width, 8)
                if image.format in ("GIF", "PNG", "TIFF") and (pages := int(getattr(image, "n_frames", 1))) > 1:
                    raise Rejected(f"image {len(frames) + 1} of {len(paths)} is a file with {pages} images")
                frames.append(_to_array(image))
            if frames[-1].shape[:2] != frames[0].shape[:2]:
                raise Rejected(f"image {len(frames)} of {len(paths)} has another size than the first")
    except _pillow_errors() as error:
        raise Rejected(f"unreadable: {type(error).__name__} in image {len(frames) + 1} of {len(paths)}") from error
    if len({(frame.ndim, frame.dtype) for frame in frames}) > 1:
        frames = [to_uint8(frame[None])[0] for frame in frames]
        frames = [frame if frame.ndim == 3 else np.repeat(frame[..., None], 3, axis=2) for frame in frames]
    return make_video(to_uint8(np.stack(frames)), uniform_times(len(frames), fps), fps)


def _open_image(path: Path) -> "Image":
    from PIL import Image

    return Image.open(path, formats=("GIF", "PNG", "JPEG", "BMP", "TIFF"))


def _to_array(image: "Image") -> np.ndarray:
    """Gray (H, W) with the bit depth of the file, or RGB (H, W, 3); the Exif orientation is applied."""
    from PIL import ImageOps

    try:
        turned = image.getexif().get(_ORIENTATION, 1)
    except _pillow_errors():  # damaged tags, maybe with intact pixels
        turned = 1
    if image.format == "TIFF" and turned in (5, 6, 7, 8):  # Pillow 13 decodes them wrongly
        raise Rejected("unreadable: the TIFF is rotated by 90 degrees, save it upright")
    image = ImageOps.exif_transpose(image) if turned != 1 else image
    if image.mode in ("1", "LA", "La"):
        image = image.convert("L")
    elif image.mode not in ("L", "I", "F") and not image.mode.startswith("I;16"):
        image = image.convert("RGB")
    return np.asarray(image)


def _pillow_errors() -> tuple[type[BaseException], ...]:
    """Exceptions that Pillow raises for damaged files."""
    import struct
    import zlib

    from PIL import Image

    damaged = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)
    return (*damaged, Image.DecompressionBombError, Image.DecompressionBombWarning)
