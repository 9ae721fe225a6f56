"""DICOM files as scanners write them, made small, with planted names of a patient and a hospital."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, RLELossless, generate_uid

SECRETS = ("Planted^Patient", "PID4711", "Planted Hospital", "Dr^Planted", "SN0815")


def write(path: Path, frames: np.ndarray, *drop: str, syntax: str = ExplicitVRLittleEndian, **tags: object) -> Path:
    """An ultrasound file of ``frames``, (F, H, W[, C]); ``tags`` replace and ``drop`` removes elements."""
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
