"""Any folder of images, with an optional csv that says what each of them is: recordings of one frame."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from echodream import validation
from echodream.errors import UserError
from echodream.ingest.csv_tables import check_column_names
from echodream.ingest.dicom import read_still
from echodream.ingest.folder_source import FolderSource
from echodream.ingest.labels import LabelPolicy, check_label_names
from echodream.ingest.listing import RawFile
from echodream.ingest.media_files import IMAGE_SUFFIXES, read_image_sequence
from echodream.ingest.pixels import make_video
from echodream.ingest.pseudonym import Pseudonyms
from echodream.ingest.source import CellValue, Limits, Recording, Video

FPS = 1.0
"""Frames per second of an image: a store wants a number there, and nothing follows from it."""
DICOM_SUFFIXES = (".dcm", ".dicom")


@dataclass(frozen=True)
class Images(FolderSource):
    """Every png, jpg, bmp, tif and still DICOM file below ``raw``, each a recording of one frame.

    FileName is the file's name without its suffix, or the whole path below ``raw`` where two share it. With a csv,
    each row and each file has to find the other. Deeper pixels than 8 bit are scaled as ``pixels.to_uint8`` has it.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    """Label -> the csv column that holds it as 1, 0, -1 (uncertain) or nothing, or ``column=value``: 1 where the column
    holds this value, 0 where another."""
    uncertain: float | None = None
    """What is stored for -1; None: an empty cell."""
    missing: float | None = None
    """What is stored for an empty cell; None: an empty cell."""
    key_file: str | None = field(default=None, metadata={"private": True})
    """File with a secret key (made if it does not exist) that turns FileName and PatientID into pseudonyms, as for
    DICOM. None: they stay as they are."""

    kind: ClassVar[str] = "images"
    wanted: ClassVar[str] = "image"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "labels", validation.column_names("labels", self.labels))
        check_label_names(tuple(self.labels))
        check_column_names(tuple(self.labels), "labels")
        LabelPolicy(self.uncertain, self.missing)
        if self.labels and self.csv is None:
            raise UserError("labels needs csv=")
        if twice := sorted(set(self.labels) & set(self.columns)):
            raise UserError(f"{twice[0]} stands in labels and in columns: leave it out of one")
        if self.key_file is not None:
            validation.text("key_file", self.key_file)

    def recordings(self, raw: Path | None) -> list[Recording]:
        """List every file below ``raw``; see ``Source``."""
        listed = super().recordings(raw)
        for name, column in self.labels.items():
            if "=" in column and not any(recording.columns.get(name) == 1 for recording in listed):
                raise UserError(f"labels.{name} is {column}, but no image of {self.csv} has it: check column and value")
        if self.key_file is None:
            return listed
        pseudonyms = Pseudonyms.from_file(Path(self.key_file).expanduser())
        return [
            replace(r, name=pseudonyms.recording(r.name), patient=pseudonyms.patient(r.patient) if r.patient else "")
            for r in listed
        ]

    def group(self, entries: Iterable[RawFile], root: Path) -> tuple[dict[str, RawFile], list[RawFile]]:
        """Key -> image, and the files that are none."""
        found: dict[str, RawFile] = {}
        others: list[RawFile] = []
        for entry in entries:
            if is_image(entry):
                found[entry.relative] = entry
            else:
                others.append(entry)
        return found, others

    def read(self, recording: Recording, limits: Limits) -> Video:
        """Decode one image; see ``Source``."""
        assert recording.path is not None
        return read_image(recording.path, limits)

    def read_columns(self) -> dict[str, str]:
        """Name -> csv column, those of the labels too."""
        return {**super().read_columns(), **{name: column.partition("=")[0] for name, column in self.labels.items()}}

    def study_columns(self, taken: Mapping[str, str], where: str) -> dict[str, CellValue]:
        """The study columns of a row, labels by ``labels.Policy``."""
        policy = LabelPolicy(self.uncertain, self.missing)
        found = super().study_columns(taken, where)
        for name, column in self.labels.items():
            _, equals, wanted = column.partition("=")
            label = policy.equals(taken[name], wanted) if equals else policy.read(taken[name], where)
            if label is not None:
                found[name] = label
        return found


def is_image(entry: RawFile) -> bool:
    """Whether a file's name says that it is an image."""
    return not entry.path.name.startswith(".") and entry.path.suffix.lower() in (*IMAGE_SUFFIXES, *DICOM_SUFFIXES)


def read_image(path: Path, limits: Limits) -> Video:
    """An image file as a ``Video`` of one frame. Raises ``Rejected``."""
    if path.suffix.lower() in DICOM_SUFFIXES:
        return make_video(read_still(path, limits), np.zeros(1), FPS)
    return read_image_sequence([path], limits, FPS)
