"""Multi-frame ultrasound DICOM: only the pixels of the ultrasound sector and the frame times are read."""

import logging
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from echodream import validation
from echodream.errors import Rejected
from echodream.ingest.listing import RawFile, list_files, require_folder, with_unique_names
from echodream.ingest.pixels import make_video, to_uint8, uniform_times
from echodream.ingest.pseudonym import Pseudonyms
from echodream.ingest.sector import Box, mask_outside, sector_mask
from echodream.ingest.source import Limits, Recording, Video

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_LISTED_TAGS = ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "PatientID", "Modality", "NumberOfFrames"]
_DICOMDIR_CLASS = "1.2.840.10008.1.3.10"
_DEFLATED_SYNTAX = "1.2.840.10008.1.2.1.99"
_DICOM_SUFFIX = re.compile(r"(\.(dcm|dicom|dic|ima|\d+))?", re.IGNORECASE)
_DECODER_ERRORS = (
    AttributeError, EOFError, IndexError, KeyError, NotImplementedError, OSError, OverflowError, RuntimeError,
    TypeError, ValueError, struct.error, zlib.error,
)  # fmt: skip


@dataclass(frozen=True)
class Dicom:
    """All multi-frame ultrasound DICOM files below ``raw``, in any transfer syntax that pydicom decodes.

    FileName and PatientID are keyed pseudonyms of the SOPInstanceUID and the PatientID, see ``Pseudonyms``. No tag is
    copied to the store. Pixels outside the sector are set to 0 (``sector.sector_mask``); text on moving tissue is not
    detected. Still images and other modalities are rejected.
    """

    key_file: str = field(metadata={"private": True})
    """File with the secret key, at least 16 bytes; created if it does not exist. Do not share this file."""
    keep: str = "sector"
    """"sector", or "all" for files that are known to have no text in their pixels."""
    fps: float | None = None
    """Frames per second of files without a frame rate; None rejects these files."""

    def __post_init__(self) -> None:
        validation.text("key_file", self.key_file)
        validation.one_of("keep", self.keep, ("sector", "all"))
        if self.fps is not None:
            validation.frame_rate("fps", self.fps)

    def recordings(self, raw: Path | None) -> list[Recording]:
        root = require_folder(raw, "DICOM")
        pseudonyms = Pseudonyms.from_file(Path(self.key_file).expanduser())
        listed: list[Recording] = []
        seen: set[str] = set()
        for entry in list_files(root):
            recording = _read_recording(entry, pseudonyms)
            if recording.name in seen:
                name, problem = (
                    pseudonyms.hash_recording(f"file {entry.relative}"),
                    f"a second copy of {recording.name}",
                )
                recording = Recording(name, "", entry.path, problem=problem, counted=False)
            seen.add(recording.name)
            listed.append(recording)
        return with_unique_names(listed)

    def read(self, recording: Recording, limits: Limits) -> Video:
        with _silence_pydicom("unreadable: the DICOM file does not decode"):
            dataset = _read_dataset(recording.file, limits)
            frames = _decode_frames(dataset)
            times, fps = _frame_times(dataset, len(frames), self.fps)
            if self.keep == "sector":
                frames = mask_outside(frames, sector_mask(frames, _region_boxes(dataset)))
        return make_video(frames, times, fps)


def read_still(path: Path, limits: Limits) -> np.ndarray:
    """Read a DICOM file with one frame, of any modality: uint8, gray (1, H, W) or RGB (1, H, W, 3), all pixels.

    Raises ``Rejected``, also if the tag BurnedInAnnotation is YES.
    """
    with _silence_pydicom("unreadable: the DICOM file does not decode"):
        dataset = _read_dataset(path, limits)
        if str(dataset.get("BurnedInAnnotation", "")).strip().upper() == "YES":
            raise Rejected("text that may name the patient is burned into the pixels (BurnedInAnnotation)")
        return _decode_frames(dataset)


@contextmanager
def _silence_pydicom(reason: str) -> Iterator[None]:
    """Suppress warnings and error messages of pydicom, which quote values of the file that may name the patient.

    Raises ``Rejected`` with the ``reason`` and the type of the error.
    """
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except _DECODER_ERRORS as error:
        raise Rejected(f"{reason} ({type(error).__name__})") from None


def _read_recording(entry: RawFile, pseudonyms: Pseudonyms) -> Recording:
    """The recording in a file, from the DICOM header; other files have a ``problem``."""
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    name = pseudonyms.hash_recording(f"file {entry.relative}")
    if entry.problem:
        return Recording(name, "", entry.path, problem=entry.problem, counted=entry.counted)
    try:
        with _silence_pydicom("unreadable: the DICOM header is damaged"):
            _check_deflated(entry.path, Limits())
            header = dcmread(entry.path, stop_before_pixels=True, specific_tags=list(_LISTED_TAGS))
            values = {tag: str(header.get(tag, None) or "").strip() for tag in _LISTED_TAGS}
            media_class = str(header.file_meta.get("MediaStorageSOPClassUID", ""))
    except InvalidDicomError:
        counted = _DICOM_SUFFIX.fullmatch(entry.path.suffix) is not None
        return Recording(name, "", entry.path, problem="not a DICOM file", counted=counted)
    except Rejected:
        return Recording(name, "", entry.path, problem="unreadable: the DICOM header is damaged")
    if values["SOPInstanceUID"]:
        name = pseudonyms.hash_recording(f"uid {values['SOPInstanceUID']}")
    known = [f"{tag} {values[tag]}" for tag in ("PatientID", "StudyInstanceUID") if values[tag]]
    patient = pseudonyms.hash_patient(known[0] if known else f"recording {name}")
    problem = _why_not_a_recording(values, media_class)
    return Recording(name, patient, entry.path, problem=problem, counted=problem is None)


def _why_not_a_recording(values: dict[str, str], media_class: str) -> str | None:
    if media_class == _DICOMDIR_CLASS:
        return "not a recording: a DICOM directory"
    if values["Modality"] != "US":
        return "not a recording: not ultrasound"
    frames = values["NumberOfFrames"]
    return None if frames.isdecimal() and len(frames) < 10 and int(frames) > 1 else "not a recording: a still image"


def _check_deflated(path: Path, limits: Limits) -> None:
    """Reject a deflated file that exceeds ``max_bytes`` when inflated: pydicom would inflate the whole file at once."""
    from pydicom.filereader import read_file_meta_info

    with path.open("rb") as file:
        if file.read(132)[128:] != b"DICM":
            return
    if str(read_file_meta_info(path).get("TransferSyntaxUID", "")) != _DEFLATED_SYNTAX:
        return
    with path.open("rb") as file:
        file.seek(140)  # the value of (0002,0000): the number of bytes of the file meta information after it
        file.seek(int.from_bytes(file.read(4), "little"), 1)
        unpacker, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while (piece := unpacker.unconsumed_tail or file.read(1 << 16)) and not unpacker.eof:
            size += len(unpacker.decompress(piece, 1 << 20))
            if size > limits.max_bytes:
                raise Rejected(f"too large: more than {limits.max_bytes} bytes when inflated")


def _read_dataset(path: Path, limits: Limits) -> "Dataset":
    """Read a file after checking its header against the limits. Raises ``Rejected``."""
    from pydicom import dcmread

    _check_deflated(path, limits)
    header = dcmread(path, stop_before_pixels=True)
    sample_bytes = int(header.SamplesPerPixel) * max(1, int(header.BitsAllocated) // 8)
    limits.check(_frame_count(header), int(header.Rows), int(header.Columns), sample_bytes)
    if path.stat().st_size > limits.max_bytes:
        raise Rejected(f"too large: {path.stat().st_size} bytes, the limit is {limits.max_bytes}")
    dataset = dcmread(path)
    _check_frames(dataset)
    return dataset


def _check_frames(dataset: "Dataset") -> None:
    """Check the image size stated in each compressed frame against the header: the decoder allocates this size."""
    from pydicom.encaps import generate_frames

    if not dataset.file_meta.TransferSyntaxUID.is_compressed:
        return
    max_pixels = 4 * int(dataset.Rows) * int(dataset.Columns)
    for frame in generate_frames(dataset.PixelData, number_of_frames=_frame_count(dataset)):
        height, width = _coded_size(frame)
        if height * width > max_pixels:
            raise Rejected(f"unreadable: a frame is {width}x{height} instead of {dataset.Columns}x{dataset.Rows}")


def _coded_size(frame: bytes) -> tuple[int, int]:
    """Height and width in the header of a JPEG, JPEG-LS or JPEG 2000 frame; zeros for other codecs."""
    start = frame[:1024].find(b"\xff\x4f\xff\x51")
    if start >= 0:
        right, bottom, left, top = struct.unpack_from(">4I", frame, start + 8)
        return max(0, bottom - top), max(0, right - left)
    place = 2
    while frame[:2] == b"\xff\xd8" and place + 9 <= len(frame):
        marker = frame[place + 1]
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return struct.unpack_from(">2H", frame, place + 5)
        place += 1 if marker == 0xFF else 2 + int.from_bytes(frame[place + 2 : place + 4], "big")
    return 0, 0


def _decode_frames(dataset: "Dataset") -> np.ndarray:
    """All frames as uint8, gray (F, H, W) or RGB (F, H, W, 3); MONOCHROME1 is inverted, so that tissue is bright."""
    from pydicom.pixels import apply_color_lut, pixel_array

    kind = str(dataset.PhotometricInterpretation)
    frames = pixel_array(dataset)
    frames = frames[None] if _frame_count(dataset) == 1 else frames
    if kind == "PALETTE COLOR":
        frames = apply_color_lut(frames, dataset)[..., :3]
    elif kind.startswith("MONOCHROME") and frames.dtype.kind == "u":
        frames = frames & np.asarray((1 << int(dataset.BitsStored)) - 1, frames.dtype)  # higher bits may hold overlays
    if frames.ndim not in (3, 4) or len(frames) != _frame_count(dataset):
        raise Rejected(f"unreadable: {frames.shape} pixels for {_frame_count(dataset)} frames")
    frames = to_uint8(frames)
    return 255 - frames if kind == "MONOCHROME1" else frames


def _frame_count(dataset: "Dataset") -> int:
    """Number of frames in the header; 1 if it states none."""
    return int(dataset.get("NumberOfFrames") or 1)


def _frame_times(dataset: "Dataset", count: int, fallback: float | None) -> tuple[np.ndarray, float]:
    """Times of the frames in seconds and the frame rate, from the first tag with plausible values."""
    steps = np.asarray(_tag_numbers(dataset.get("FrameTimeVector")), dtype=np.float64) / 1000
    if len(steps) == count:
        steps = steps[1:]  # the first value is the time before the first frame
    if count > 1 and len(steps) == count - 1 and (steps > 0).all():
        times = np.concatenate([[0.0], np.cumsum(steps)])
        return times, (count - 1) / float(times[-1])
    rates = [1000 / step for step in _tag_numbers(dataset.get("FrameTime"))[:1] if step > 0]
    for tag in ("CineRate", "RecommendedDisplayFrameRate"):
        rates += _tag_numbers(dataset.get(tag))[:1]
    for rate in [*rates, fallback or 0.0]:
        if rate > 0:
            return uniform_times(count, rate), rate
    raise Rejected("no frame time: the file has no FrameTime and no frame rate, and data.source.fps is not set")


def _tag_numbers(cell: Any) -> list[float]:
    """Numbers of a DICOM element: pydicom returns a single value as a scalar, and no value as None or ""."""
    if cell is None or cell == "":
        return []
    return [float(item) for item in (cell if hasattr(cell, "__iter__") and not isinstance(cell, str) else [cell])]


def _region_boxes(dataset: "Dataset") -> list[Box]:
    """Boxes of the 2-D image regions. Raises ``Rejected`` if all regions are of another kind, as Doppler spectra."""
    regions = list(dataset.get("SequenceOfUltrasoundRegions") or [])
    image_regions = [region for region in regions if int(region.get("RegionSpatialFormat", 1)) == 1]
    if regions and not image_regions:
        raise Rejected("no 2-D image region: the file shows a curve or a spectrum")
    corners = ("MinX0", "MinY0", "MaxX1", "MaxY1")
    boxes = [[int(region[f"RegionLocation{corner}"].value) for corner in corners] for region in image_regions]
    return [(left, top, right, bottom) for left, top, right, bottom in boxes]
