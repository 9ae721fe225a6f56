"""Recordings as H.264 videos that a browser plays, embedded in HTML: in the report and in notebooks."""

import base64
import html
import io
from collections.abc import Iterable, Mapping
from fractions import Fraction

import numpy as np

from echodream.errors import UserError

_BT601 = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]])
"""Matrix from red, green and blue in [0, 1] to Y, Cb and Cr in video range (ITU-R BT.601)."""


def check_encoder() -> None:
    """Raise ``UserError`` if PyAV cannot write H.264."""
    import av

    if "libx264" not in av.codecs_available:
        raise UserError("this build of PyAV has no libx264: install the wheel of PyAV from PyPI")


def encode_mp4(frames: np.ndarray, fps: float, quality: int) -> bytes:
    """Content of the mp4 file that ``write_mp4`` writes for ``frames``."""
    target = io.BytesIO()
    write_mp4(target, frames, fps, quality)
    return target.getvalue()


def write_mp4(target: str | io.BytesIO, frames: np.ndarray, fps: float, quality: int) -> None:
    """Write ``frames``, uint8 (F, H, W, 1 or 3), as mp4; an odd size is padded by repeating the last row or column.

    ``quality`` is the constant rate factor. A file begins with its index, so that a browser can play it while loading.
    Equal frames give equal bytes, except for frames smaller than about 48 pixels, for which x264 is nondeterministic.
    """
    import av

    check_encoder()
    frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), "edge")
    options = {"fflags": "+bitexact", **({"movflags": "+faststart"} if isinstance(target, str) else {})}
    with av.open(target, "w", format="mp4", options=options) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(100_000))
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"crf": str(quality), "preset": "slow", "tune": "grain", "bf": "0"}
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(_yuv_planes(frame), format="yuv420p")
            picture.pts = index
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def _yuv_planes(frame: np.ndarray) -> np.ndarray:
    """YUV 4:2:0 planes, uint8 (3 H / 2, W), of a ``frame``, uint8 (H, W, 1 or 3) with even H and W."""
    height, width = frame.shape[:2]
    rgb = np.broadcast_to(frame, (height, width, 3)).astype(np.float64)
    yuv = np.rint(rgb @ _BT601.T / 255 + (16, 128, 128))
    chroma = yuv[..., 1:].reshape(height // 2, 2, width // 2, 2, 2).mean(axis=(1, 3))
    chroma_planes = np.rint(chroma).transpose(2, 0, 1).reshape(height // 2, width)
    return np.concatenate([yuv[..., 0], chroma_planes]).astype(np.uint8)


def data_uri(content: bytes, media_type: str) -> str:
    """Data URI of a file with the bytes ``content``."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


NOTEBOOK_CLIPS = 4
"""Number of videos that a store, or an array of clips, shows in a notebook."""
_NOTEBOOK_SECONDS = 4.0
_NOTEBOOK_QUALITY = 23
_NOTEBOOK_WIDTH = 160


def notebook_html(title: str, clips: Iterable[tuple[str, np.ndarray, float]], facts: Mapping[str, object]) -> str:
    """HTML with a ``title``, lines of ``facts``, and the first seconds of each clip.

    ``clips`` are (caption, frames, fps) with frames uint8 (F, H, W, 1 or 3). Small frames are enlarged by repetition.
    """
    figures = []
    for caption, frames, fps in clips:
        shown = frames[: max(1, int(_NOTEBOOK_SECONDS * fps))]
        scale = max(1, _NOTEBOOK_WIDTH // max(1, shown.shape[2]))
        shown = shown.repeat(scale, axis=1).repeat(scale, axis=2)
        source = data_uri(encode_mp4(shown, fps, _NOTEBOOK_QUALITY), "video/mp4")
        figures.append(
            f'<figure style="display:inline-block;margin:4px"><video src="{source}" autoplay loop muted playsinline '
            f'controls width="{shown.shape[2]}"></video><figcaption>{html.escape(caption)}</figcaption></figure>'
        )
    lines = [f"{html.escape(name)}: {html.escape(str(value))}" for name, value in facts.items()]
    return f"<div><b>{html.escape(title)}</b><br>{'<br>'.join(lines)}<br>{''.join(figures)}</div>"
