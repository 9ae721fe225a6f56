"""Small DICOM files as scanners write them, with an invented patient name and hospital name."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, RLELossless, generate_uid

SECRETS = ("Planted^Patient", "PID4711", "Planted Hospital", "Dr^Planted", "SN0815")


def write(path: Path, frames: np.ndarray, *drop: str, syntax: str = ExplicitVRLittleEndian, **tags: object) -> Path:
    """Write an ultrasound file of ``frames``, (F, H, W[, C]); ``tags`` sets and ``drop`` removes DICOM elements."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.3.1")
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = FileDataset(str(path), Dataset(), file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.PatientName, data.PatientID, data.InstitutionName, data.ReferringPhysicianName, data.DeviceSerialNumber = (
        SECRETS
    )
    data.Modality, data.StudyInstanceUID, data.FrameTime = "US", "1.2.3.4", "40"
    data.NumberOfFrames, data.Rows, data.Columns = frames.shape[:3]
    data.SamplesPerPixel = 3 if frames.ndim == 4 else 1
    data.PhotometricInterpretation = "RGB" if frames.ndim == 4 else "MONOCHROME2"
    if frames.ndim == 4:
        data.PlanarConfiguration = 0
    data.BitsAllocated = data.BitsStored = 8 * frames.itemsize
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(frames.dtype.kind == "i")
    data.PixelData = frames.tobytes()
    for name, value in tags.items():
        setattr(data, name, value)
    for name in drop:
        delattr(data, name)
    if syntax == RLELossless:
        data.compress(RLELossless)
    meta.TransferSyntaxUID = UID(syntax)
    path.parent.mkdir(parents=True, exist_ok=True)
    if (big := syntax == ExplicitVRBigEndian) and frames.dtype.itemsize == 2:
        data.PixelData = frames.byteswap().tobytes()
    dcmwrite(path, data, implicit_vr=bool(meta.TransferSyntaxUID.is_implicit_VR), little_endian=not big)
    return path


def encapsulated(path: Path, frames: Sequence[bytes], syntax: str) -> Path:
    """Replace the pixels of a file by compressed ``frames``."""
    data = dcmread(path)
    data.PixelData = encapsulate(list(frames))
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = UID(syntax)
    data.save_as(path)
    return path


def lossless_jpeg(frame: np.ndarray, bits: int, predictor: int = 1) -> bytes:
    """A gray image, (H, W), as JPEG lossless (ITU-T T.81, annex H), with Huffman codes of five bits."""
    height, width = frame.shape
    values = frame.astype(np.int64) & 0xFFFF
    left, up, corner = (np.zeros_like(values) for _ in range(3))
    left[:, 1:], up[1:], corner[1:, 1:] = values[:, :-1], values[:-1], values[:-1, :-1]
    inner = {1: left, 2: up, 3: corner, 4: left + up - corner, 5: left + (up - corner >> 1)}[predictor]
    predicted = np.where(np.arange(height)[:, None] == 0, left, np.where(np.arange(width) == 0, up, inner))
    predicted[0, 0] = 1 << bits - 1
    code = ""
    for number in (((values - predicted + 32768) & 0xFFFF) - 32768).ravel().tolist():
        size = abs(number).bit_length()
        code += f"{size:05b}"
        code += f"{number if number > 0 else number + (1 << size) - 1:0{size}b}" if 0 < size < 16 else ""
    code += "1" * (-len(code) % 8)
    scan = bytes(int(code[start : start + 8], 2) for start in range(0, len(code), 8)).replace(b"\xff", b"\xff\0")
    table = bytes([0, 0, 0, 0, 0, 17, *[0] * 11, *range(17)])
    return b"".join(
        (
            b"\xff\xd8\xff\xc3\0\x0b", bytes([bits]), height.to_bytes(2), width.to_bytes(2), b"\1\1\x11\0",
            b"\xff\xc4", (2 + len(table)).to_bytes(2), table,
            b"\xff\xda\0\x08\1\1\0", bytes([predictor]), b"\0\0", scan, b"\xff\xd9",
        )
    )  # fmt: skip
