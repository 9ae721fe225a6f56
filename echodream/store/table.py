"""FileList.csv and rejected.csv: written so that equal content means equal bytes, read with every cell checked."""

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from echodream.store.schema import (
    FILE_LIST,
    FPS_RANGE,
    MAX_FRAMES,
    MAX_SIDE,
    REQUIRED_COLUMNS,
    SPLITS,
    StoreError,
    is_valid_column,
    is_valid_name,
    read_text,
)

if TYPE_CHECKING:
    import pandas as pd

MAX_CSV_BYTES = 100_000_000
MAX_COLUMNS = 1_000
TEXT_COLUMNS = ("FileName", "PatientID", "Split", "class_name", "View", "Source", "ED", "ES")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_NUMBER = re.compile(
    r"-?(0|[1-9][0-9]{0,14})"  # more digits are an identifier, and so is 007
    r"|-?(0|[1-9][0-9]*)(\.[0-9]+([eE][+-]?[0-9]+)?|[eE][+-]?[0-9]+)"
)
_RANGES: dict[str, tuple[float, float]] = {
    "NumberOfFrames": (1, MAX_FRAMES),
    "FPS": FPS_RANGE,
    "FrameHeight": (1, MAX_SIDE),
    "FrameWidth": (1, MAX_SIDE),
}


def format_cell(value: object) -> str:
    """One value as text. Raises ``ValueError`` for what a cell cannot hold."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if hasattr(value, "item"):  # a NumPy or torch scalar
        value = value.item()
    if isinstance(value, float) and math.isinf(value):
        raise ValueError("infinity")
    if not isinstance(value, str | int | float):
        raise ValueError(f"a {type(value).__name__}")
    text = repr(value) if isinstance(value, float) else str(value)
    if _CONTROL.search(text):
        raise ValueError("a control character")
    return text


def clean_text(text: str) -> str:
    """``text`` with white space made single and control characters made "?", so that a cell can hold it."""
    return _CONTROL.sub("?", " ".join(text.split()))


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], first: Sequence[str] = ()) -> None:
    """Write ``rows`` as csv: the columns ``first``, then the others in the order in which they first appear."""
    columns = list(dict.fromkeys([*first, *(name for row in rows for name in row)]))
    for name in columns:
        if not is_valid_column(name):
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


def read_text_table(path: Path, required: Iterable[str] = ()) -> "pd.DataFrame":
    """Read a csv with every cell as text, every row as long as the header, and no column twice.

    Raises ``StoreError`` naming the file and what is wrong.
    """
    import pandas as pd

    reader = csv.reader(io.StringIO(read_text(path, MAX_CSV_BYTES), newline=""), strict=True)
    rows: list[list[str]] = []
    try:
        names = next(reader, [])
        if missing := [name for name in required if name not in names]:
            has = clean_text(", ".join(names[:20]))[:200]
            raise StoreError(f"{path} has no column {missing[0]!r}; it has {has or 'none'}")
        if len(names) > MAX_COLUMNS or len(set(names)) < len(names):
            raise StoreError(f"{path} has a column twice, or more than {MAX_COLUMNS} columns")
        for row in filter(None, reader):
            if len(row) != len(names):
                raise StoreError(f"{path}, line {reader.line_num}: {len(row)} cells under {len(names)} columns")
            if any(map(_CONTROL.search, row)):
                raise StoreError(f"{path}, line {reader.line_num}: a control character in a cell")
            rows.append(row)
    except csv.Error as error:
        raise StoreError(f"{path}, line {reader.line_num} is not csv: {error}") from error
    return pd.DataFrame(rows, columns=names, dtype=object)


def read_file_list(root: Path) -> "pd.DataFrame":
    """Read and check ``FileList.csv``: names, splits and sizes, each patient in one split. Raises ``StoreError``."""
    path = root / FILE_LIST
    table = read_text_table(path, REQUIRED_COLUMNS)
    for name in table.columns:
        if not is_valid_column(name):
            raise StoreError(f"{path}: column name {name[:80]!r} is not allowed: use letters, digits and '_'")
    _check_rows(path, table)
    return _typed(path, table)


def _check_rows(path: Path, table: "pd.DataFrame") -> None:
    """Names, splits and patients, on the text as it stands."""
    seen: set[str] = set()
    split_of: dict[str, str] = {}
    for name, split, patient in zip(table["FileName"], table["Split"], table["PatientID"], strict=True):
        if not is_valid_name(name):
            raise StoreError(f"{path}: FileName {name[:80]!r} is not allowed: letters, digits, '.', '_' and '-' only")
        if name.casefold() in seen:
            raise StoreError(f"{path}: FileName {name!r} stands there twice")
        seen.add(name.casefold())
        if split not in SPLITS:
            raise StoreError(f"{path}: {name} has Split {split[:40]!r}, not one of {', '.join(SPLITS)}")
        if not patient.strip():
            raise StoreError(f"{path}: {name} has no usable PatientID; every recording needs one")
        if split_of.setdefault(patient, split) != split:
            raise StoreError(f"{path}: PatientID {patient[:80]!r} is in two splits, {split_of[patient]} and {split}")


def _typed(path: Path, table: "pd.DataFrame") -> "pd.DataFrame":
    """Numbers where a whole column is numbers, text elsewhere."""
    import pandas as pd

    for name in table.columns:
        if name in TEXT_COLUMNS:
            continue
        text = [value for value in table[name] if not is_numeric_text(value)]
        if not any(text):
            table[name] = pd.to_numeric(table[name].replace("", None))
        elif name in REQUIRED_COLUMNS:
            bad = next(value for value in text if value)
            row = table["FileName"][table[name] == bad].iloc[0]
            raise StoreError(f"{path}: {row} has {name} {bad[:40]!r}, not a number")
    for name, (low, high) in _RANGES.items():
        column = table[name].astype("float64")
        whole = name != "FPS"
        wrong = ~((column >= low) & (column <= high)) | (whole & (column % 1 != 0))
        if wrong.any():
            bad = table.index[wrong][0]
            raise StoreError(
                f"{path}: {table['FileName'][bad]} has {name} {column[bad]:g}, not a {'whole ' * whole}number "
                f"from {low:g} to {high:g}"
            )
        table[name] = column.astype("int64") if whole else column
    return table


def is_numeric_text(text: str) -> bool:
    """Whether a cell counts as a number: 007, 1_000, inf and more than 15 digits are text."""
    return _NUMBER.fullmatch(text) is not None and math.isfinite(float(text))
