"""Reads the csv tables of a study and parses their cells."""

import codecs
import csv
import gzip
import io
import math
import re
import unicodedata
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from echodream.errors import UserError
from echodream.ingest.source import CellValue
from echodream.store.schema import REQUIRED_COLUMNS, SPLITS, is_valid_column
from echodream.store.table import TEXT_COLUMNS, clean_text, is_numeric_text

NUMBER_COLUMNS = ("EF", "ESV", "EDV", "Age", "Weight", "Height", "BMI", "HeartRate", "LVArea_ED", "LVArea_ES")
"""Study columns that hold numbers in every study."""
_INTEGER = re.compile(r"-?[0-9]+")
_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}
_SPLIT_SYNONYMS = {"TRAINING": "TRAIN", "VALIDATION": "VAL", "VALID": "VAL", "VALIDATE": "VAL", "TESTING": "TEST"}
_MISSING = ("", "nan", "na", "n/a", "none", "null")
_MAX_BYTES = 1_000_000_000
_EXCEL_SEPARATOR = re.compile(r"sep=(.)")
_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]*,[0-9]+([eE][+-]?[0-9]+)?")
_GROUPED = re.compile(r"[+-]?[1-9][0-9]{0,2}([,.' \u00a0\u202f][0-9]{3})+([.,][0-9]*)?")
"""A number that may have thousands separators; ``1,234`` and ``1.234`` can be read in two ways."""
_LIKE_NUMBER = re.compile(r"[+-]?[0-9.,' \u00a0\u202f]*[0-9][.,]? ?%?")
_IDENTIFIER = re.compile(r"0[0-9]+|[0-9]{16,}")


class Row(dict[str, str]):
    """The cells of a row by column name, without surrounding spaces, and the place of the row in its file."""

    def __init__(self, cells: Mapping[str, str], table: str, line: int) -> None:
        super().__init__(cells)
        self.table = table
        self.line = line
        """Number of the first line of the row in the file, from 1."""

    def where(self, column: str = "") -> str:
        """The place of a cell, for messages: "labels.csv, line 4, column EF"."""
        return f"{self.table}, line {self.line}" + (f", column {column}" if column else "")

    def number(self, column: str) -> float | None:
        """The number in a cell; None if it is empty or missing. Raises ``UserError`` for another text."""
        return parse_number_cell(self.get(column, ""), self.where(column))

    def numbers(self, columns: Iterable[str]) -> dict[str, float]:
        """The numbers of the ``columns`` of the row that are not empty. Raises ``UserError``."""
        return {name: number for name in columns if (number := self.number(name)) is not None}


def read_table(path: Path, required: Sequence[str] = (), *, unique: bool = False) -> list[Row]:
    """Rows of a csv file, plain or .gz, UTF-8 or UTF-16. Blank lines are skipped; a decimal comma becomes a point.

    The delimiter is the one that finds most columns in the header, with the ``required`` ones among them. Raises
    ``UserError`` when the file is missing or not a csv, lacks a ``required`` column or has it twice (``unique``: has
    any column twice), or has a row that is longer or shorter than the header.
    """
    text = unicodedata.normalize("NFC", _read_text(path))
    first, _, rest = text.partition("\n")
    declared = _EXCEL_SEPARATOR.fullmatch(first.strip())
    text = f"\n{rest}" if declared else text
    headers = {d: _read_header(text, d) for d in ([declared[1]] if declared else _DELIMITERS)}
    delimiter = max(headers, key=lambda d: (set(required) <= set(headers[d]), len(headers[d])))
    names = headers[delimiter]
    if missing := [name for name in required if name not in names]:
        separators = f"; separate its cells by {', '.join(_DELIMITERS.values())}" if len(names) == 1 else ""
        found = ", ".join(names[:20]) or "none"
        raise UserError(f"{path} has no column {missing[0]!r}; it has {found}{separators}")
    if duplicates := [name for name in (filter(None, names) if unique else required) if names.count(name) > 1]:
        raise UserError(f"{path} has two columns {duplicates[0]!r}: rename or remove one of them")
    rows, line = [], 1
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True, skipinitialspace=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append((line, [cell.strip() for cell in cells]))
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}, line {line} is not csv: {error}; close or remove its quotes") from error
    for line, cells in rows[1:]:
        if len(cells) < len(names) or any(cells[len(names) :]):
            remedy = f"quote cells that contain a {_DELIMITERS.get(delimiter, delimiter)}, and leave out no cell"
            raise UserError(f"{path}, line {line}: {len(cells)} cells for {len(names)} columns: {remedy}")
    table = [
        Row({name: cell for name, cell in zip(names, cells, strict=False) if name}, path.name, line)
        for line, cells in rows[1:]
    ]
    _replace_decimal_commas(table, required)
    return table


def _read_text(path: Path) -> str:
    """The text of a csv file with line ends ``\\n``. Raises ``UserError``."""
    opener: Any = gzip.open if path.suffix == ".gz" else Path.open
    try:
        with opener(path, "rb") as file:
            content: bytes = file.read(_MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or "the gzip file is incomplete"
        raise UserError(f"{path} cannot be read: {reason}") from error
    if len(content) > _MAX_BYTES:
        raise UserError(f"{path} is larger than {_MAX_BYTES} bytes: split the table")
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line} is not UTF-8 text: save the table as CSV UTF-8") from error
    if "\0" in text:
        raise UserError(f"{path} is not a csv file: save the table as CSV UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read_header(text: str, delimiter: str) -> list[str]:
    """Column names in the first line that is not blank, without the empty ones at its end."""
    names: list[str] = []
    try:
        for cells in csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True):
            names = [cell.strip() for cell in cells]
            if any(names):
                break
    except csv.Error:
        return []
    while names and not names[-1]:
        names.pop()
    return names


def _replace_decimal_commas(rows: Sequence[Row], required: Sequence[str]) -> None:
    """Write a point for the comma in the columns in which every number with a comma can only be a decimal.

    In a table with such a column, ``1,234`` is 1.234 in the other columns, too. Raises ``UserError`` for ``1.234`` in
    another ``required`` column, which may be 1234.
    """
    commas: dict[str, list[Row]] = {}
    for name in rows[0] if rows else ():
        with_comma = [row for row in rows if "," in row[name]]
        cells = [row[name] for row in rows if parse_cell(row[name]) is not None] if with_comma else []
        if cells and all(_DECIMAL_COMMA.fullmatch(cell) or _INTEGER.fullmatch(cell) for cell in cells):
            commas[name] = with_comma
    if all(_GROUPED.fullmatch(row[name]) for name, with_comma in commas.items() for row in with_comma):
        return
    for name, with_comma in commas.items():
        for row in with_comma:
            row[name] = row[name].replace(",", ".")
    for name in set(required) - set(commas):
        points = [row for row in rows if "." in row[name]]
        if points and all(_GROUPED.fullmatch(row[name]) for row in points):
            raise _not_a_number(points[0][name], points[0].where(name))


def number_columns(
    rows: Sequence[Row], columns: Mapping[str, str], text_columns: Sequence[str] | None = None
) -> set[str]:
    """The store columns that hold numbers. Raises ``UserError`` for a cell of one of them that is not a number.

    ``columns``: store column -> csv column. A column of numbers is one of ``NUMBER_COLUMNS``, one with more numbers
    than other texts, and one of numbers and texts that look like numbers (``1,234.5``, ``55 %``). Columns with an
    identifier such as 0012, and ``text_columns``, are text (None: there is no such setting).
    """
    numeric: set[str] = set()
    for name in [name for name in columns if name not in (*TEXT_COLUMNS, *(text_columns or ()))]:
        filled = [row for row in rows if parse_cell(row[columns[name]]) is not None]
        cells = [row[columns[name]] for row in filled]
        other = [row for row, cell in zip(filled, cells, strict=True) if parse_number(cell) is None]
        texts = [row[columns[name]] for row in other]
        if name not in NUMBER_COLUMNS:
            alike = len(other) < len(cells) or all(map(_GROUPED.fullmatch, texts))
            alike = alike and all(map(_LIKE_NUMBER.fullmatch, texts))
            if any(map(_IDENTIFIER.fullmatch, cells)) or not (alike or 2 * len(other) < len(cells)):
                continue
        if other:
            names = ",".join([*(text_columns or ()), name])
            more = "" if text_columns is None else f"; for a column of text set 'data.source.text_columns=[{names}]'"
            raise _not_a_number(texts[0], other[0].where(columns[name]), more)
        numeric.add(name)
    return numeric


def _not_a_number(text: str, where: str, more: str = "") -> UserError:
    problem = "can be read as two numbers" if _GROUPED.fullmatch(text) else "is not a number"
    remedy = "write it with a decimal point, without thousands separator and unit, or leave the cell empty"
    return UserError(f"{where}: {text[:40]!r} {problem}: {remedy}{more}")


def parse_number_cell(text: str, where: str) -> float | None:
    """The number in a cell, int or float; None if it is empty or missing. Raises ``UserError`` for another text."""
    if parse_cell(text) is None:
        return None
    number = parse_number(text)
    if number is None:
        raise _not_a_number(text, where)
    return int(text) if _INTEGER.fullmatch(text) else number


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


def parse_seconds(text: str, where: str) -> tuple[float, ...]:
    """A cell of times in seconds from 0, separated by spaces. Raises ``UserError`` for other words."""
    moments = tuple(parse_number(word) for word in text.split() if parse_cell(word) is not None)
    if any(moment is None or moment < 0 for moment in moments):
        raise UserError(f"{where}: {text[:40]!r} are not times: write seconds from 0, separated by spaces")
    return tuple(moment for moment in moments if moment is not None)


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
