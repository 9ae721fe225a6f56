"""Decodes video files, GIFs and sequences of numbered images to a ``Video``, after a check of the file header."""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from echodream.errors import Rejected
from echodream.ingest.pixels import blend_over_black, check_fps, make_video, to_uint8, uniform_times
from echodream.ingest.source import Limits, Video

if TYPE_CHECKING:
    from av import VideoFrame, VideoStream
    from av.container import InputContainer
    from av.video.reformatter import VideoReformatter
    from PIL.Image import Image

VIDEO_SUFFIXES = (
    *(".mp4", ".avi", ".mov", ".mpeg", ".mpg", ".mkv", ".webm", ".m4v", ".wmv", ".asf", ".flv", ".3gp", ".qt"),
    *(".mpe", ".m2v", ".vob", ".ts", ".mts", ".m2ts"),
)
IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".j2k", ".webp", ".bmp", ".dib", ".tif", ".tiff"),
    *(".pgm", ".ppm", ".pbm", ".pnm"),
)
DICOM_SUFFIXES = (".dcm", ".dicom", ".dic", ".ima")
MEDIA_SUFFIXES = frozenset((*VIDEO_SUFFIXES, *IMAGE_SUFFIXES, *DICOM_SUFFIXES, ".gif", ".nii"))
_IMAGE_FORMATS = ("GIF", "PNG", "JPEG", "JPEG2000", "WEBP", "BMP", "DIB", "TIFF", "PPM")
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,avi,mpeg,mpegts,mpegvideo,h264,hevc,m4v,matroska,webm,asf,flv"
_ATTACHED_PICTURE = 1 << 10
"""FFmpeg disposition of a stream that is a cover picture instead of a video."""
_VP8_SHOW_FRAME = 0x10
"""Bit ``show_frame`` in the first byte of a VP8 frame."""
_MAX_PIXEL_ASPECT = 4.0
_MAX_CAMERA_FPS = 240
_EXIF_ORIENTATION = 0x0112
_GIF_DEFAULT_SECONDS = 0.1
"""Duration in seconds of a GIF frame whose file states no duration; browsers use the same value."""


@dataclass(frozen=True)
class _VideoHeader:
    """Properties of a video file that are known without decoding."""

    width: int
    height: int
    pixel_aspect: float
    """Width of a pixel divided by its height, before the frames are turned upright."""
    packet_times: list[float | None]
    """Time stamps of the displayed packets in seconds, in the order of the file."""
    undecodable_packets: int
    """Number of displayed packets that may give no frame, because their reference frames are missing."""
    frame_interval: float | None
    """Seconds between frames of an AVI file, in which a frame without packet repeats the previous frame; else None."""
    fps: float | None


def read_video_file(path: Path, limits: Limits, fps: float | None = None) -> Video:
    """Decode the displayed frames of a video file with PyAV, upright, with transparent pixels black.

    Times are the time stamps of the file. If time stamps are missing or repeated, times are frame number / average
    frame rate. ``fps`` replaces time stamps and frame rate. Raises ``Rejected`` for truncated or damaged files.
    """
    header = _read_header(path, limits)
    frames, stamps, pixel_aspect = _decode_frames(path, header, limits)
    if len(frames) == len(header.packet_times):
        stamps = header.packet_times
    if header.frame_interval is not None and _are_distinct(stamps):
        seconds = np.sort(np.asarray(stamps, np.float64))
        positions = np.rint((seconds - seconds[0]) / header.frame_interval).astype(int)
        limits.check(int(positions[-1]) + 1, *frames.shape[1:3])
        frames = np.repeat(frames, np.diff(positions, append=positions[-1] + 1), axis=0)
        stamps = list(header.frame_interval * np.arange(len(frames)))
    times = uniform_times(len(frames), fps) if fps is not None else _frame_times(stamps, header.fps)
    video = make_video(frames, times, fps if fps is not None else _frame_rate(times, header.fps))
    return replace(video, pixel_aspect=pixel_aspect)


def _open_container(path: Path, limits: Limits) -> "InputContainer":
    """Open a video container with PyAV. Playlists are refused, because they can refer to other files."""
    import av

    av.logging.set_level(av.logging.PANIC)
    options = {"format_whitelist": _CONTAINERS, "max_pixels": str(limits.max_side**2)}
    return av.open(str(path.absolute()), options=options)


def _read_header(path: Path, limits: Limits) -> _VideoHeader:
    import av

    try:
        with _open_container(path, limits) as container:
            stream = _single_video_stream(container)
            width, height, name = stream.width, stream.height, container.format.name
            limits.check(max(stream.frames, limits.min_frames), height, width)
            packets, discarded = _displayed_packets(container, stream, limits)
            # the edit list of an mp4 or mov file can skip frames; the index does not contain these frames
            announced = (len(stream.index_entries) if stream.frames and "mp4" in name else stream.frames) - discarded
            fps = next((float(r) for r in (stream.average_rate, stream.guessed_rate, stream.base_rate) if r), None)
            pixel_aspect = _check_pixel_aspect(float(stream.sample_aspect_ratio or 1))
            tick = float(stream.time_base or 0)
    except (av.error.FFmpegError, OSError, ValueError, OverflowError, UnicodeError) as error:
        raise Rejected(f"unreadable: {_decoder_message(error)}") from error
    limits.check(len(packets), height, width)
    present, interval = len(packets), None
    times: list[float | None] = [None if pts is None else pts * tick for pts, _, _ in packets]
    if name == "avi":  # AVI numbers all frames in decoding order, including frames without a packet
        decoding_times: list[float | None] = [None if dts is None else dts * tick for _, dts, _ in packets]
        times = times if _are_distinct(times) or not _are_distinct(decoding_times) else decoding_times
        if _are_distinct(times):
            seconds = sorted(time for time in times if time is not None)
            present = round(seconds[-1] / tick) + 1
            # with a tick shorter than the frame interval of any camera, a tick without packet is no repeated frame
            interval = tick if tick > 1 / _MAX_CAMERA_FPS else min((b - a for a, b in pairwise(seconds)), default=tick)
    if announced - present > (0 if "mp4" in name else 1 + 0.05 * announced):
        raise Rejected(f"unreadable: truncated, {present} of {announced} frames are present")
    first = next((index for index, (_, _, is_key) in enumerate(packets) if is_key), 0)
    start = packets[first][0]
    early = (pts is not None and start is not None and pts < start for pts, _, _ in packets)
    undecodable_packets = sum(index < first or is_early for index, is_early in enumerate(early))
    return _VideoHeader(width, height, pixel_aspect, times, undecodable_packets, interval, fps)


def _single_video_stream(container: "InputContainer") -> "VideoStream":
    """Return the video stream, ignoring cover pictures. Raises ``Rejected`` unless exactly one stream is a video."""
    streams = [stream for stream in container.streams.video if not stream.disposition & _ATTACHED_PICTURE]
    if not streams:
        raise Rejected("unreadable: no video stream")
    if len(streams) > 1:
        raise Rejected(f"{len(streams)} videos in one file: save each video as a separate file")
    if streams[0].metadata.get("alpha_mode") == "1":  # FFmpeg's own decoders of VP8 and VP9 ignore transparency
        raise Rejected("unreadable: transparent pixels in WebM, save the video without transparency")
    if streams[0].codec_context is None:
        raise Rejected("unreadable: no decoder for the video stream")
    return streams[0]


def _displayed_packets(
    container: "InputContainer", stream: "VideoStream", limits: Limits
) -> tuple[list[tuple[int | None, int | None, bool]], int]:
    """List (pts, dts, is key frame) of the displayed packets, and count the packets that an edit list discards."""
    packets: list[tuple[int | None, int | None, bool]] = []
    discarded = 0
    for packet in container.demux(stream):
        if not packet.size or (stream.codec_context.name == "vp8" and not memoryview(packet)[0] & _VP8_SHOW_FRAME):
            continue
        if packet.is_discard:
            discarded += 1
        else:
            packets.append((packet.pts, packet.dts, packet.is_keyframe))
        if len(packets) + discarded > limits.max_frames:
            break
    return packets, discarded


def _check_pixel_aspect(aspect: float) -> float:
    """Return ``aspect``, or 1 if ``aspect`` is within 2 % of 1. Raises ``Rejected`` for an implausible ``aspect``."""
    if not 1 / _MAX_PIXEL_ASPECT <= aspect <= _MAX_PIXEL_ASPECT:
        raise Rejected(f"implausible pixels: {aspect:.3g} times as wide as high, save the file with square pixels")
    return 1.0 if abs(aspect - 1) <= 0.02 else aspect


def _decode_frames(path: Path, header: _VideoHeader, limits: Limits) -> tuple[np.ndarray, list[float | None], float]:
    """Decode all frames upright, gray (F, H, W) or RGB (F, H, W, 3), blending transparent pixels over black.

    Returns the frames, their time stamps in seconds, and the pixel aspect ratio of the upright frames.
    """
    import av
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()
    frames: list[np.ndarray] = []
    times: list[float | None] = []
    first = None
    try:
        with _open_container(path, limits) as container:
            for frame in container.decode(_single_video_stream(container)):
                layout = (frame.width, frame.height, _display_orientation(frame))
                first = first or layout
                if layout != first:
                    change = f"from {first[0]}x{first[1]} to {frame.width}x{frame.height}: split the file there"
                    raise Rejected(f"unreadable: the frame size changes within the recording, {change}")
                limits.check(max(len(frames) + 1, limits.min_frames), frame.height, frame.width)
                frames.append(_upright_pixels(reformatter, frame, layout[2]))
                times.append(frame.time)
            stacked = np.stack(frames) if frames else np.zeros((0, header.height, header.width), np.uint8)
    except (av.error.FFmpegError, OSError, ValueError, OverflowError) as error:
        count = f"{len(frames)} of {len(header.packet_times)} frames"
        raise Rejected(f"unreadable: {_decoder_message(error)}, after {count}") from error
    if len(frames) < max(len(header.packet_times) - header.undecodable_packets, 1):
        raise Rejected(f"unreadable: {len(frames)} frames can be decoded, {len(header.packet_times)} are in the file")
    if stacked.shape[-1] == 4 and stacked.ndim == 4:
        if stacked[..., 3].any():
            stacked = np.stack([blend_over_black(frame) for frame in stacked])
        else:  # screen recorders write an unused alpha channel of zeros
            stacked = stacked[..., :3]
    transposed = first is not None and first[2][0]
    return stacked, times, 1 / header.pixel_aspect if transposed else header.pixel_aspect


def _display_orientation(frame: "VideoFrame") -> tuple[bool, int, int]:
    """Read the display matrix of a frame: whether the axes are swapped, and the steps (1 or -1) of rows and columns."""
    try:
        side_data: Any = frame.side_data
        data = side_data["DISPLAYMATRIX"]
    except KeyError:
        return False, 1, 1
    except ValueError:  # PyAV cannot parse side data of another kind, but states the rotation angle
        turns = round(frame.rotation / 90) % 4
        return bool(turns % 2), -1 if turns in (1, 2) else 1, -1 if turns in (2, 3) else 1
    a, b, _, c, d = np.frombuffer(data, np.int32).astype(float)[:5]  # display matrix: x' = a x + c y, y' = b x + d y
    transposed = abs(b) + abs(c) > abs(a) + abs(d)
    right, down, oblique = (c, b, abs(a) + abs(d)) if transposed else (a, d, abs(b) + abs(c))
    if oblique > 0.02 * (abs(right) + abs(down)):
        raise Rejected("unreadable: the rotation of the video is no multiple of 90 degrees, save the video upright")
    return transposed, -1 if down < 0 else 1, -1 if right < 0 else 1


def _upright_pixels(
    reformatter: "VideoReformatter", frame: "VideoFrame", orientation: tuple[bool, int, int]
) -> np.ndarray:
    """Convert a frame to upright pixels, gray (H, W), RGB (H, W, 3) or RGBA (H, W, 4)."""
    has_alpha = any(component.is_alpha for component in frame.format.components)
    is_gray = frame.format.name.startswith(("gray", "mono"))
    pixel_format = "gray" if is_gray else "rgba" if has_alpha else "rgb24"
    pixels = reformatter.reformat(frame, format=pixel_format, threads=1).to_ndarray()
    transposed, down, right = orientation
    return (pixels.swapaxes(0, 1) if transposed else pixels)[::down, ::right]


def _are_distinct(times: Sequence[float | None]) -> bool:
    """Whether all ``times`` exist and are distinct."""
    return None not in times and len(set(times)) == len(times)


def _decoder_message(error: Exception) -> str:
    """Return the message of a decoder error, without the file path."""
    reason = getattr(error, "strerror", None) or type(error).__name__
    return str(reason).strip().rstrip(".").lower()


def _frame_times(stamps: Sequence[float | None], stated_fps: float | None) -> np.ndarray:
    """Return the time stamps, starting at 0, if all exist and are distinct; else frame number / ``stated_fps``."""
    if _are_distinct(stamps):
        times = np.sort(np.asarray(stamps, dtype=np.float64))
        return times - times[0]
    if stated_fps is None:
        raise Rejected("the file states neither time stamps nor a frame rate")
    return uniform_times(len(stamps), stated_fps)


def _frame_rate(times: np.ndarray, stated_fps: float | None) -> float:
    """Return ``stated_fps`` if it is within 10 % of the median frame rate of ``times``, else the median frame rate."""
    median_fps = 1 / float(np.median(np.diff(times)))
    is_confirmed = stated_fps and abs(stated_fps / median_fps - 1) < 0.1
    return check_fps(stated_fps if stated_fps and is_confirmed else median_fps)


def read_gif(path: Path, limits: Limits, fps: float | None = None) -> Video:
    """Decode an animated GIF with its frame durations, or 0.1 s for a frame without a stated duration."""
    frames: list[np.ndarray] = []
    durations: list[float] = []
    try:
        with _open_image(path) as image:
            count = int(getattr(image, "n_frames", 1))
            limits.check(count, image.height, image.width)
            for index in range(count):
                image.seek(index)
                frames.append(_image_to_array(image.convert("RGBA")))
                durations.append(float(image.info.get("duration") or 0) / 1000 or _GIF_DEFAULT_SECONDS)
    except _pillow_errors() as error:
        raise Rejected(f"unreadable: {type(error).__name__} after {len(frames)} frames") from error
    if fps is not None:
        return make_video(np.stack(frames), uniform_times(len(frames), fps), fps)
    times = np.concatenate([[0.0], np.cumsum(durations)])
    return make_video(np.stack(frames), times[:-1], len(frames) / float(times[-1]))


def read_image_sequence(paths: Sequence[Path], limits: Limits, fps: float) -> Video:
    """Read images of equal size, in the order of ``paths``, as a recording with ``fps`` frames per second.

    ``pixels.to_uint8`` scales images of more than 8 bits, with one scale for the whole recording.
    """
    frames: list[np.ndarray] = []
    try:
        for path in paths:
            with _open_image(path) as image:
                limits.check(len(paths), image.height, image.width, 8)
                if image.format in ("GIF", "PNG", "TIFF", "WEBP") and (pages := int(getattr(image, "n_frames", 1))) > 1:
                    raise Rejected(f"image {len(frames) + 1} of {len(paths)} is a file with {pages} images")
                frames.append(_image_to_array(image))
            if frames[-1].shape[:2] != frames[0].shape[:2]:
                raise Rejected(f"image {len(frames)} of {len(paths)} has another size than image 1")
    except _pillow_errors() as error:
        raise Rejected(f"unreadable: {type(error).__name__} in image {len(frames) + 1} of {len(paths)}") from error
    if len({(frame.ndim, frame.dtype) for frame in frames}) > 1:
        frames = [to_uint8(frame[None])[0] for frame in frames]
        frames = [frame if frame.ndim == 3 else np.repeat(frame[..., None], 3, axis=2) for frame in frames]
    return make_video(to_uint8(np.stack(frames)), uniform_times(len(frames), fps), fps)


def _open_image(path: Path) -> "Image":
    from PIL import Image

    return Image.open(path, formats=_IMAGE_FORMATS)


def _image_to_array(image: "Image") -> np.ndarray:
    """Convert ``image`` to upright gray, (H, W), in its bit depth, or RGB, (H, W, 3); transparent pixels are black."""
    from PIL import ImageOps

    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except _pillow_errors():  # the tags are damaged, but the pixels may be intact
        orientation = 1
    if image.format == "TIFF" and orientation in (5, 6, 7, 8):  # Pillow 13 decodes these orientations wrongly
        raise Rejected("unreadable: the TIFF is rotated by 90 degrees, save it upright")
    image = ImageOps.exif_transpose(image) if orientation != 1 else image
    transparent_value = image.info.get("transparency")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        pixels = np.asarray(image)
        return pixels if transparent_value is None else np.where(pixels == transparent_value, 0, pixels)
    if image.has_transparency_data:
        return blend_over_black(np.asarray(image.convert("LA" if image.mode in ("1", "L", "LA", "La") else "RGBA")))
    return np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))


def _pillow_errors() -> tuple[type[BaseException], ...]:
    """Return the exceptions that Pillow raises for damaged files."""
    from PIL import Image

    damaged = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)
    return (*damaged, Image.DecompressionBombError, Image.DecompressionBombWarning)
