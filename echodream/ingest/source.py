"""Interface ``Source`` of the raw studies, and the recordings and videos that a source returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from echodream import validation
from echodream.errors import Rejected, UserError

CellValue = str | int | float
"""Type of the values of a study column."""


@dataclass(frozen=True)
class Limits:
    """Limits of the size of a recording; file headers are checked before frames are decoded. Raises ``UserError``."""

    min_frames: int = 2
    max_frames: int = 20_000
    min_side: int = 16
    max_side: int = 4_096
    max_bytes: int = 4_000_000_000

    def __post_init__(self) -> None:
        for name in ("min_frames", "max_frames", "min_side", "max_side", "max_bytes"):
            validation.whole_number(f"data.limits.{name}", getattr(self, name), 1)
        for name in ("frames", "side"):
            minimum, maximum = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if minimum > maximum:
                raise UserError(f"data.limits.min_{name} is {minimum}, more than max_{name}={maximum}: lower it")

    def check(self, frames: int, height: int, width: int, channels: int = 3) -> None:
        """Raise ``Rejected`` if a recording of ``frames`` x ``height`` x ``width`` pixels is outside the limits."""
        if frames < self.min_frames:
            raise Rejected(f"too short: {frames} frames, at least {self.min_frames} are needed")
        if frames > self.max_frames:
            raise Rejected(f"too long: {frames} frames, the limit is {self.max_frames}")
        if min(height, width) < self.min_side:
            raise Rejected(f"too small: {width}x{height}, each side needs at least {self.min_side} pixels")
        if max(height, width) > self.max_side:
            raise Rejected(f"too large: {width}x{height}, each side may have at most {self.max_side} pixels")
        if (size := frames * height * width * channels) > self.max_bytes:
            raise Rejected(f"too large: {size} bytes when decoded, the limit is {self.max_bytes}")


@dataclass(frozen=True)
class PatientEvidence:
    """Identifying data on the patient of a recording, for ``check_patients``; neither stored nor pickled."""

    identifier: str
    """Patient identifier before pseudonymization, or the path of the patient's file or folder; "" if there is none."""
    kind: str = "id"
    """Origin of ``identifier``: "id" (a table or tag), "file" or "folder" (a path), "level" (the name of a folder)."""
    study: str = ""
    """Identifier of the examination, such as the StudyInstanceUID; "" if unknown."""
    patient_constants: Mapping[str, str] = field(default_factory=dict)
    """Non-empty values that are the same in all recordings of a patient, such as the date of birth."""

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()  # unpickling gives None, so identifying data does not leave the process


@dataclass(frozen=True)
class Recording:
    """One recording in the listing of a raw study, before its pixels are read."""

    name: str
    """FileName in the store (``store.schema.is_valid_name``), without the name or hospital number of a patient."""
    patient: str
    """PatientID in the store, the unit of splits and of privacy."""
    path: Path | None = None
    """Raw file of the recording; None for the phantom, which has no files."""
    split: str | None = None
    """TRAIN, VAL or TEST, if the study defines splits; None for a random split."""
    columns: Mapping[str, CellValue] = field(default_factory=dict)
    """Values of the study columns, such as class_id, class_name, EF, View."""
    problem: str | None = None
    """Reason for rejection that is known before decoding; ``rejected.csv`` lists the reason."""
    counted: bool = True
    """Whether a rejected recording counts for ``max_rejected``; False for files such as a README."""
    evidence: PatientEvidence | None = field(default=None, repr=False)
    """Identifying data for ``patients.check_patients``; None if the PatientID needs no check."""

    @property
    def file(self) -> Path:
        """Raw file of the recording; ``path`` must not be None."""
        assert self.path is not None
        return self.path


@dataclass(frozen=True)
class Video:
    """The decoded frames of one recording, before preprocessing."""

    frames: np.ndarray
    """Pixels, uint8, (F, H, W, C) with C 1 (gray) or 3 (RGB)."""
    times: np.ndarray
    """Time of each frame in seconds, float64, (F,), starting at 0 and strictly increasing."""
    fps: float
    """Nominal frame rate of the raw file; the last frame lasts 1 / fps seconds."""
    columns: Mapping[str, CellValue] = field(default_factory=dict)
    """Values of study columns that are known only after decoding."""
    marks: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Column (ED, ES) -> times in seconds; the store has frame numbers instead."""
    pixel_aspect: float = 1.0
    """Width of a pixel divided by its height. The store has square pixels."""


class Source(Protocol):
    """Reader of the file layout of a raw study: a frozen dataclass, which worker processes can unpickle."""

    def recordings(self, raw: Path | None) -> list[Recording]:
        """List all recordings and other files below ``raw`` in a fixed order, without decoding pixels.

        Raises ``UserError`` if a folder, csv or column of the study is missing.
        """

    def read(self, recording: Recording, limits: Limits) -> Video:
        """Decode one recording. Raises ``Rejected`` with the reason if the recording cannot be used."""
