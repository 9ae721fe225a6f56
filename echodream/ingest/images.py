"""A folder of images with an optional csv. Each image is a recording of one frame."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from echodream import validation
from echodream.errors import UserError
from echodream.ingest.csv_tables import Row, check_column_names
from echodream.ingest.dicom import read_still
from echodream.ingest.dicom_pixels import is_dicom
from echodream.ingest.folder_source import FolderSource
from echodream.ingest.labels import LabelPolicy
from echodream.ingest.listing import RawFile
from echodream.ingest.media_files import DICOM_SUFFIXES, IMAGE_SUFFIXES, read_image_sequence
from echodream.ingest.pixels import make_video
from echodream.ingest.pseudonym import Pseudonyms
from echodream.ingest.source import CellValue, Limits, Recording, Video

FPS = 1.0
"""Frame rate of an image, which has no meaning; a store requires a number."""
_IMAGE_SUFFIXES = (*IMAGE_SUFFIXES, ".gif")
_OTHER_DICOM_SUFFIX = re.compile(r"(\.\d+)?")
"""Of files such as IM0001 or 1.2.840.113619.2.5, which count as images if they are DICOM."""


@dataclass(frozen=True)
class Images(FolderSource):
    """All png, jpg, bmp, tif and single-frame DICOM files below ``raw``.

    FileName, csv and patients: see ``FolderSource``. Images with more than 8 bits are scaled by ``pixels.to_uint8``.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    """Label -> csv column with 1, 0, -1 (uncertain) or an empty cell; or -> ``column=value``: the label is 1 where the
    column has this value, else 0."""
    uncertain: float | None = None
    """Stored value for -1; None stores an empty cell."""
    missing: float | None = None
    """Stored value for an empty cell; None stores an empty cell."""
    key_file: str | None = field(default=None, metadata={"private": True})
    """File with a secret key (created if it does not exist) that replaces FileName and PatientID by pseudonyms, as for
    DICOM. None: no pseudonyms."""

    kind: ClassVar[str] = "images"
    expected_files: ClassVar[str] = "image"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "labels", validation.column_names("labels", self.labels))
        check_column_names(tuple(self.labels), "labels")
        LabelPolicy(self.uncertain, self.missing)
        if self.labels and self.csv is None:
            raise UserError("labels needs csv=")
        if duplicates := sorted(set(self.labels) & set(self.columns)):
            raise UserError(f"{duplicates[0]} is in labels and in columns: remove it from one of them")
        if self.key_file is not None:
            validation.text("key_file", self.key_file)

    def recordings(self, raw: Path | None) -> list[Recording]:
        listed = super().recordings(raw)
        for name, column in self.labels.items():
            if "=" in column and not any(recording.columns.get(name) == 1 for recording in listed):
                raise UserError(f"labels.{name} is {column}, but no image of {self.csv} has it: check column and value")
        if self.key_file is None:
            return listed
        pseudonyms = Pseudonyms.from_file(Path(self.key_file).expanduser())
        return [
            replace(
                r,
                name=pseudonyms.hash_recording(r.name),
                patient=pseudonyms.hash_patient(r.patient) if r.patient else "",
            )
            for r in listed
        ]

    def group(self, entries: Iterable[RawFile], root: Path) -> tuple[dict[str, RawFile], list[RawFile]]:
        """Key -> image, and the files that are not images."""
        entries = list(entries)
        images = {entry.relative: entry for entry in entries if is_image(entry)}
        return images, [entry for entry in entries if not is_image(entry)]

    def read(self, recording: Recording, limits: Limits) -> Video:
        return read_image(recording.file, limits)

    def read_columns(self) -> dict[str, str]:
        """Name -> csv column, including the labels."""
        return {**super().read_columns(), **{name: column.partition("=")[0] for name, column in self.labels.items()}}

    def study_columns(self, row: Row, numeric: Iterable[str]) -> dict[str, CellValue]:
        """The study columns of a row, including labels, which ``LabelPolicy`` parses."""
        policy = LabelPolicy(self.uncertain, self.missing)
        values = super().study_columns(row, numeric)
        for name, entry in self.labels.items():
            column, equals, value = entry.partition("=")
            text, where = row[column], row.where(column)
            label = policy.parse_equal(text, value, where) if equals else policy.parse(text, where)
            if label is not None:
                values[name] = label
        return values


def is_image(entry: RawFile) -> bool:
    """Whether the file has a suffix of an image format, or none and the content of a DICOM file, and is not hidden."""
    suffix = entry.path.suffix.lower()
    if entry.path.name.startswith(".") or suffix in (*_IMAGE_SUFFIXES, *DICOM_SUFFIXES):
        return not entry.path.name.startswith(".")
    return _OTHER_DICOM_SUFFIX.fullmatch(suffix) is not None and not entry.problem and is_dicom(entry.path)


def read_image(path: Path, limits: Limits) -> Video:
    """Read an image file as a ``Video`` of one frame. Raises ``Rejected``."""
    if path.suffix.lower() not in _IMAGE_SUFFIXES:
        return make_video(read_still(path, limits), np.zeros(1), FPS)
    return read_image_sequence([path], limits, FPS)
