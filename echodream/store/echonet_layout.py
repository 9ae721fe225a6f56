"""Tables of EchoNet-Dynamic, as its dataset class ``echonet.datasets.Echo`` reads them: FileList, VolumeTracings."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from echodream.errors import UserError
from echodream.store.reader import Store
from echodream.store.schema import FILE_LIST
from echodream.store.table import parse_key_frames

Tables = dict[str, tuple[Sequence[str], list[dict[str, Any]]]]
"""File name -> first columns and rows of a csv file."""
TRACINGS = "VolumeTracings.csv"
_FILE_LIST_COLUMNS = ("FileName", "EF", "ESV", "EDV", "FrameHeight", "FrameWidth", "FPS", "NumberOfFrames", "Split")
"""Columns of EchoNet-Dynamic's FileList.csv."""
_CONTENT_COLUMNS = ("class_id", "class_name", "View", "HeartRate", "ED", "ES")
"""Further columns that describe the content of a recording; exported if the store has them."""
_TRACING_COLUMNS = ("FileName", "X1", "Y1", "X2", "Y2", "Frame")
_NO_VALUE = "nan"
"""Coordinate of an unknown point, which EchoNet's dataset class reads as a number."""


def check_names(store: Store) -> None:
    """Raise ``UserError`` if EchoNet's dataset class would leave out a recording, or not read its name as text."""
    import pandas as pd

    names = store.table["FileName"].tolist()
    parsed = pd.read_csv(io.StringIO("\n".join(["FileName", *names])))["FileName"].tolist()
    if bad := [name for name, read in zip(names, parsed, strict=True) if "." in name or read != name]:
        raise UserError(
            f"{store.root}: EchoNet's dataset class leaves out or misreads a recording called {bad[0]!r}: use names "
            "with a letter and without '.', or format=avi"
        )


def content_tables(rows: Sequence[Mapping[str, str]]) -> Tables:
    """FileList.csv with columns of EchoNet-Dynamic and of the recordings' content, without columns about patients."""
    columns = [*_FILE_LIST_COLUMNS, *(name for name in _CONTENT_COLUMNS if rows and name in rows[0])]
    return {FILE_LIST: (_FILE_LIST_COLUMNS, [{name: row.get(name, "") for name in columns} for row in rows])}


def csv_tables(rows: Sequence[Mapping[str, str]]) -> Tables:
    """FileList.csv and VolumeTracings.csv, which has the key frames of each recording, without coordinates.

    EchoNet's dataset class leaves out recordings with fewer than two frames in VolumeTracings.csv. The class takes
    the first of these frames as end systole, and the last as end diastole. Raises ``UserError`` for invalid key frames.
    """
    tracings = [
        {"FileName": f"{row['FileName']}.avi", **dict.fromkeys(("X1", "Y1", "X2", "Y2"), _NO_VALUE), "Frame": frame}
        for row in rows
        for frame in key_frames(row)
    ]
    return {**content_tables(rows), TRACINGS: (_TRACING_COLUMNS, tracings)}


def key_frames(row: Mapping[str, str]) -> tuple[int, ...]:
    """End systole and end diastole of the first beat of a recording; () if ED or ES is unknown."""
    count = int(float(row["NumberOfFrames"]))
    diastoles, systoles = (
        parse_key_frames(row.get(kind, ""), count, f"{FILE_LIST}: {row['FileName']} has {kind}")
        for kind in ("ED", "ES")
    )
    pairs = [(es < ed, ed, es) for ed in diastoles for es in systoles if ed != es]
    if not pairs:
        return ()
    _, ed, es = min(pairs)
    return es, ed


def export_notes(rows: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Notes on recordings that EchoNet's dataset class leaves out, and on recordings without its target, EF."""
    found = {}
    if unmarked := sum(not key_frames(row) for row in rows):
        found["without ED and ES"] = f"{unmarked} recordings, which EchoNet's class leaves out: run stage=keyframes"
    if unlabeled := sum(not row.get("EF") for row in rows):
        found["without EF"] = f"{unlabeled} recordings, whose target is NaN in EchoNet's class"
    return found
