"""Recordings as H.264 videos and frames as PNG images, embedded in the page."""

import io
from collections.abc import Sequence

import numpy as np

from echodream.errors import UserError
from echodream.progress import progress_bar
from echodream.store.browser_video import data_uri, encode_mp4

RATE_FACTORS = (18, 23, 28, 33, 38)
"""Constant rate factors of x264, from the best quality to the smallest file."""


def encode_within_size(clips: Sequence[tuple[np.ndarray, float]], max_bytes: int, remedy: str) -> list[bytes]:
    """Encoded videos of ``clips``, (frames, fps) each, at the best quality with a total size of at most ``max_bytes``.

    Raises ``UserError``, with ``remedy``, if the videos are larger even at the lowest quality.
    """
    for rate_factor in RATE_FACTORS:
        videos: list[bytes] = []
        for frames, fps in progress_bar(clips, "videos", leave=False):
            videos.append(encode_mp4(frames, fps, rate_factor))
            if sum(map(len, videos)) > max_bytes:
                break
        else:
            return videos
    raise UserError(f"{len(clips)} videos do not fit into {max_bytes // 1_000_000} MB of a page: {remedy}")


def png_uri(pixels: np.ndarray) -> str:
    """A data URI of ``pixels``, uint8 (H, W, 1 or 3), as PNG."""
    from PIL import Image

    target = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(target, "PNG")
    return data_uri(target.getvalue(), "image/png")
