"""Recordings as H.264 videos inside the page, which every browser plays offline."""

import base64
import io
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from tqdm import tqdm

from echodream.errors import UserError

QUALITIES = (18, 23, 28, 33, 38)
"""Constant rate factors of x264, from best to smallest."""
_BT601 = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]])
"""Y, Cb and Cr in video range from red, green and blue in [0, 1]."""


def encode(frames: np.ndarray, fps: float, quality: int) -> bytes:
    """uint8 ``frames``, (F, H, W, 1 or 3), as mp4; an odd height or width is padded by repeating the last line.

    Equal frames give equal bytes, except for frames of less than about 48 pixels, where x264 is not deterministic.
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
    """uint8 (H, W, 1 or 3) with even H and W as YUV 4:2:0 planes of BT.601: (3 H / 2, W)."""
    height, width = frame.shape[:2]
    wide = frame.astype(np.float64) @ (_BT601.T if frame.shape[2] == 3 else _BT601.T.sum(axis=0, keepdims=True))
    planes = np.rint(wide / 255 + (16, 128, 128))
    halved = planes[..., 1:].reshape(height // 2, 2, width // 2, 2, 2).mean(axis=(1, 3))
    chroma = np.rint(halved).transpose(2, 0, 1).reshape(height // 2, width)
    return np.concatenate([planes[..., 0], chroma]).astype(np.uint8)


def encode_within(clips: Sequence[tuple[np.ndarray, float]], max_bytes: int) -> list[bytes]:
    """Videos of all ``clips``, (frames, fps), at the best quality whose total size is at most ``max_bytes``.

    Raises ``UserError`` if no quality is small enough.
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
    """A frame, uint8 (H, W, 1 or 3), as the ``src`` of an img element."""
    from PIL import Image

    target = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(target, "PNG")
    return data_uri(target.getvalue(), "image/png")


def data_uri(content: bytes, media_type: str) -> str:
    """A file as the ``src`` of an HTML element."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
