"""File formats of ``stage=export``. To add a format, add a function and an entry of ``FORMATS``."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np

from echodream import validation
from echodream.store import dicom_file, echonet_layout
from echodream.store.browser_video import check_encoder, write_mp4
from echodream.store.echonet_layout import Tables
from echodream.store.reader import Store
from echodream.store.schema import FILE_LIST, TEMPORARY_PREFIX
from echodream.store.table import read_text_table
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


Row = Mapping[str, Any]
"""A row of FileList.csv with its cells as text."""


@dataclass(frozen=True)
class ExportFormat:
    """File path and writer of an export format."""

    path: str
    """Path of a recording within the export; {} is replaced by the FileName."""
    write: Callable[[Path, np.ndarray, Row, ExportSettings], None]
    """Function that writes pixels, uint8 (F, H, W, C), of a recording with its row of FileList.csv to a new path."""
    tables: Callable[[Sequence[Row]], Tables] = lambda rows: {FILE_LIST: ((), [dict(row) for row in rows])}
    """Function from the rows of FileList.csv to the tables of the export."""
    check: Callable[[Store], None] = lambda store: None
    """Function that raises ``UserError`` if a store cannot be exported in this format."""
    notes: Callable[[Sequence[Row]], Mapping[str, str]] = lambda rows: {}
    """Function from the rows of FileList.csv to lines of the summary about changed or incomplete recordings."""


def write_images(path: Path, frames: np.ndarray, row: Row, settings: ExportSettings) -> None:
    """Write a folder of images, one per frame."""
    from PIL import Image

    options: dict[str, Any] = {"quality": settings.jpg_quality, "subsampling": 0} if settings.format == "jpg" else {}
    path.mkdir()
    for index, frame in enumerate(frames):
        Image.fromarray(_pillow_array(frame)).save(path / f"frame_{index:04d}.{settings.format}", **options)


def _pillow_array(frame: np.ndarray) -> np.ndarray:
    """Array of ``frame``, (H, W, C), in the shape that Pillow needs: (H, W) for one channel, else (H, W, 3)."""
    return frame[..., 0] if frame.shape[-1] == 1 else frame


def write_gif(path: Path, frames: np.ndarray, row: Row, settings: ExportSettings) -> None:
    """Write a looping GIF. Frame times are rounded to 1/100 s without drift; Pillow merges identical frames."""
    from PIL import Image

    frame_ends = np.rint(np.arange(len(frames) + 1) * 100 / min(float(row["FPS"]), MAX_GIF_FPS)).astype(int)
    images = [Image.fromarray(_pillow_array(frame)) for frame in frames]
    if frames.shape[-1] == 3:
        images = [image.quantize(256, dither=Image.Dither.NONE) for image in images]
    durations = (np.diff(frame_ends) * 10).tolist()
    images[0].save(
        path, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0, optimize=False, disposal=1
    )


def gif_rate_table(rows: Sequence[Row]) -> Tables:
    """FileList.csv with the frame rates of the GIFs."""
    return {FILE_LIST: ((), [{**row, "FPS": min(float(row["FPS"]), MAX_GIF_FPS)} for row in rows])}


def frame_rate_note(rows: Sequence[Row]) -> dict[str, str]:
    """Note on the recordings whose GIF has a lower frame rate than the store."""
    count = sum(float(row["FPS"]) > MAX_GIF_FPS for row in rows)
    text = f"{count} recordings to {MAX_GIF_FPS:g} frames/s, the highest frame rate of a GIF in players"
    return {"slowed": text} if count else {}


def write_avi(path: Path, frames: np.ndarray, row: Row, settings: ExportSettings) -> None:
    """Write an avi file: Motion JPEG 4:4:4 with the best quality, as in EchoNet-Dynamic."""
    import av

    with av.open(str(path), "w", format="avi") as container:
        rate = Fraction(float(row["FPS"])).limit_denominator(100_000)
        stream = cast("av.VideoStream", container.add_stream("mjpeg", rate=rate))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuvj444p"
        stream.codec_context.qmin = stream.codec_context.qmax = 1
        encode_frames(container, stream, np.broadcast_to(frames, (*frames.shape[:3], 3)), "rgb24")


def write_h264(path: Path, frames: np.ndarray, row: Row, settings: ExportSettings) -> None:
    """Write an mp4 file: H.264 4:2:0, which all browsers play."""
    assert settings.crf is not None
    write_mp4(str(path), frames, float(row["FPS"]), settings.crf)


def even_size_table(rows: Sequence[Row]) -> Tables:
    """FileList.csv with the heights and widths of the H.264 videos, which are even numbers."""
    sides = [{name: int(float(row[name])) for name in ("FrameHeight", "FrameWidth")} for row in rows]
    even = [{name: side + side % 2 for name, side in each.items()} for each in sides]
    return {FILE_LIST: ((), [{**row, **each} for row, each in zip(rows, even, strict=True)])}


def padding_note(rows: Sequence[Row]) -> dict[str, str]:
    """Note on the recordings with an odd height or width, which are padded."""
    count = sum(any(float(row[name]) % 2 for name in ("FrameHeight", "FrameWidth")) for row in rows)
    text = f"{count} recordings by one row or column: H.264 4:2:0 needs an even height and width"
    return {"padded": text} if count else {}


def write_pt(path: Path, frames: np.ndarray, row: Row, settings: ExportSettings) -> None:
    """Write a uint8 tensor, (F, C, H, W), by ``torch.save``."""
    import torch

    torch.save(torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous(), path)


def write_nifti(path: Path, frames: np.ndarray, row: Row, settings: ExportSettings) -> None:
    """Write NIfTI-1, (W, H, F), with uint8 or RGB voxels; the third voxel size is the frame duration in seconds."""
    import nibabel

    volume = frames.transpose(2, 1, 0, 3)
    if volume.shape[3] == 3:
        volume = np.ascontiguousarray(volume).view([("R", "u1"), ("G", "u1"), ("B", "u1")])
    image = nibabel.Nifti1Image(volume[..., 0], np.diag([1.0, 1.0, 1 / float(row["FPS"]), 1.0]))
    image.header.set_xyzt_units(t="sec")
    nibabel.save(image, path)


def write_dicom(path: Path, frames: np.ndarray, row: Row, settings: ExportSettings) -> None:
    """Write an Ultrasound Multi-frame Image, marked as synthetic."""
    dicom_file.write_dicom(path, frames, row, settings.source)


FORMATS = {
    "jpg": ExportFormat("{}", write_images),
    "png": ExportFormat("{}", write_images),
    "gif": ExportFormat("Videos/{}.gif", write_gif, gif_rate_table, notes=frame_rate_note),
    "avi": ExportFormat("Videos/{}.avi", write_avi),
    "mp4": ExportFormat("Videos/{}.mp4", write_h264, even_size_table, lambda store: check_encoder(), padding_note),
    "pt": ExportFormat("{}.pt", write_pt),
    "nifti": ExportFormat("{}.nii.gz", write_nifti),
    "echonet": ExportFormat(
        "Videos/{}.avi", write_avi, echonet_layout.csv_tables, echonet_layout.check_names, echonet_layout.export_notes
    ),
    "dicom": ExportFormat("Videos/{}.dcm", write_dicom, echonet_layout.content_tables, dicom_file.check_exportable),
}


def store_rows(store: Store) -> list[Row]:
    """Rows of FileList.csv, each cell as its unchanged text."""
    table = read_text_table(store.root / FILE_LIST)
    return [{str(name): text for name, text in row.items()} for row in table.to_dict("records")]


def export_recording(store: Store, row: Row, path: Path, settings: ExportSettings) -> bool:
    """Write the recording of ``row`` to ``path`` atomically. Returns False if ``path`` exists already."""
    if path.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}")
    if store.dataset.kind == "latent":
        import torch

        mean, std = store.latents(row["FileName"])
        torch.save({"mean": mean, "std": std}, temporary)
    else:
        FORMATS[settings.format].write(temporary, store.frames(row["FileName"]), row, settings)
    temporary.rename(path)
    return True
