"""Source of multi-frame ultrasound DICOM files; only pixels of the ultrasound sector and frame times are read."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from echodream import validation
from echodream.errors import Rejected
from echodream.ingest import listing
from echodream.ingest.dicom_pixels import is_dicom, open_header, read_pixels, reject_pydicom_errors, tag_numbers
from echodream.ingest.listing import RawFile
from echodream.ingest.pixels import make_video, uniform_times
from echodream.ingest.pseudonym import Pseudonyms
from echodream.ingest.sector import Box, group_overlapping_boxes, mask_outside, sector_mask
from echodream.ingest.source import Limits, PatientEvidence, Recording, Video

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_LISTING_TAGS = ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "PatientID", "Modality", "NumberOfFrames"]
_PATIENT_TAGS = ["PatientBirthDate", "PatientSex", "IssuerOfPatientID"]
"""Tags with equal values in all files of a patient; ``patients.check_patients`` compares the values."""
_REGIONS_TAG = "SequenceOfUltrasoundRegions"
_FRAME_TIME_TAG = 0x00181063
_DICOMDIR_CLASS = "1.2.840.10008.1.3.10"
_MULTI_FRAME_CLASSES = ("1.2.840.10008.5.1.4.1.1.3", "1.2.840.10008.5.1.4.1.1.3.1")
_ULTRASOUND_CLASS = "1.2.840.10008.5.1.4.1.1.6"


@dataclass(frozen=True)
class RegionRecording(Recording):
    """A recording of one of several separate 2-D image regions in a file."""

    region: int = 0
    """Index of the region in the list that ``sector.group_overlapping_boxes`` returns."""


@dataclass(frozen=True)
class Dicom:
    """Reads all multi-frame ultrasound DICOM files below ``raw``, in any transfer syntax that pydicom or PyAV decodes.

    FileName and PatientID are keyed pseudonyms of the SOPInstanceUID and the PatientID. No tag is copied to the store.
    Pixels outside the sector are set to 0 (``sector.sector_mask``); text on moving tissue is not detected. Two separate
    2-D image regions are two recordings of the patient, unless ``keep`` is "all". Still images and other modalities are
    rejected.
    """

    key_file: str = field(metadata={"private": True})
    """File with the secret key of at least 16 bytes; created if the file does not exist. Do not share this file."""
    keep: str = "sector"
    """Pixels to keep: "sector", or "all" for files that are known to have no text in their pixels."""
    fps: float | None = None
    """Frames per second of files without a frame rate; None rejects these files."""

    def __post_init__(self) -> None:
        validation.nonempty_text("key_file", self.key_file)
        validation.one_of("keep", self.keep, ("sector", "all"))
        if self.fps is not None:
            validation.frame_rate("fps", self.fps)

    def recordings(self, raw: Path | None) -> list[Recording]:
        root = listing.require_folder(raw, "DICOM")
        pseudonyms = Pseudonyms.from_file(Path(self.key_file).expanduser())
        listed: list[Recording] = []
        path_by_name: dict[str, Path] = {}
        for entry in listing.list_files(root):
            for recording in self._read_recordings(entry, pseudonyms):
                if recording.name in path_by_name:
                    is_copy = listing.have_same_content(path_by_name[recording.name], entry.path)
                    kind = "a second copy" if is_copy else "another file with the SOPInstanceUID"
                    problem = f"{kind} of {recording.name}"
                    name = pseudonyms.hash_recording(f"file {entry.relative_path} {len(listed)}")
                    recording = Recording(name, "", entry.path, problem=problem, counted=not is_copy)
                path_by_name[recording.name] = entry.path
                listed.append(recording)
        return listing.with_unique_names(listed)

    def read(self, recording: Recording, limits: Limits) -> Video:
        dataset, frames = read_pixels(recording.file, limits)
        with reject_pydicom_errors("unreadable: the DICOM header is damaged"):
            times, fps = _frame_times(dataset, len(frames), self.fps)
            if self.keep == "sector":
                if (boxes := _region_boxes(dataset)) is None:
                    raise Rejected("no 2-D image region: the file shows a curve or a spectrum")
                if isinstance(recording, RegionRecording):
                    frames, boxes = _crop_to_boxes(frames, group_overlapping_boxes(boxes)[recording.region]), []
                frames = mask_outside(frames, sector_mask(frames, boxes))
        return make_video(frames, times, fps)

    def _read_recordings(self, entry: RawFile, pseudonyms: Pseudonyms) -> list[Recording]:
        """List the recordings of a file by its DICOM header; an unusable file is a recording with a ``problem``."""
        name = pseudonyms.hash_recording(f"file {entry.relative_path}")
        if entry.problem:
            return [Recording(name, "", entry.path, problem=entry.problem, counted=entry.counted)]
        if not is_dicom(entry.path):
            counted = listing.may_be_recording(entry.path)
            return [Recording(name, "", entry.path, problem="not a DICOM file", counted=counted)]
        try:
            header = open_header(entry.path, Limits(), [*_LISTING_TAGS, *_PATIENT_TAGS, _REGIONS_TAG])
            with reject_pydicom_errors("unreadable: the DICOM header is damaged"):
                values = {tag: str(header.get(tag, None) or "").strip() for tag in (*_LISTING_TAGS, *_PATIENT_TAGS)}
                media_class = str(header.file_meta.get("MediaStorageSOPClassUID", ""))
                regions = len(group_overlapping_boxes(_region_boxes(header) or [])) if self.keep == "sector" else 1
        except Rejected as reason:
            return [Recording(name, "", entry.path, problem=str(reason))]
        identifier = f"uid {values['SOPInstanceUID']}" if values["SOPInstanceUID"] else f"file {entry.relative_path}"
        name = pseudonyms.hash_recording(identifier)
        patient_tags = [f"{tag} {values[tag]}" for tag in ("PatientID", "StudyInstanceUID") if values[tag]]
        patient = pseudonyms.hash_patient(patient_tags[0] if patient_tags else f"recording {name}")
        constants = {tag: values[tag] for tag in _PATIENT_TAGS if values[tag]}
        evidence = PatientEvidence(values["PatientID"], study=values["StudyInstanceUID"], patient_constants=constants)
        problem, counted = _rejection_reason(values, media_class)
        if problem or regions < 2:
            return [Recording(name, patient, entry.path, problem=problem, counted=counted, evidence=evidence)]
        names = [pseudonyms.hash_recording(f"{identifier} region {region}") for region in range(regions)]
        return [
            RegionRecording(name, patient, entry.path, region=region, evidence=evidence)
            for region, name in enumerate(names)
        ]


def read_single_frame(path: Path, limits: Limits) -> np.ndarray:
    """Read a DICOM image of any modality as uint8, gray (1, H, W) or RGB (1, H, W, 3). Raises ``Rejected``."""
    dataset, frames = read_pixels(path, limits)
    if str(dataset.get("BurnedInAnnotation", "")).strip().upper() == "YES":
        raise Rejected("text that may name the patient is burned into the pixels (BurnedInAnnotation)")
    return frames


def _rejection_reason(values: dict[str, str], media_class: str) -> tuple[str | None, bool]:
    """Return the reason for rejecting a file, or None, and whether the file counts for ``max_rejected``."""
    sop_class = values["SOPClassUID"] or media_class
    ultrasound = values["Modality"] == "US" or (
        not values["Modality"] and (sop_class in _MULTI_FRAME_CLASSES or sop_class.startswith(_ULTRASOUND_CLASS))
    )
    if media_class == _DICOMDIR_CLASS:
        return "not a recording: a DICOM directory", False
    if not ultrasound and values["Modality"]:
        return "not a recording: not ultrasound", False
    if not ultrasound:
        return "neither Modality nor SOPClassUID is that of ultrasound", True
    frames = values["NumberOfFrames"]
    if frames.isdecimal() and int(frames[:10]) > 1:
        return None, True
    if not frames and sop_class in _MULTI_FRAME_CLASSES:
        return "a multi-frame file without NumberOfFrames", True
    return "not a recording: a still image", False


def _frame_times(dataset: "Dataset", count: int, fallback: float | None) -> tuple[np.ndarray, float]:
    """Read the times of the frames in seconds and the frame rate from the first tag with plausible values.

    FrameTimeVector is ignored if FrameIncrementPointer points to FrameTime. Raises ``Rejected`` if no rate is known.
    """
    is_uniform = dataset.get("FrameIncrementPointer") == _FRAME_TIME_TAG and dataset.get("FrameTime")
    vector = [] if is_uniform else tag_numbers(dataset.get("FrameTimeVector"))
    steps = np.asarray(vector, dtype=np.float64) / 1000
    if len(steps) == count:
        steps = steps[1:]  # the first value is the time before the first frame
    if count > 1 and len(steps) == count - 1 and (steps > 0).all():
        times = np.concatenate([[0.0], np.cumsum(steps)])
        return times, (count - 1) / float(times[-1])
    rates = [1000 / step for step in tag_numbers(dataset.get("FrameTime"))[:1] if step > 0]
    for tag in ("CineRate", "RecommendedDisplayFrameRate"):
        rates += tag_numbers(dataset.get(tag))[:1]
    for rate in [*rates, fallback or 0.0]:
        if rate > 0:
            return uniform_times(count, rate), rate
    raise Rejected("no frame time: the file has no FrameTime and no frame rate, and data.source.fps is not set")


def _region_boxes(dataset: "Dataset") -> list[Box] | None:
    """List the boxes of the 2-D image regions; None if all regions have another format, such as Doppler spectra."""
    regions = list(dataset.get(_REGIONS_TAG) or [])
    image_regions = [region for region in regions if int(region.get("RegionSpatialFormat", 1)) == 1]
    if regions and not image_regions:
        return None
    corners = ("MinX0", "MinY0", "MaxX1", "MaxY1")
    boxes = [[int(region[f"RegionLocation{corner}"].value) for corner in corners] for region in image_regions]
    return [(left, top, right, bottom) for left, top, right, bottom in boxes]


def _crop_to_boxes(frames: np.ndarray, boxes: list[Box]) -> np.ndarray:
    """Crop ``frames``, (F, H, W[, C]), to the area of ``boxes``. Raises ``Rejected`` for boxes outside the image."""
    (left, top), (right, bottom) = np.min(boxes, axis=0)[:2], np.max(boxes, axis=0)[2:]
    height, width = frames.shape[1:3]
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise Rejected("one of several 2-D image regions lies outside the image")
    return frames[:, top : bottom + 1, left : right + 1]
