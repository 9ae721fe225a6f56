"""What a source of recordings is: it lists them cheaply, and reads one at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from echodream import validation
from echodream.errors import Rejected, UserError

CellValue = str | int | float


@dataclass(frozen=True)
class Limits:
    """Bounds that a header is held to before a single frame is decoded, so that memory stays bounded."""

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
                raise UserError(
                    f"data.limits.min_{name} is {least}, more than data.limits.max_{name}, {most}: exchange them"
                )

    def check(self, frames: int, height: int, width: int, channels: int = 3) -> None:
        """Raise ``Rejected`` when a recording of ``frames`` x ``height`` x ``width`` is out of bounds."""
        if frames < self.min_frames:
            raise Rejected(f"too short: {frames} frames, at least {self.min_frames} are needed")
        if frames > self.max_frames:
            raise Rejected(f"too long: {frames} frames, at most {self.max_frames} are taken")
        if min(height, width) < self.min_side:
            raise Rejected(f"too small: {width}x{height}, each side needs at least {self.min_side} pixels")
        if max(height, width) > self.max_side:
            raise Rejected(f"too large: {width}x{height}, each side may have at most {self.max_side} pixels")
        if (size := frames * height * width * channels) > self.max_bytes:
            raise Rejected(f"too large: {size} bytes when decoded, at most {self.max_bytes} are taken")


@dataclass(frozen=True)
class Recording:
    """One recording as the listing of a raw study shows it, before any pixel is read."""

    name: str
    """FileName in the store (``store.schema.is_valid_name``). Never a patient's name or an institution's number."""
    patient: str
    """PatientID in the store: the unit of splits and of privacy."""
    path: Path | None = None
    """The raw file; None where the source needs none (the phantom)."""
    split: str | None = None
    """TRAIN, VAL or TEST where the study gives one; None to have it drawn."""
    columns: Mapping[str, CellValue] = field(default_factory=dict)
    """Study columns: class_id, class_name, EF, View, ..."""
    problem: str | None = None
    """Why the recording cannot be read, where the listing alone shows it: becomes its row in ``rejected.csv``."""
    counted: bool = True
    """False for a file that is no recording (a read-me): in ``rejected.csv``, not held against ``max_rejected``."""


@dataclass(frozen=True)
class Video:
    """The decoded frames of one recording, as the raw file has them."""

    frames: np.ndarray
    """uint8, (F, H, W, C) with C 1 (grey) or 3 (RGB)."""
    times: np.ndarray
    """float64, (F,): when each frame was taken, in seconds, from 0, strictly increasing."""
    fps: float
    """Nominal frames per second of the raw file (the last frame lasts 1 / fps)."""
    columns: Mapping[str, CellValue] = field(default_factory=dict)
    """Columns that only reading shows."""
    marks: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Moments in seconds, by column name (ED, ES): stored as frame numbers after resampling."""


class Source(Protocol):
    """A raw study layout. Implementations are frozen dataclasses, so that they can be sent to worker processes."""

    def recordings(self, raw: Path | None) -> list[Recording]:
        """List every recording below ``raw`` in a fixed order, each file accounted for, without decoding pixels.

        Raises ``UserError`` when ``raw`` is not such a study at all (missing folder, missing csv, missing column).
        """
        ...

    def read(self, recording: Recording, limits: Limits) -> Video:
        """Decode one recording. Raises ``Rejected`` with the reason when it cannot be used."""
        ...
