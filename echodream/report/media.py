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


def encode(frames: np.ndarray, fps: float, quality: int) -> bytes:
    """uint8 ``frames``, (F, H, W, 1 or 3), as mp4; odd sides grow by one line, repeated. Equal frames: equal bytes."""
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
            colour = np.ascontiguousarray(np.broadcast_to(frame, (*frame.shape[:2], 3)))
            picture = av.VideoFrame.from_ndarray(colour)
            picture.pts = index
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return target.getvalue()


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
