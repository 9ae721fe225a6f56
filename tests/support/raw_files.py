"""Small raw files in the formats of the supported studies."""

import gzip
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import nibabel
import numpy as np


def moving(frames: int = 8, height: int = 48, width: int = 64) -> np.ndarray:
    """Gray frames (F, H, W): a bright disc that moves over a gradient."""
    rows, columns = np.mgrid[:height, :width]
    stack = []
    for index in range(frames):
        disc = (rows - height / 2) ** 2 + (columns - 16 - 3 * index) ** 2 < 100
        stack.append(np.where(disc, 220, rows + columns))
    return np.stack(stack).astype(np.uint8)


def write_video(
    path: Path,
    frames: np.ndarray,
    rate: float = 25,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    times: Sequence[float] | None = None,
) -> Path:
    """Write gray (F, H, W) or RGB (F, H, W, 3) frames as a video file, with the time stamps ``times`` if given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=Fraction(rate).limit_denominator(1001))
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pix_fmt
        stream.codec_context.thread_count = 1
        if times is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="gray" if pixels.ndim == 2 else "rgb24")
            if times is not None:
                frame.pts, frame.time_base = round(times[index] * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_nifti(path: Path, volume: np.ndarray, step: float = 1.0, axis: int = 2) -> Path:
    """A volume as NIfTI; ``step`` is the voxel size along the frame ``axis``, in seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(volume, np.eye(4))
    zooms = [1.0] * volume.ndim
    zooms[axis] = step
    image.header.set_zooms(zooms)
    image.header.set_xyzt_units("mm", "sec")
    image.to_filename(str(path))
    return path


def cut(path: Path, share: float) -> Path:
    """Truncate a file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def cut_gzip(path: Path, size: int) -> Path:
    """Truncate the content of a gzip file; the gzip container stays valid."""
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:size]))
    return path


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    """Rows as csv, columns of the first row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [",".join(rows[0])] + [",".join(str(value) for value in row.values()) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path
