"""Source of a folder of images with an optional csv. Each image is a recording of one frame."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from echodream import validation
from echodream.errors import UserError
from echodream.ingest.csv_tables import Row, check_column_names
from echodream.ingest.dicom import read_single_frame
from echodream.ingest.dicom_pixels import is_dicom
from echodream.ingest.folder_source import FolderSource
from echodream.ingest.labels import LabelPolicy
from echodream.ingest.listing import RawFile
from echodream.ingest.media_files import DICOM_SUFFIXES, IMAGE_SUFFIXES, read_image_sequence
from echodream.ingest.pixels import make_video
from echodream.ingest.pseudonym import Pseudonyms
from echodream.ingest.source import CellValue, Limits, Recording, Video

_IMAGE_FPS = 1.0
"""Nominal frame rate of a single image; a store requires a frame rate."""
_SINGLE_IMAGE_SUFFIXES = (*IMAGE_SUFFIXES, ".gif")
_OTHER_DICOM_SUFFIX = re.compile(r"(\.\d+)?")
"""Suffixes of possible DICOM files such as IM0001 or 1.2.840.113619.2.5."""


@dataclass(frozen=True)
class Images(FolderSource):
    """Reads all png, jpg, bmp, tif and single-frame DICOM files below ``raw``.

    See ``FolderSource`` for FileName, csv and patients. ``pixels.to_uint8`` scales images of more than 8 bits.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    """Label -> csv column with 1, 0, -1 (uncertain) or an empty cell. With ``column=value``, the label is 1 if the
    column has this value, else 0."""
    uncertain: float | None = None
    """Stored value of an uncertain label (-1); None stores an empty cell."""
    missing: float | None = None
    """Stored value of a label whose csv cell is empty; None stores an empty cell."""
    key_file: str | None = field(default=None, metadata={"private": True})
    """File with the secret key of pseudonyms for FileName and PatientID; created if the file does not exist. None
    disables pseudonyms."""

    kind: ClassVar[str] = "images"
    expected_files: ClassVar[str] = "image"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "labels", validation.column_mapping("labels", self.labels))
        check_column_names(tuple(self.labels), "labels")
        LabelPolicy(self.uncertain, self.missing)
        if self.labels and self.csv is None:
            raise UserError("labels needs csv=, the table that contains the labels: set csv= or remove labels")
        if duplicates := sorted(set(self.labels) & set(self.columns)):
            raise UserError(f"{duplicates[0]} is in labels and in columns: remove it from one of them")
        if self.key_file is not None:
            validation.nonempty_text("key_file", self.key_file)

    def recordings(self, raw: Path | None) -> list[Recording]:
        listed = super().recordings(raw)
        for name, column in self.labels.items():
            if "=" in column and not any(recording.columns.get(name) == 1 for recording in listed):
                raise UserError(f"labels.{name}: no image of {self.csv} has {column}: correct the column or the value")
        if self.key_file is None:
            return listed
        pseudonyms = Pseudonyms.from_file(Path(self.key_file).expanduser())
        for index, recording in enumerate(listed):
            patient = pseudonyms.hash_patient(recording.patient) if recording.patient else ""
            listed[index] = replace(recording, name=pseudonyms.hash_recording(recording.name), patient=patient)
        return listed

    def group_files(self, entries: Sequence[RawFile], root: Path) -> tuple[dict[str, RawFile], list[RawFile]]:
        """Separate ``entries`` into images (path below ``root`` -> file) and all other files."""
        images = {entry.relative_path: entry for entry in entries if is_image(entry)}
        return images, [entry for entry in entries if entry.relative_path not in images]

    def read(self, recording: Recording, limits: Limits) -> Video:
        return read_image(recording.file, limits)

    def csv_columns(self) -> dict[str, str]:
        """Return store column -> csv column, including the labels."""
        return {**super().csv_columns(), **{name: column.partition("=")[0] for name, column in self.labels.items()}}

    def parse_study_columns(self, row: Row, numeric_columns: Iterable[str]) -> dict[str, CellValue]:
        """Parse the study columns and the labels of a csv row. Raises ``UserError``."""
        policy = LabelPolicy(self.uncertain, self.missing)
        values = super().parse_study_columns(row, numeric_columns)
        for name, entry in self.labels.items():
            column, equals, value = entry.partition("=")
            text, location = row[column], row.location(column)
            label = policy.parse_category(text, value, location) if equals else policy.parse(text, location)
            if label is not None:
                values[name] = label
        return values


def is_image(entry: RawFile) -> bool:
    """Whether a visible file has the suffix of an image format, or is DICOM and has no suffix or a number as suffix."""
    suffix = entry.path.suffix.lower()
    if entry.path.name.startswith("."):
        return False
    if suffix in (*_SINGLE_IMAGE_SUFFIXES, *DICOM_SUFFIXES):
        return True
    return _OTHER_DICOM_SUFFIX.fullmatch(suffix) is not None and not entry.problem and is_dicom(entry.path)


def read_image(path: Path, limits: Limits) -> Video:
    """Read an image file as a ``Video`` of one frame. Raises ``Rejected``."""
    if path.suffix.lower() not in _SINGLE_IMAGE_SUFFIXES:
        return make_video(read_single_frame(path, limits), np.zeros(1), _IMAGE_FPS)
    return read_image_sequence([path], limits, _IMAGE_FPS)
