"""Writing and reading of FileList.csv and rejected.csv: equal content gives equal bytes; every cell is checked."""

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from echodream.errors import CONTROL_CHARACTERS, UserError
from echodream.store import schema
from echodream.store.schema import StoreError

if TYPE_CHECKING:
    import pandas as pd

MAX_CSV_BYTES = 100_000_000
MAX_COLUMNS = 1_000
TEXT_COLUMNS = ("FileName", "PatientID", "Split", "class_name", "View", "Source", "ED", "ES", schema.FILE_COLUMN)
_NUMBER = re.compile(
    r"-?(0|[1-9][0-9]{0,14})"  # up to 15 digits; 007 and longer numbers are identifiers
    r"|-?(0|[1-9][0-9]*)(\.[0-9]+([eE][+-]?[0-9]+)?|[eE][+-]?[0-9]+)"
)
_SIDE: tuple[float, float] = (1, schema.MAX_SIDE)
_RANGES = {"NumberOfFrames": (1, schema.MAX_FRAMES), "FPS": schema.FPS_RANGE, "FrameHeight": _SIDE, "FrameWidth": _SIDE}


def format_cell(value: object) -> str:
    """Text of a csv cell with the content ``value``. Raises ``ValueError`` for a value that a cell cannot contain."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if hasattr(value, "item"):  # a NumPy or torch scalar
        value = value.item()
    if isinstance(value, float) and math.isinf(value):
        raise ValueError("an infinite number")
    if not isinstance(value, str | int | float):
        raise ValueError(f"a {type(value).__name__}")
    text = repr(value) if isinstance(value, float) else str(value)
    if CONTROL_CHARACTERS.search(text):
        raise ValueError("a control character")
    return text


def clean_text(text: str) -> str:
    """Valid cell text: white space in ``text`` becomes single spaces, control characters become "?"."""
    return CONTROL_CHARACTERS.sub("?", " ".join(text.split()))


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], first_columns: Sequence[str] = ()) -> None:
    """Write ``rows`` as csv, with ``first_columns`` before all others. Raises ``StoreError`` for an invalid cell."""
    columns = list(dict.fromkeys([*first_columns, *(name for row in rows for name in row)]))
    for name in columns:
        if not schema.is_valid_column(name):
            raise StoreError(f"{path.name}: column name {name!r} is not allowed: use letters, digits and '_'")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        try:
            writer.writerow([format_cell(row.get(name)) for name in columns])
        except ValueError as error:
            raise StoreError(f"{path.name}: row {row.get('FileName')!r} has {error} in a cell") from error
    path.write_text(text.getvalue(), encoding="utf-8")


def read_text_table(path: Path, required_columns: Iterable[str] = ()) -> "pd.DataFrame":
    """Read a csv with all cells as text.

    Raises ``StoreError`` if a row is shorter or longer than the header, or a column is duplicate or missing.
    """
    import pandas as pd

    reader = csv.reader(io.StringIO(schema.read_text(path, MAX_CSV_BYTES), newline=""), strict=True)
    rows: list[list[str]] = []
    try:
        names = next(reader, [])
        if missing := [name for name in required_columns if name not in names]:
            present = clean_text(", ".join(names[:20]))[:200]
            raise StoreError(f"{path} has no column {missing[0]!r}; it has {present or 'none'}")
        if len(names) > MAX_COLUMNS or len(set(names)) < len(names):
            raise StoreError(f"{path} has two columns of the same name, or more than {MAX_COLUMNS} columns")
        for row in filter(None, reader):
            if len(row) != len(names):
                raise StoreError(f"{path}, line {reader.line_num}: {len(row)} cells for {len(names)} columns")
            if CONTROL_CHARACTERS.search("".join(row)):
                raise StoreError(f"{path}, line {reader.line_num}: a control character in a cell")
            rows.append(row)
    except csv.Error as error:
        raise StoreError(f"{path}, line {reader.line_num} is not csv: {error}") from error
    return pd.DataFrame(rows, columns=names, dtype=object)


def read_file_list(root: Path) -> "pd.DataFrame":
    """Read and check ``FileList.csv``: names, splits, sizes, and one split per patient. Raises ``StoreError``."""
    path = root / schema.FILE_LIST
    table = read_text_table(path, schema.REQUIRED_COLUMNS)
    for name in table.columns:
        if not schema.is_valid_column(name):
            raise StoreError(f"{path}: column name {name[:80]!r} is not allowed: use letters, digits and '_'")
    _check_rows(path, table)
    return _parse_numeric_columns(path, table)


def _check_rows(path: Path, table: "pd.DataFrame") -> None:
    """Check FileNames, splits and PatientIDs of ``table``. Raises ``StoreError``."""
    names: set[str] = set()
    split_of: dict[str, str] = {}
    for name, split, patient in zip(table["FileName"], table["Split"], table["PatientID"], strict=True):
        if not schema.is_valid_name(name):
            raise StoreError(f"{path}: FileName {name[:80]!r} is not allowed: letters, digits, '.', '_' and '-' only")
        if name.casefold() in names:
            raise StoreError(f"{path}: FileName {name!r} occurs twice")
        names.add(name.casefold())
        if split not in schema.SPLITS:
            raise StoreError(f"{path}: {name} has Split {split[:40]!r}, not one of {', '.join(schema.SPLITS)}")
        if not patient.strip():
            raise StoreError(f"{path}: {name} has no PatientID; every recording needs one")
        if split_of.setdefault(patient, split) != split:
            raise StoreError(f"{path}: PatientID {patient[:80]!r} is in two splits, {split_of[patient]} and {split}")


def _parse_numeric_columns(path: Path, table: "pd.DataFrame") -> "pd.DataFrame":
    """Convert columns that contain only numbers; check the ranges of required columns. Raises ``StoreError``."""
    import pandas as pd

    for name in table.columns:
        if name in TEXT_COLUMNS:
            continue
        not_numeric = [value for value in dict.fromkeys(table[name]) if not is_numeric_text(value)]
        if not any(not_numeric):
            table[name] = pd.to_numeric(table[name].replace("", None))
        elif name in schema.REQUIRED_COLUMNS:
            bad = next(filter(None, not_numeric))
            row = table["FileName"][table[name] == bad].iloc[0]
            raise StoreError(f"{path}: {row} has {name} {bad[:40]!r}, not a number")
    for name, (low, high) in _RANGES.items():
        column = table[name].astype("float64")
        is_whole = name != "FPS"
        invalid = ~((column >= low) & (column <= high)) | (is_whole & (column % 1 != 0))
        if invalid.any():
            row = table.index[invalid][0]
            valid = f"a {'whole ' * is_whole}number from {low:g} to {high:g}"
            raise StoreError(f"{path}: {table['FileName'][row]} has {name} {column[row]:g}, not {valid}")
        table[name] = column.astype("int64") if is_whole else column
    return table


def is_numeric_text(text: str) -> bool:
    """Whether the cell ``text`` is a number. 007, 1_000, inf and integers of more than 15 digits are text."""
    return _NUMBER.fullmatch(text) is not None and math.isfinite(float(text))


def parse_key_frames(text: str, frames: int, subject: str) -> list[int]:
    """Frame numbers, below ``frames``, in a cell of ED or ES. Raises ``UserError`` that starts with ``subject``."""
    try:
        marks = [int(word) for word in text.split()]
    except ValueError:
        marks = [-1]
    if any(not 0 <= mark < frames for mark in marks):
        problem = f"{subject} {text[:60]!r}, not frame numbers from 0 to {frames - 1} separated by spaces"
        raise UserError(f"{problem}: correct it, or use another view")
    return marks
