"""Reads gray or color NIfTI recordings. Damaged and oversized files raise ``Rejected``."""

import gzip
import io
import logging
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from echodream.errors import Rejected
from echodream.ingest.pixels import FPS_RANGE, to_uint8
from echodream.ingest.source import Limits

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header

NIFTI_SUFFIXES = (".nii", ".nii.gz")
_MAX_PIXEL_OFFSET = 1 << 20
"""Largest accepted number of bytes before the pixels in the file; nibabel decompresses all of these bytes."""
_UNIT_SECONDS = {8: 1.0, 16: 1e-3, 24: 1e-6}
"""Code of a time unit in xyzt_units -> time unit in seconds."""
_RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
_RGBA = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1"), ("A", "u1")])
_READ_ERRORS = (EOFError, OSError, zlib.error, ValueError, OverflowError, TypeError, KeyError, IndexError)


class NiftiFrames(NamedTuple):
    """Frames of a NIfTI file."""

    frames: np.ndarray
    """Pixels, uint8, (F, H, W) or (F, H, W, 3), with image[h, w] = volume[w, h]."""
    frame_rate: float | None
    """Frames per second; None if the header states no time between frames."""


def read_nifti(path: Path, limits: Limits) -> NiftiFrames:
    """Read a NIfTI-1 or NIfTI-2 file with any suffix, compressed or uncompressed. Raises ``Rejected``.

    Accepted shapes: (W, H, F), (W, H, 1, F); in color (W, H, F, 3), (W, H, F, 1, 3) or RGB voxels. The header is
    checked against ``limits`` before pixels are read. ``pixels.to_uint8`` scales values after slope and intercept.
    """
    try:
        with _open_nifti(path) as (image, header):
            volume_shape, frame_axis, pixel_bytes = _volume_shape(header)
            limits.check(volume_shape[2], volume_shape[1], volume_shape[0], pixel_bytes)
            data = np.asanyarray(image.dataobj)
    except _header_errors() as error:
        raise Rejected("unreadable: not a valid NIfTI header") from error
    except _READ_ERRORS as error:
        raise Rejected(f"unreadable: damaged or truncated ({type(error).__name__})") from error
    return NiftiFrames(_volume_to_frames(data, volume_shape, _declared_range(header)), frame_rate(header, frame_axis))


def segmentation_state(path: Path | None, image: Path) -> str:
    """Return "complete", "truncated" or "missing" for the segmentation ``path`` of the recording ``image``.

    A segmentation with fewer voxels than its header states, or of another size than ``image``, is "truncated".
    """
    if path is None:
        return "missing"
    try:
        with _open_nifti(path) as (_, header), _open_nifti(image) as (_, image_header):
            shape, image_shape = header.get_data_shape(), image_header.get_data_shape()
            size = _pixel_data_offset(header) + int(np.prod(shape, dtype=object)) * header.get_data_dtype().itemsize
        with _open_stream(path) as stream:
            stream.seek(max(size - 1, 0))
            is_complete = shape[:3] == image_shape[:3] and len(stream.read(1)) == 1
    except (*_READ_ERRORS, Rejected):
        return "truncated"
    except _header_errors():
        return "truncated"
    return "complete" if is_complete else "truncated"


def _header_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that nibabel raises for invalid headers; none is a ``ValueError``."""
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError, HeaderTypeError
    from nibabel.wrapstruct import WrapStructError

    return (ImageFileError, HeaderDataError, HeaderTypeError, WrapStructError)


@contextmanager
def _open_stream(path: Path) -> Iterator[io.BufferedIOBase]:
    """Open a file, and decompress a gzip file while it is read."""
    with path.open("rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        yield gzip.GzipFile(fileobj=file) if is_gzip else file


@contextmanager
def _open_nifti(path: Path) -> Iterator[tuple[Any, "Nifti1Header"]]:
    """Open a nibabel image without reading its pixels, and check its header. Raises ``Rejected``."""
    from nibabel.fileholders import FileHolder
    from nibabel.nifti1 import Nifti1Image
    from nibabel.nifti2 import Nifti2Image

    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)
    with _open_stream(path) as stream:
        size = int.from_bytes(stream.read(4), "little")
        stream.seek(0)
        image_class = Nifti2Image if size in (540, 0x1C020000) else Nifti1Image
        header = image_class.header_class.from_fileobj(stream, check=True)
        if _pixel_data_offset(header) > _MAX_PIXEL_OFFSET:
            raise Rejected("unreadable: the header states an implausible offset of the pixels")
        stream.seek(0)
        holder = FileHolder(fileobj=stream)
        yield image_class.from_file_map({"header": holder, "image": holder}, mmap=False), header


def _pixel_data_offset(header: Any) -> int:
    offset = float(header["vox_offset"])
    if not 0 <= offset < 1 << 40:
        raise Rejected("unreadable: not a valid NIfTI header")
    return int(offset)


def _volume_shape(header: Any) -> tuple[tuple[int, ...], int, int]:
    """Return the shape (W, H, F) or (W, H, F, C), the frame axis of the file, and the bytes per pixel after scaling."""
    shape = tuple(int(side) for side in header.get_data_shape())
    dtype = header.get_data_dtype()
    if min(shape, default=0) < 1 or len(shape) > 5:
        raise Rejected(f"a volume of {'x'.join(map(str, shape))} is not a recording")
    volume_shape, frame_axis = list(shape), 2
    if len(volume_shape) == 5 and volume_shape[3] == 1:
        del volume_shape[3]
    if len(volume_shape) == 4 and volume_shape[2] == 1 and volume_shape[3] > 1:
        frame_axis = 3
        del volume_shape[2]
    color = len(volume_shape) == 4 and volume_shape[3] in (1, 3, 4)
    if len(volume_shape) != 3 and not color:
        raise Rejected(f"a volume of {'x'.join(map(str, shape))} is not a recording: W x H x F is expected")
    if dtype.kind not in "iufV" or (dtype.kind == "V" and dtype not in (_RGB, _RGBA)):
        raise Rejected(f"pixels of type {dtype} are not supported")
    scaled = header.get_slope_inter() not in ((1.0, 0.0), (None, None))
    return tuple(volume_shape), frame_axis, (8 if scaled else dtype.itemsize) * (volume_shape[3] if color else 1)


def _declared_range(header: "Nifti1Header") -> tuple[float, float] | None:
    """Return the range of values in the header: cal_min and cal_max, or the range of 8-bit voxels after scaling."""
    low, high = float(header["cal_min"]), float(header["cal_max"])
    if math.isfinite(high - low) and low < high:
        return low, high
    if (dtype := header.get_data_dtype()).kind not in "iu" or dtype.itemsize > 1:
        return None
    slope, intercept = header.get_slope_inter()  # nibabel returns (None, None) if the header has no scaling
    limits = [(slope or 1) * value + (intercept or 0) for value in (np.iinfo(dtype).min, np.iinfo(dtype).max)]
    return min(limits), max(limits)


def _volume_to_frames(
    data: np.ndarray, volume_shape: tuple[int, ...], declared_range: tuple[float, float] | None
) -> np.ndarray:
    """Convert a volume, (W, H, F[, C]) or RGB voxels, to uint8 frames, (F, H, W[, 3])."""
    if data.dtype.kind == "V":
        data = np.stack([data[channel] for channel in ("R", "G", "B")], axis=-1)
        frames = data.reshape(*volume_shape[:3], 3).transpose(2, 1, 0, 3)
    else:
        data = data.reshape(volume_shape)
        frames = data.transpose(2, 1, 0) if data.ndim == 3 else data.transpose(2, 1, 0, 3)[..., :3]
        frames = frames[..., 0] if frames.ndim == 4 and frames.shape[-1] == 1 else frames
    return np.ascontiguousarray(to_uint8(frames, declared_range))


def frame_rate(header: "Nifti1Header", axis: int) -> float | None:
    """Compute frames per second from the voxel size along the frame ``axis``, 2 or 3; None if the size is not a time.

    NIfTI defines a time unit for axis 3. On axis 2, a voxel size is a distance if it equals the width or height of a
    voxel, or does not give 5 to 200 frames per second. A size of 1, the default of most programs, is ignored.
    """
    step = float([*header.get_zooms(), 0, 0][axis])
    unit = _UNIT_SECONDS.get(int(header["xyzt_units"]) & 0x38)
    if unit is None or not math.isfinite(step) or step <= 0 or step == 1:
        return None
    is_distance = axis == 2 and any(math.isclose(step, side, rel_tol=1e-3) for side in header.get_zooms()[:2])
    low, high = (5, 200) if axis == 2 else FPS_RANGE
    return round(1 / (step * unit), 4) if not is_distance and low <= 1 / (step * unit) <= high else None
