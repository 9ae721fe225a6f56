"""Key frames of the cardiac cycle: end diastole and end systole in the columns ED and ES of FileList.csv."""

import logging
from dataclasses import dataclass

import numpy as np

from echodream.datamodules.recordings import Recordings
from echodream.errors import UserError, shortened_list
from echodream.store.table import parse_key_frames

log = logging.getLogger(__name__)

KeyFrameTriple = tuple[int, int, int]
"""Frame numbers of an end diastole, the next end systole, and the next end diastole."""


def find_key_frame_triples(rows: Recordings, row: int) -> list[KeyFrameTriple]:
    """ED-ES-ED triples of consecutive key frames of a recording. Raises ``UserError`` for invalid frame numbers."""
    subject, frames = f"{rows.store.root}: {rows.names[row]}", int(rows.frames[row])
    cells = {kind: str(rows.column(kind)[row]) for kind in ("ED", "ES")}
    parsed = {kind: parse_key_frames(cell, frames, f"{subject} has {kind}") for kind, cell in cells.items()}
    marks = sorted((frame, kind) for kind, numbers in parsed.items() for frame in numbers)
    return [
        (first, middle, last)
        for (first, a), (middle, b), (last, c) in zip(marks, marks[1:], marks[2:], strict=False)
        if (a, b, c) == ("ED", "ES", "ED") and first < middle < last
    ]


def recordings_with_triples(rows: Recordings) -> Recordings:
    """Recordings with an ED-ES-ED triple; logs the names of all others. Raises ``UserError`` if none has a triple."""
    usable = [row for row in range(len(rows)) if find_key_frame_triples(rows, row)]
    where = f"{rows.store.root}: split {rows.split}"
    if not usable:
        example = f"{rows.names[0]} has ED {rows.column('ED')[0]!r} and ES {rows.column('ES')[0]!r}"
        remedy = "mark one beat of each recording, or use another view"
        raise UserError(f"{where}: no recording has ED-ES-ED key frames; {example}: {remedy}")
    if len(usable) == len(rows):
        return rows
    missing = shortened_list([rows.names[row] for row in sorted(set(range(len(rows))) - set(usable))], max_names=8)
    count = f"{len(rows) - len(usable)} of {len(rows)}"
    log.warning("%s: %s recordings have no ED-ES-ED key frames and are left out: %s", where, count, missing)
    return rows.select(usable)


def marked_triples(rows: Recordings, row: int) -> list[KeyFrameTriple]:
    """Triples of ``find_key_frame_triples``; an empty list if the store has no columns ED and ES."""
    return find_key_frame_triples(rows, row) if {"ED", "ES"} <= set(rows.table.columns) else []


def evenly_spaced_frames(frames: int, count: int) -> np.ndarray:
    """Indices, int64 (count,), of evenly spaced frames from first to last; the middle frame if ``count`` is 1."""
    if count == 1:
        return np.array([frames // 2])
    return np.linspace(0, frames - 1, count).round().astype(np.int64)


def nearest_triple(triples: list[KeyFrameTriple], frame: float) -> KeyFrameTriple:
    """Triple whose end systole is nearest to ``frame``; the earlier triple if two are equally near."""
    return min(triples, key=lambda triple: abs(triple[1] - frame))


@dataclass(frozen=True)
class Beat:
    """Times of the key frames of one heart beat, in frames after the first end diastole."""

    systole: float
    """Time of end systole."""
    length: float
    """Time of the next end diastole."""

    def key_frame_times(self, beats: int) -> tuple[list[int], list[float]]:
        """Key frames (0 ED, 1 ES, 2 next ED) of ``beats`` consecutive beats, and their times in frames."""
        key_frames, times = [0], [0.0]
        for beat in range(beats):
            key_frames += [1, 2]
            times += [beat * self.length + self.systole, (beat + 1) * self.length]
        return key_frames, times
