"""NIfTI volumes of echo recordings, (W, H, F) or colour, with damage and bombs answered by one sentence."""

import gzip
import io
import logging
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from echodream import validation
from echodream.errors import Rejected
from echodream.ingest.pixels import to_uint8
from echodream.ingest.source import Limits

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header

SUFFIXES = (".nii", ".nii.gz")
ROTATIONS = (0, 90, 180, 270)
FLIPS = ("none", "horizontal", "vertical")
_HEADER_BYTES = 1 << 20
"""Where the pixels must have begun: a header that points further makes the reader unpack the file for nothing."""
_CHUNK = 1 << 20
_RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
_RGBA = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1"), ("A", "u1")])
_DAMAGE = (EOFError, OSError, zlib.error, ValueError, OverflowError, TypeError, KeyError, IndexError)


@dataclass(frozen=True)
class Orientation:
    """How image[h, w] = volume[w, h] is turned afterwards: ``rotate`` degrees counter-clockwise, then ``flip``."""

    rotate: int = 0
    flip: str = "none"

    def __post_init__(self) -> None:
        validation.one_of("rotate", self.rotate, ROTATIONS)
        validation.one_of("flip", self.flip, FLIPS)

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Turn frames (F, H, W) or (F, H, W, C)."""
        frames = np.rot90(frames, self.rotate // 90, axes=(1, 2))
        if self.flip != "none":
            frames = np.flip(frames, axis=2 if self.flip == "horizontal" else 1)
        return np.ascontiguousarray(frames)


@dataclass(frozen=True)
class Volume:
    """The pixels of a NIfTI file as frames."""

    frames: np.ndarray
    """uint8, (F, H, W) or (F, H, W, 3): image[h, w] = volume[w, h]."""
    frame_step: float
    """The header's voxel size along the frame axis, in whatever unit the writer had in mind."""


@dataclass(frozen=True)
class _Layout:
    shape: tuple[int, ...]
    frames: int
    height: int
    width: int
    frame_axis: int
    item_bytes: int


def is_nifti(name: str) -> bool:
    """Whether a file is called like a NIfTI file."""
    return name.lower().endswith(SUFFIXES)


def read_nifti(path: Path, limits: Limits) -> Volume:
    """Read a NIfTI-1 or NIfTI-2 file, gzipped or not whatever its name says. Raises ``Rejected``.

    Accepted are (W, H, F), (W, H, 1, F) and colour as (W, H, F, 3), (W, H, F, 1, 3) or RGB voxels; the header is held
    to ``limits`` before pixels are read. Values are scaled by ``pixels.to_uint8``.
    """
    try:
        with _opened(path) as (image, header):
            layout = _layout(header)
            limits.check(layout.frames, layout.height, layout.width, layout.item_bytes)
            data = np.asanyarray(image.dataobj)
    except _header_errors() as error:
        raise Rejected("unreadable: not a valid NIfTI header") from error
    except _DAMAGE as error:
        raise Rejected(f"unreadable: damaged or cut short ({type(error).__name__})") from error
    return Volume(_as_frames(data, layout), _frame_step(header, layout.frame_axis))


def label_state(path: Path | None, image: Path) -> str:
    """``complete``, ``truncated`` or ``missing``: whether a label holds every voxel that its header announces.

    Counted by unpacking in small pieces; a label of another size than its image is truncated too.
    """
    if path is None:
        return "missing"
    try:
        with _opened(path) as (_, header), _opened(image) as (_, reference):
            shape, wanted = header.get_data_shape(), reference.get_data_shape()
            needed = _offset(header) + int(np.prod(shape, dtype=object)) * header.get_data_dtype().itemsize
        if tuple(shape[:3]) != tuple(wanted[:3]):
            return "truncated"
        return "complete" if _holds(path, needed) else "truncated"
    except _header_errors():
        return "truncated"
    except (*_DAMAGE, Rejected):
        return "truncated"


def _header_errors() -> tuple[type[Exception], ...]:
    """What nibabel raises for headers; none of them is a ValueError."""
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError, HeaderTypeError
    from nibabel.wrapstruct import WrapStructError

    return (ImageFileError, HeaderDataError, HeaderTypeError, WrapStructError)


def _holds(path: Path, needed: int) -> bool:
    with _stream(path) as stream:
        while needed > 0:
            piece = stream.read(min(_CHUNK, needed))
            if not piece:
                return False
            needed -= len(piece)
    return True


@contextmanager
def _stream(path: Path) -> Iterator[io.BufferedIOBase]:
    """The file's bytes, unpacked if they are gzip's."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if packed:
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield unpacked
        else:
            yield file


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, "Nifti1Header"]]:
    """A nibabel image whose pixels have not been read, and its checked header."""
    from nibabel.fileholders import FileHolder
    from nibabel.nifti1 import Nifti1Image
    from nibabel.nifti2 import Nifti2Image

    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)
    with _stream(path) as stream:
        size = int.from_bytes(stream.read(4), "little")
        stream.seek(0)
        kind = Nifti2Image if size in (540, 0x1C020000) else Nifti1Image
        header = kind.header_class.from_fileobj(stream, check=True)
        if _offset(header) > _HEADER_BYTES:
            raise Rejected("unreadable: the header says that the pixels begin beyond its end")
        stream.seek(0)
        holder = FileHolder(fileobj=stream)
        yield kind.from_file_map({"header": holder, "image": holder}, mmap=False), header


def _offset(header: Any) -> int:
    offset = float(header["vox_offset"])
    if not 0 <= offset < 1 << 40:
        raise Rejected("unreadable: not a valid NIfTI header")
    return int(offset)


def _layout(header: Any) -> _Layout:
    """Which axis is what. The bytes per pixel count what reading holds at once, with the header's scaling applied."""
    shape = tuple(int(side) for side in header.get_data_shape())
    dtype = header.get_data_dtype()
    if min(shape, default=0) < 1 or len(shape) > 5:
        raise Rejected(f"a volume of {'x'.join(map(str, shape))} is not a recording")
    sides = list(shape)
    if len(sides) == 5 and sides[3] == 1:
        del sides[3]
    frame_axis = 2
    if len(sides) == 4 and sides[2] == 1 and sides[3] > 1:
        frame_axis = 3
        sides = [sides[0], sides[1], sides[3]]
    colour = len(sides) == 4 and sides[3] in (1, 3, 4)
    if len(sides) != 3 and not colour:
        raise Rejected(
            f"a volume of {'x'.join(map(str, shape))} is not a recording: width x height x frames is expected"
        )
    if dtype.kind not in "iufV" or (dtype.kind == "V" and dtype not in (_RGB, _RGBA)):
        raise Rejected(f"pixels of type {dtype} are not a recording's")
    scaled = header.get_slope_inter() not in ((1.0, 0.0), (None, None))
    item_bytes = (8 if scaled else dtype.itemsize) * (sides[3] if colour else 1)
    return _Layout(tuple(sides), sides[2], sides[1], sides[0], frame_axis, item_bytes)


def _as_frames(data: np.ndarray, layout: _Layout) -> np.ndarray:
    """(W, H, F[, C]) or RGB voxels -> uint8 (F, H, W[, 3])."""
    if data.dtype.kind == "V":
        data = np.stack([data[channel] for channel in ("R", "G", "B")], axis=-1)
        frames = data.reshape(*layout.shape[:3], 3).transpose(2, 1, 0, 3)
    else:
        data = data.reshape(layout.shape)
        frames = data.transpose(2, 1, 0) if data.ndim == 3 else data.transpose(2, 1, 0, 3)[..., :3]
        if frames.ndim == 4 and frames.shape[-1] == 1:
            frames = frames[..., 0]
    return np.ascontiguousarray(to_uint8(frames))


def _frame_step(header: Any, frame_axis: int) -> float:
    zooms = header.get_zooms()
    return float(zooms[frame_axis]) if frame_axis < len(zooms) else 0.0


def plausible_frame_rate(frame_step: float) -> float | None:
    """Frames per second if ``frame_step`` is a plausible frame time in s or in ms (5 to 200 a second), else None."""
    for unit in (1.0, 1000.0):
        if frame_step > 0 and 5 <= unit / frame_step <= 200:
            return round(unit / frame_step, 4)
    return None
