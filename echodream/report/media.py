"""Recordings as small H.264 videos inside the page: every browser plays them, and nothing is fetched."""

import base64
import io
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from tqdm import tqdm

from echodream.errors import UserError

QUALITIES = (18, 23, 28, 33, 38)
"""x264's constant rate factors, best first."""
_BT601 = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]])
"""Y, Cb and Cr from red, green and blue of 0 to 1, in a video's range."""


def encode(frames: np.ndarray, fps: float, quality: int) -> bytes:
    """uint8 ``frames``, (F, H, W, 1 or 3), as mp4; odd sides grow by one line, repeated.

    Equal frames give equal bytes, but for tiny ones, below some 48 pixels a side: for those x264 does not always.
    """
    import av

    if "libx264" not in av.codecs_available:
        raise UserError("this build of PyAV has no libx264, so that no page can play videos: install PyAV's own wheel")
    frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), "edge")
    target = io.BytesIO()
    with av.open(target, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        rate = Fraction(fps).limit_denominator(1000)
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"crf": str(quality), "preset": "slow", "tune": "grain", "bf": "0"}
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(_planes(frame), format="yuv420p")
            picture.pts = index
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return target.getvalue()


def _planes(frame: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 1 or 3), H and W even, as planes Y, Cb and Cr of BT.601: (3 H / 2, W). Chroma has half the sides."""
    height, width = frame.shape[:2]
    wide = frame.astype(np.float64) @ (_BT601.T if frame.shape[2] == 3 else _BT601.T.sum(axis=0, keepdims=True))
    planes = np.rint(wide / 255 + (16, 128, 128))
    halved = planes[..., 1:].reshape(height // 2, 2, width // 2, 2, 2).mean(axis=(1, 3))
    chroma = np.rint(halved).transpose(2, 0, 1).reshape(height // 2, width)
    return np.concatenate([planes[..., 0], chroma]).astype(np.uint8)


def encode_within(clips: Sequence[tuple[np.ndarray, float]], most: int) -> list[bytes]:
    """All ``clips``, (frames, fps), at the best quality at which they take at most ``most`` bytes together.

    Raises ``UserError`` when they are too large at any.
    """
    for quality in QUALITIES:
        found: list[bytes] = []
        for frames, fps in tqdm(clips, "videos", disable=None, leave=False):
            found.append(encode(frames, fps, quality))
            if sum(map(len, found)) > most:
                break
        else:
            return found
    raise UserError(
        f"{len(clips)} videos do not fit into {most // 1_000_000} MB of a page: lower look.per_class, look.pairs or "
        "look.seconds"
    )


def data_uri(video: bytes) -> str:
    """For the ``src`` of a video element."""
    return "data:video/mp4;base64," + base64.b64encode(video).decode()
