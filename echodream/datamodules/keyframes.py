"""Key frames of the heart's cycle, from the ED and ES columns: frame numbers separated by spaces."""

from echodream.datamodules.recordings import Recordings
from echodream.errors import UserError

Triple = tuple[int, int, int]


def triples(rows: Recordings, row: int) -> list[Triple]:
    """Every end diastole, with the end systole and the end diastole that follow it at once; at least one.

    Raises ``UserError`` naming the recording when a mark is no frame of it, or when there is no such triple.
    """
    marks = sorted((frame, kind) for kind in ("ED", "ES") for frame in _marks(rows, row, kind))
    found = [
        (first, middle, last)
        for (first, a), (middle, b), (last, c) in zip(marks, marks[1:], marks[2:], strict=False)
        if (a, b, c) == ("ED", "ES", "ED") and first < middle < last
    ]
    if not found:
        raise UserError(
            f"{rows.store.root}: {rows.names[row]} has no ED-ES-ED key frames (ED {rows.column('ED')[row]!r}, ES "
            f"{rows.column('ES')[row]!r}): mark one whole beat, leave the recording out, or use another view"
        )
    return found


def check_triples(rows: Recordings) -> None:
    """Raise ``UserError`` unless every recording has a triple."""
    for row in range(len(rows)):
        triples(rows, row)


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


def nearest(found: list[Triple], middle: float) -> Triple:
    """The triple whose end systole lies nearest the frame ``middle``; the earlier of two that are as near."""
    return min(found, key=lambda triple: abs(triple[1] - middle))
