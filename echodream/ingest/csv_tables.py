"""Reads the csv tables of a study, with comma, semicolon or tab, and parses their cells."""

import csv
import gzip
import math
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from echodream.errors import UserError
from echodream.ingest.source import CellValue
from echodream.store.schema import REQUIRED_COLUMNS, SPLITS, is_valid_column
from echodream.store.table import clean_text, is_numeric_text

_INTEGER = re.compile(r"-?[0-9]+")
_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab"}
_SPLIT_SYNONYMS = {"TRAINING": "TRAIN", "VALIDATION": "VAL", "VALID": "VAL", "VALIDATE": "VAL", "TESTING": "TEST"}
_MISSING = ("", "nan", "na", "n/a", "none", "null")


def read_table(path: Path, required: Sequence[str] = ()) -> list[dict[str, str]]:
    """Rows of a csv file, plain or .gz, as text without surrounding spaces. The delimiter is detected in the header.

    Raises ``UserError`` when the file is missing or not a csv, lacks a ``required`` column, or has a row that is longer
    than the header.
    """
    opener: Any = gzip.open if path.suffix == ".gz" else Path.open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            file.seek(0)
            delimiter = max(_DELIMITERS, key=header.count)
            reader = csv.reader(file, delimiter=delimiter)
            lines = [(reader.line_num, cells) for cells in reader]
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or "the gzip file is incomplete"
        raise UserError(f"{path} cannot be read: {reason}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a UTF-8 csv file: {error}") from error
    names = [name.strip() for name in lines[0][1]] if lines else []
    if missing := [name for name in required if name not in names]:
        raise UserError(f"{path} has no column {missing[0]!r}; it has {', '.join(names[:20]) or 'none'}")
    if duplicates := [name for name in required if names.count(name) > 1]:
        raise UserError(f"{path} has two columns {duplicates[0]!r}: rename or remove one of them")
    for line, cells in lines[1:]:
        if any(cell.strip() for cell in cells[len(names) :]):
            remedy = f"quote cells that contain a {_DELIMITERS[delimiter]}"
            raise UserError(f"{path}, line {line}: {len(cells)} cells for {len(names)} columns: {remedy}")
    rows = (cells[: len(names)] for _, cells in lines[1:] if any(cell.strip() for cell in cells))
    return [{name: cell.strip() for name, cell in zip_longest(names, cells, fillvalue="") if name} for cells in rows]


def parse_cell(text: str) -> CellValue | None:
    """A cell as a number or as text without control characters; None for an empty or missing value.

    As in FileList.csv, ``0012``, ``1_000``, ``inf`` and long identifiers stay text.
    """
    text = clean_text(text)
    if text.lower() in _MISSING:
        return None
    if not is_numeric_text(text):
        return text
    return int(text) if _INTEGER.fullmatch(text) else float(text)


def parse_cells(row: Mapping[str, str], columns: Iterable[str]) -> dict[str, CellValue]:
    """The cells of the ``columns`` of a row, parsed, without missing values."""
    return {name: cell for name in columns if (cell := parse_cell(row.get(name, ""))) is not None}


def parse_number(text: str) -> float | None:
    """A cell as a float; None if the cell does not hold a finite number."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in text else None


def parse_seconds(text: str) -> tuple[float, ...]:
    """A cell of times in seconds, separated by spaces; values that are not finite numbers from 0 are skipped."""
    return tuple(moment for word in text.split() if (moment := parse_number(word)) is not None and moment >= 0)


def parse_split(text: str, where: str) -> str | None:
    """TRAIN, VAL or TEST; None for an empty cell. Raises ``UserError``, which names ``where``, for other words."""
    word = text.strip().upper()
    word = _SPLIT_SYNONYMS.get(word, word)
    if word.lower() in _MISSING:
        return None
    if word not in SPLITS:
        raise UserError(f"{where} has the split {text!r}: use {', '.join(SPLITS)} or leave it empty")
    return word


def check_column_names(names: Sequence[str], where: str) -> None:
    """Raise ``UserError`` for a column name that is invalid in a store, or that is a required column of all stores."""
    for name in names:
        if not is_valid_column(name):
            raise UserError(f"{where} names the column {name!r}: use letters, digits and '_', a letter first")
        if name in REQUIRED_COLUMNS:
            raise UserError(f"{where} names the column {name!r}, which the store fills itself")
