"""Key frames of the heart's cycle, from the ED and ES columns: frame numbers separated by spaces."""

import logging
from dataclasses import dataclass

from echodream.datamodules.recordings import Recordings
from echodream.errors import UserError

log = logging.getLogger(__name__)

Triple = tuple[int, int, int]


def find_triples(rows: Recordings, row: int) -> list[Triple]:
    """Every end diastole, with the end systole and the end diastole that follow it at once.

    Raises ``UserError`` naming the recording when a mark is no frame of it.
    """
    marks = sorted((frame, kind) for kind in ("ED", "ES") for frame in _marks(rows, row, kind))
    return [
        (first, middle, last)
        for (first, a), (middle, b), (last, c) in zip(marks, marks[1:], marks[2:], strict=False)
        if (a, b, c) == ("ED", "ES", "ED") and first < middle < last
    ]


def recordings_with_triples(rows: Recordings) -> Recordings:
    """The recordings that have a triple; the log names those that have none. Raises ``UserError`` when none has."""
    found = [row for row in range(len(rows)) if find_triples(rows, row)]
    where = f"{rows.store.root}: split {rows.split}"
    if not found:
        raise UserError(
            f"{where}: {rows.names[0]} has no ED-ES-ED key frames (ED {rows.column('ED')[0]!r}, ES "
            f"{rows.column('ES')[0]!r}), and no other recording has: mark one whole beat of each, or use another view"
        )
    if len(found) == len(rows):
        return rows
    missing = [name for row, name in enumerate(rows.names) if row not in set(found)]
    more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
    log.warning(
        "%s: %d of %d recordings have no ED-ES-ED key frames and are left out: %s%s",
        where,
        len(missing),
        len(rows),
        ", ".join(missing[:8]),
        more,
    )
    return rows.select(found)


def _marks(rows: Recordings, row: int, kind: str) -> list[int]:
    text = str(rows.column(kind)[row])
    try:
        marks = [int(word) for word in text.split()]
    except ValueError:
        marks = [-1]
    if any(not 0 <= mark < rows.frames[row] for mark in marks):
        raise UserError(
            f"{rows.store.root}: {rows.names[row]} has {kind} {text[:60]!r}, not frame numbers from 0 to "
            f"{rows.frames[row] - 1} separated by spaces: correct it, or use another view"
        )
    return marks


def nearest_triple(found: list[Triple], middle: float) -> Triple:
    """The triple whose end systole lies nearest the frame ``middle``; the earlier of two that are as near."""
    return min(found, key=lambda triple: abs(triple[1] - middle))


@dataclass(frozen=True)
class Beat:
    """When key frames are seen: end systole and the next end diastole, in frames from the first end diastole."""

    systole: float
    length: float

    def stretched(self, factor: float) -> "Beat":
        """A beat ``factor`` times as long."""
        return Beat(self.systole * factor, self.length * factor)

    def placed(self, beats: int) -> tuple[list[int], list[float]]:
        """Which of the three key frames (ED 0, ES 1, ED 2) is seen when, over ``beats`` one after the other."""
        which, times = [0], [0.0]
        for beat in range(beats):
            which += [1, 2]
            times += [beat * self.length + self.systole, (beat + 1) * self.length]
        return which, times
