"""Recordings as H.264 videos and frames as PNG images, embedded in the page."""

import base64
import io
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from tqdm import tqdm

from echodream.errors import UserError

QUALITIES = (18, 23, 28, 33, 38)
"""Constant rate factors of x264, from the best quality to the smallest file."""
_BT601 = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]])
"""Matrix from red, green and blue in [0, 1] to Y, Cb and Cr in video range (ITU-R BT.601)."""


def encode(frames: np.ndarray, fps: float, quality: int) -> bytes:
    """``frames``, uint8 (F, H, W, 1 or 3), as mp4; an odd height or width is padded by repeating the last line.

    Equal frames give equal bytes, except for frames smaller than about 48 pixels, for which x264 is nondeterministic.
    """
    import av

    if "libx264" not in av.codecs_available:
        raise UserError("this build of PyAV has no libx264, which the videos of the page need: install PyAV from PyPI")
    frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), "edge")
    target = io.BytesIO()
    with av.open(target, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        rate = Fraction(fps).limit_denominator(1000)
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"crf": str(quality), "preset": "slow", "tune": "grain", "bf": "0"}
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(_yuv_planes(frame), format="yuv420p")
            picture.pts = index
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return target.getvalue()


def _yuv_planes(frame: np.ndarray) -> np.ndarray:
    """YUV 4:2:0 planes, uint8 (3 H / 2, W), of a ``frame``, uint8 (H, W, 1 or 3) with even H and W."""
    height, width = frame.shape[:2]
    rgb = np.broadcast_to(frame, (height, width, 3)).astype(np.float64)
    yuv = np.rint(rgb @ _BT601.T / 255 + (16, 128, 128))
    chroma = yuv[..., 1:].reshape(height // 2, 2, width // 2, 2, 2).mean(axis=(1, 3))
    chroma_planes = np.rint(chroma).transpose(2, 0, 1).reshape(height // 2, width)
    return np.concatenate([yuv[..., 0], chroma_planes]).astype(np.uint8)


def encode_within(clips: Sequence[tuple[np.ndarray, float]], max_bytes: int) -> list[bytes]:
    """Encoded videos of ``clips``, (frames, fps) each, at the best quality with a total size of at most ``max_bytes``.

    Raises ``UserError`` if the videos of the lowest quality are larger.
    """
    for quality in QUALITIES:
        videos: list[bytes] = []
        for frames, fps in tqdm(clips, "videos", disable=None, leave=False):
            videos.append(encode(frames, fps, quality))
            if sum(map(len, videos)) > max_bytes:
                break
        else:
            return videos
    raise UserError(
        f"{len(clips)} videos do not fit into {max_bytes // 1_000_000} MB of a page: lower look.per_class, look.pairs "
        "or look.seconds"
    )


def png_uri(pixels: np.ndarray) -> str:
    """A data URI of ``pixels``, uint8 (H, W, 1 or 3), as PNG."""
    from PIL import Image

    target = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(target, "PNG")
    return data_uri(target.getvalue(), "image/png")


def data_uri(content: bytes, media_type: str) -> str:
    """The data URI of a file ``content``."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
