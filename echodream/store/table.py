"""FileList.csv and rejected.csv: written so that equal content means equal bytes, read with every cell checked."""

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from echodream.store.schema import FILE_LIST, REQUIRED, SPLITS, StoreError, valid_column, valid_name

if TYPE_CHECKING:
    import pandas as pd

MAX_CSV_BYTES = 1_000_000_000
TEXT_COLUMNS = ("FileName", "PatientID", "Split", "class_name", "View", "Source", "ED", "ES")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_WHOLE = ("NumberOfFrames", "FrameHeight", "FrameWidth")


def cell(value: object) -> str:
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


def printable(text: str) -> str:
    """``text`` with white space made single and control characters made "?", so that a cell can hold it."""
    return _CONTROL.sub("?", " ".join(text.split()))


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], first: Sequence[str] = ()) -> None:
    """Write ``rows`` as csv: the columns ``first``, then the others in the order in which they first appear."""
    columns = list(dict.fromkeys([*first, *(name for row in rows for name in row)]))
    for name in columns:
        if not valid_column(name):
            raise StoreError(f"{path.name}: column name {name!r} is not allowed: use letters, digits and '_'")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        try:
            writer.writerow([cell(row.get(name)) for name in columns])
        except ValueError as error:
            raise StoreError(f"{path.name}: row {row.get('FileName')!r} has {error} in a cell") from error
    path.write_text(text.getvalue(), encoding="utf-8")


def read_text_table(path: Path, required: Iterable[str] = ()) -> "pd.DataFrame":
    """Read any csv with every cell as text. Raises ``StoreError`` naming the file and what is wrong."""
    import pandas as pd

    try:
        if path.stat().st_size > MAX_CSV_BYTES:
            raise StoreError(f"{path} is larger than {MAX_CSV_BYTES} bytes")
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False)
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, OverflowError, csv.Error) as error:  # pandas' parser and decoding errors are ValueErrors
        raise StoreError(f"{path} is not a csv file: {' '.join(str(error).split())[:200]}") from error
    if missing := [name for name in required if name not in table.columns]:
        raise StoreError(f"{path} has no column {missing[0]!r}; it has {', '.join(map(str, table.columns[:20]))}")
    return table.astype(object).where(table.notna(), "")


def read_file_list(root: Path) -> "pd.DataFrame":
    """Read and check ``FileList.csv``: names, splits and sizes, each patient in one split. Raises ``StoreError``."""
    path = root / FILE_LIST
    table = read_text_table(path, REQUIRED)
    for name in table.columns:
        if not valid_column(name):
            raise StoreError(f"{path}: column name {name!r} is not allowed: use letters, digits and '_'")
    _check_rows(path, table)
    return _typed(path, table)


def _check_rows(path: Path, table: "pd.DataFrame") -> None:
    """Names, splits and patients, on the text as it stands."""
    seen: set[str] = set()
    split_of: dict[str, str] = {}
    for name, split, patient in zip(table["FileName"], table["Split"], table["PatientID"], strict=True):
        if not valid_name(name):
            raise StoreError(f"{path}: FileName {name[:80]!r} is not allowed: letters, digits, '.', '_' and '-' only")
        if name.casefold() in seen:
            raise StoreError(f"{path}: FileName {name!r} stands there twice")
        seen.add(name.casefold())
        if split not in SPLITS:
            raise StoreError(f"{path}: {name} has Split {split[:40]!r}, not one of {', '.join(SPLITS)}")
        if not patient or _CONTROL.search(patient):
            raise StoreError(f"{path}: {name} has no usable PatientID; every recording needs one")
        if split_of.setdefault(patient, split) != split:
            raise StoreError(f"{path}: PatientID {patient!r} is in two splits, {split_of[patient]} and {split}")


def _typed(path: Path, table: "pd.DataFrame") -> "pd.DataFrame":
    """Numbers where a whole column is numbers, text elsewhere."""
    import pandas as pd

    for name in table.columns:
        if name in TEXT_COLUMNS:
            continue
        column = pd.to_numeric(table[name].replace("", None), errors="coerce")
        if column.notna().equals(table[name] != ""):
            table[name] = column
        elif name in REQUIRED:
            bad = table.index[column.isna()][0]
            raise StoreError(f"{path}: {table['FileName'][bad]} has {name} {table[name][bad][:40]!r}, not a number")
    for name in (*_WHOLE, "FPS"):
        column = table[name]
        wrong = ~((column > 0) & (column < 2**31)) | ((column % 1 != 0) if name in _WHOLE else False)
        if wrong.any():
            bad = table.index[wrong][0]
            raise StoreError(f"{path}: {table['FileName'][bad]} has {name} {column[bad]}, out of range")
        table[name] = column.astype("int64" if name in _WHOLE else "float64")
    return table
