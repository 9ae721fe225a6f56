"""File formats of ``stage=export``. A new format is a function and an entry of ``FORMATS``."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np

from echodream import validation
from echodream.store.video import encode_frames

MAX_GIF_FPS = 50.0
"""Highest frame rate of a GIF in frames per second; players slow down GIFs with shorter frames."""


@dataclass(frozen=True)
class ExportSettings:
    """All settings that determine the content of an export. Raises ``UserError`` for a quality out of range."""

    format: str
    source: str
    """SHA-256 of the store's SHA256SUMS."""
    jpg_quality: int | None
    """JPEG quality, 1 to 100; None for other formats."""
    crf: int | None
    """Constant rate factor of x264, 0 (best) to 51, for mp4; None for other formats."""

    def __post_init__(self) -> None:
        for name, low, high in (("jpg_quality", 1, 100), ("crf", 0, 51)):
            if (value := getattr(self, name)) is not None:
                validation.whole_number(name, value, low, high)


@dataclass(frozen=True)
class ExportFormat:
    """File path and writer of an export format."""

    path: str
    """Path of a recording within the export; {} is replaced by the FileName."""
    write: Callable[[Path, np.ndarray, float, ExportSettings], None]
    """Function that writes pixels, uint8 (F, H, W, C), with a frame rate in frames per second to a new path."""


def write_images(path: Path, frames: np.ndarray, fps: float, settings: ExportSettings) -> None:
    """Write a folder of images, one per frame."""
    from PIL import Image

    options: dict[str, Any] = {"quality": settings.jpg_quality, "subsampling": 0} if settings.format == "jpg" else {}
    path.mkdir()
    for index, frame in enumerate(frames):
        Image.fromarray(_pillow_array(frame)).save(path / f"frame_{index:04d}.{settings.format}", **options)


def _pillow_array(frame: np.ndarray) -> np.ndarray:
    """Array of ``frame``, (H, W, C), in the shape that Pillow needs: (H, W) for one channel, else (H, W, 3)."""
    return frame[..., 0] if frame.shape[-1] == 1 else frame


def write_gif(path: Path, frames: np.ndarray, fps: float, settings: ExportSettings) -> None:
    """Write a looping GIF. Frame times are rounded to 1/100 s without drift; Pillow merges identical frames."""
    from PIL import Image

    frame_ends = np.rint(np.arange(len(frames) + 1) * 100 / min(fps, MAX_GIF_FPS)).astype(int)
    images = [Image.fromarray(_pillow_array(frame)) for frame in frames]
    if frames.shape[-1] == 3:
        images = [image.quantize(256, dither=Image.Dither.NONE) for image in images]
    durations = (np.diff(frame_ends) * 10).tolist()
    images[0].save(
        path, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0, optimize=False, disposal=1
    )


def write_avi_or_mp4(path: Path, frames: np.ndarray, fps: float, settings: ExportSettings) -> None:
    """Write avi as Motion JPEG 4:4:4 of the best quality, or mp4 as H.264 4:2:0, which all browsers play."""
    import av

    is_mp4 = settings.format == "mp4"
    if is_mp4:
        frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), "edge")
    options = {"movflags": "+faststart"} if is_mp4 else {}
    with av.open(str(path), "w", format=settings.format, options=options) as container:
        rate = Fraction(fps).limit_denominator(100_000)
        stream = cast("av.VideoStream", container.add_stream("libx264" if is_mp4 else "mjpeg", rate=rate))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p" if is_mp4 else "yuvj444p"
        if is_mp4:
            stream.codec_context.options = {"crf": str(settings.crf)}
        else:
            stream.codec_context.qmin = stream.codec_context.qmax = 1
        encode_frames(container, stream, np.broadcast_to(frames, (*frames.shape[:3], 3)), "rgb24")


def write_pt(path: Path, frames: np.ndarray, fps: float, settings: ExportSettings) -> None:
    """Write a uint8 tensor, (F, C, H, W), by ``torch.save``."""
    import torch

    torch.save(torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous(), path)


def write_nifti(path: Path, frames: np.ndarray, fps: float, settings: ExportSettings) -> None:
    """Write NIfTI-1, (W, H, F), with uint8 or RGB voxels; the third voxel size is the seconds per frame."""
    import nibabel

    volume = frames.transpose(2, 1, 0, 3)
    if volume.shape[3] == 3:
        volume = np.ascontiguousarray(volume).view([("R", "u1"), ("G", "u1"), ("B", "u1")])
    image = nibabel.Nifti1Image(volume[..., 0], np.diag([1.0, 1.0, 1 / fps, 1.0]))
    image.header.set_xyzt_units(t="sec")
    nibabel.save(image, path)


FORMATS = {
    "jpg": ExportFormat("{}", write_images),
    "png": ExportFormat("{}", write_images),
    "gif": ExportFormat("Videos/{}.gif", write_gif),
    "avi": ExportFormat("Videos/{}.avi", write_avi_or_mp4),
    "mp4": ExportFormat("Videos/{}.mp4", write_avi_or_mp4),
    "pt": ExportFormat("{}.pt", write_pt),
    "nifti": ExportFormat("{}.nii.gz", write_nifti),
}
