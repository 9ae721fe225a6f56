"""Interface of a source of recordings: it lists the recordings of a study and decodes them one by one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from echodream import validation
from echodream.errors import Rejected, UserError

CellValue = str | int | float
"""Value of a study column."""


@dataclass(frozen=True)
class Limits:
    """Limits of the size of a recording, checked in the header of its file before frames are decoded. Raises
    ``UserError`` for invalid limits."""

    min_frames: int = 2
    max_frames: int = 20_000
    min_side: int = 16
    max_side: int = 4_096
    max_bytes: int = 4_000_000_000

    def __post_init__(self) -> None:
        for name in ("min_frames", "max_frames", "min_side", "max_side", "max_bytes"):
            validation.whole_number(f"data.limits.{name}", getattr(self, name), 1)
        for name in ("frames", "side"):
            least, most = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if least > most:
                raise UserError(f"data.limits.min_{name} is {least}, more than max_{name}={most}: lower the minimum")

    def check(self, frames: int, height: int, width: int, channels: int = 3) -> None:
        """Raise ``Rejected`` when a recording of ``frames`` x ``height`` x ``width`` exceeds the limits."""
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
    """What raw files and tables say about the patient of a recording: checked at ingest, never stored or pickled."""

    identifier: str
    """The patient before pseudonymization; for a patient per file or folder its path; "" if there is none."""
    kind: str = "id"
    """"id" (of a table or tag), "file", "folder" (a path), or "level" (the name of a folder)."""
    study: str = ""
    """The examination, as the StudyInstanceUID."""
    person: Mapping[str, str] = field(default_factory=dict)
    """Values that all recordings of one patient share, as the date of birth; without empty ones."""

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return _no_evidence, ()


def _no_evidence() -> None:
    """What a pickled ``PatientEvidence`` becomes, so that it does not leave the process."""


@dataclass(frozen=True)
class Recording:
    """One recording in the listing of a raw study, before its pixels are read."""

    name: str
    """FileName in the store (``store.schema.is_valid_name``). Never the name or hospital number of a patient."""
    patient: str
    """PatientID in the store, the unit of splits and of privacy."""
    path: Path | None = None
    """The raw file; None for a source without files (the phantom)."""
    split: str | None = None
    """TRAIN, VAL or TEST, if the study defines splits; None for a random split."""
    columns: Mapping[str, CellValue] = field(default_factory=dict)
    """Study columns: class_id, class_name, EF, View, ..."""
    problem: str | None = None
    """Reason for rejection that is known from the listing; it is written to ``rejected.csv``."""
    counted: bool = True
    """False for a file that is not a recording (a README), which does not count for ``max_rejected``."""
    evidence: PatientEvidence | None = field(default=None, repr=False)
    """For ``patients.check_patients``; None: the source knows its patients."""

    @property
    def file(self) -> Path:
        """The raw file of a recording of a source with files."""
        assert self.path is not None
        return self.path


@dataclass(frozen=True)
class Video:
    """The decoded frames of one recording, before preprocessing."""

    frames: np.ndarray
    """uint8, (F, H, W, C) with C 1 (grey) or 3 (RGB)."""
    times: np.ndarray
    """float64, (F,): time of each frame in seconds, from 0, strictly increasing."""
    fps: float
    """Nominal frame rate of the raw file; the last frame lasts 1 / fps seconds."""
    columns: Mapping[str, CellValue] = field(default_factory=dict)
    """Columns that are known only after decoding."""
    marks: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Column (ED, ES) -> times in seconds; stored as frame numbers after resampling."""
    pixel_aspect: float = 1.0
    """Width of a pixel divided by its height. The store has square pixels."""


class Source(Protocol):
    """The layout of a raw study. Implementations are frozen dataclasses, so that worker processes can receive them."""

    def recordings(self, raw: Path | None) -> list[Recording]:
        """List all recordings below ``raw`` in a fixed order without decoding pixels. Every file is listed.

        Raises ``UserError`` when ``raw`` is not such a study (missing folder, csv or column).
        """
        ...

    def read(self, recording: Recording, limits: Limits) -> Video:
        """Decode one recording. Raises ``Rejected`` with the reason if it cannot be used."""
        ...
