"""Key frames of the cardiac cycle (end diastole, end systole), from the columns ED and ES of FileList.csv."""

import logging
from dataclasses import dataclass

import numpy as np

from echodream.datamodules.recordings import Recordings, shortened_list
from echodream.errors import UserError

log = logging.getLogger(__name__)

Triple = tuple[int, int, int]
"""Frame numbers of an end diastole, the following end systole, and the following end diastole."""


def find_triples(rows: Recordings, row: int) -> list[Triple]:
    """All ED-ES-ED triples of consecutive key frames of a recording.

    Raises ``UserError`` when the column ED or ES does not hold frame numbers of the recording.
    """
    marks = sorted((frame, kind) for kind in ("ED", "ES") for frame in _key_frames(rows, row, kind))
    return [
        (first, middle, last)
        for (first, a), (middle, b), (last, c) in zip(marks, marks[1:], marks[2:], strict=False)
        if (a, b, c) == ("ED", "ES", "ED") and first < middle < last
    ]


def recordings_with_triples(rows: Recordings) -> Recordings:
    """The recordings with at least one triple; logs the names of the others. Raises ``UserError`` if there are none."""
    usable = [row for row in range(len(rows)) if find_triples(rows, row)]
    where = f"{rows.store.root}: split {rows.split}"
    if not usable:
        raise UserError(
            f"{where}: no recording has ED-ES-ED key frames; {rows.names[0]} has ED {rows.column('ED')[0]!r} and ES "
            f"{rows.column('ES')[0]!r}: mark one beat of each recording, or use another view"
        )
    if len(usable) == len(rows):
        return rows
    missing = shortened_list([name for row, name in enumerate(rows.names) if row not in set(usable)], most=8)
    count = f"{len(rows) - len(usable)} of {len(rows)}"
    log.warning("%s: %s recordings have no ED-ES-ED key frames and are left out: %s", where, count, missing)
    return rows.select(usable)


def marked_triples(rows: Recordings, row: int) -> list[Triple]:
    """``find_triples``; an empty list if the store has no columns ED and ES."""
    return find_triples(rows, row) if {"ED", "ES"} <= set(rows.table.columns) else []


def evenly_spaced_frames(frames: int, count: int) -> np.ndarray:
    """Indices of ``count`` evenly spaced frames from the first to the last of ``frames``; the middle frame if ``count``
    is 1. int64, (count,)."""
    if count == 1:
        return np.array([frames // 2])
    return np.linspace(0, frames - 1, count).round().astype(np.int64)


def _key_frames(rows: Recordings, row: int, kind: str) -> list[int]:
    text, frames = str(rows.column(kind)[row]), int(rows.frames[row])
    return parse_key_frames(text, frames, f"{rows.store.root}: {rows.names[row]} has {kind}")


def parse_key_frames(text: str, frames: int, subject: str) -> list[int]:
    """Frame numbers in a cell of the column ED or ES of a recording with ``frames`` frames.

    Raises ``UserError``, beginning with ``subject``, if it holds anything else.
    """
    try:
        marks = [int(word) for word in text.split()]
    except ValueError:
        marks = [-1]
    if any(not 0 <= mark < frames for mark in marks):
        raise UserError(
            f"{subject} {text[:60]!r}, not frame numbers from 0 to {frames - 1} separated by spaces: correct it, or "
            "use another view"
        )
    return marks


def nearest_triple(triples: list[Triple], frame: float) -> Triple:
    """The triple whose end systole is nearest to ``frame``; of two equally near triples the earlier."""
    return min(triples, key=lambda triple: abs(triple[1] - frame))


@dataclass(frozen=True)
class Beat:
    """Times of the key frames of one beat, in frames after its first end diastole."""

    systole: float
    """Time of end systole."""
    length: float
    """Time of the next end diastole."""

    def stretched(self, factor: float) -> "Beat":
        """A beat that lasts ``factor`` times as long as this beat."""
        return Beat(self.systole * factor, self.length * factor)

    def key_frame_times(self, beats: int) -> tuple[list[int], list[float]]:
        """Key frames (ED 0, ES 1, next ED 2) of ``beats`` consecutive beats, and their times in frames."""
        key_frames, times = [0], [0.0]
        for beat in range(beats):
            key_frames += [1, 2]
            times += [beat * self.length + self.systole, (beat + 1) * self.length]
        return key_frames, times
