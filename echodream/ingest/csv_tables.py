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
_MISSING_VALUES = ("", "nan", "na", "n/a", "none", "null")
_MAX_BYTES = 1_000_000_000
_EXCEL_SEPARATOR = re.compile(r"sep=(.)")
_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]*,[0-9]+([eE][+-]?[0-9]+)?")
_GROUPED_DIGITS = re.compile(r"[+-]?[1-9][0-9]{0,2}([,.' \u00a0\u202f][0-9]{3})+([.,][0-9]*)?")
"""A number that may have thousands separators; ``1,234`` and ``1.234`` are ambiguous."""
_NUMBER_LIKE = re.compile(r"[+-]?[0-9.,' \u00a0\u202f]*[0-9][.,]? ?%?")
_NUMERIC_IDENTIFIER = re.compile(r"0[0-9]+|[0-9]{16,}")


class Row(dict[str, str]):
    """Cells of a csv row by column name, without surrounding spaces, and the location of the row."""

    def __init__(self, cells: Mapping[str, str], table: str, line: int) -> None:
        super().__init__(cells)
        self.table = table
        self.line = line
        """Number of the first line of the row in the file; the first line of the file is 1."""

    def location(self, column: str = "") -> str:
        """Return the location of a cell for error messages, such as "labels.csv, line 4, column EF"."""
        return f"{self.table}, line {self.line}" + (f", column {column}" if column else "")

    def number(self, column: str) -> float | None:
        """Parse the number in a cell; None if the cell is empty. Raises ``UserError`` for a text that is no number."""
        return parse_number_cell(self.get(column, ""), self.location(column))

    def numbers(self, columns: Iterable[str]) -> dict[str, float]:
        """Parse the numbers in the non-empty cells of ``columns``. Raises ``UserError``."""
        return {name: number for name in columns if (number := self.number(name)) is not None}


def read_table(path: Path, required: Sequence[str] = (), *, unique: bool = False) -> list[Row]:
    """Read the rows of a csv file, plain or .gz, UTF-8 or UTF-16, without blank lines; decimal commas become points.

    The chosen delimiter gives all ``required`` columns if possible, and the largest number of columns. Raises
    ``UserError`` for a missing file, a file that is not a csv, a missing or duplicate ``required`` column, any
    duplicate column if ``unique``, and a row that is longer or shorter than the header.
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
        available = ", ".join(names[:20]) or "none"
        raise UserError(f"{path} has no column {missing[0]!r}; it has {available}{separators}")
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
    table: list[Row] = []
    for line, cells in rows[1:]:
        if len(cells) < len(names) or any(cells[len(names) :]):
            remedy = f"quote cells that contain a {_DELIMITERS.get(delimiter, delimiter)}, and leave out no cell"
            raise UserError(f"{path}, line {line}: {len(cells)} cells for {len(names)} columns: {remedy}")
        table.append(Row({name: cell for name, cell in zip(names, cells, strict=False) if name}, path.name, line))
    _replace_decimal_commas(table, required)
    return table


def _read_text(path: Path) -> str:
    """Read the text of a csv file, with ``\\n`` at the end of lines. Raises ``UserError``."""
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
    """Read the column names in the first line that is not blank, without empty names at the end of the line."""
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)
    try:
        names = next(([cell.strip() for cell in cells] for cells in reader if any(map(str.strip, cells))), [])
    except csv.Error:
        return []
    while names and not names[-1]:
        names.pop()
    return names


def _replace_decimal_commas(rows: Sequence[Row], required: Sequence[str]) -> None:
    """Replace decimal commas by points, if a number of the table has a comma that cannot separate thousands.

    In a table with decimal commas, ``1,234`` becomes 1.234 in all columns of numbers. Raises ``UserError`` for a
    ``required`` column without commas whose numbers look like ``1.234``, because this text may mean 1234.
    """
    commas: dict[str, list[Row]] = {}
    for name in rows[0] if rows else ():
        with_comma = [row for row in rows if "," in row[name]]
        cells = [row[name] for row in rows if parse_cell(row[name]) is not None] if with_comma else []
        if cells and all(_DECIMAL_COMMA.fullmatch(cell) or _INTEGER.fullmatch(cell) for cell in cells):
            commas[name] = with_comma
    if all(_GROUPED_DIGITS.fullmatch(row[name]) for name, with_comma in commas.items() for row in with_comma):
        return
    for name, with_comma in commas.items():
        for row in with_comma:
            row[name] = row[name].replace(",", ".")
    for name in set(required) - set(commas):
        points = [row for row in rows if "." in row[name]]
        if points and all(_GROUPED_DIGITS.fullmatch(row[name]) for row in points):
            raise _invalid_number_error(points[0][name], points[0].location(name))


def find_numeric_columns(
    rows: Sequence[Row], columns: Mapping[str, str], text_columns: Sequence[str] | None = None
) -> set[str]:
    """Find the store columns that hold numbers. Raises ``UserError`` for a cell of these columns that is no number.

    ``columns`` maps store columns to csv columns. Numeric columns are ``NUMBER_COLUMNS``, columns with more numbers
    than texts, and columns whose texts look like numbers (``1,234.5``, ``55 %``). ``text_columns`` and columns with
    identifiers such as 0012 are text. ``text_columns`` is None if the study has no setting for text columns.
    """
    numeric: set[str] = set()
    for name in [name for name in columns if name not in (*TEXT_COLUMNS, *(text_columns or ()))]:
        filled = [row for row in rows if parse_cell(row[columns[name]]) is not None]
        cells = [row[columns[name]] for row in filled]
        other = [row for row, cell in zip(filled, cells, strict=True) if parse_number(cell) is None]
        texts = [row[columns[name]] for row in other]
        if name not in NUMBER_COLUMNS:
            alike = len(other) < len(cells) or all(map(_GROUPED_DIGITS.fullmatch, texts))
            alike = alike and all(map(_NUMBER_LIKE.fullmatch, texts))
            if any(map(_NUMERIC_IDENTIFIER.fullmatch, cells)) or not (alike or 2 * len(other) < len(cells)):
                continue
        if other:
            names = ",".join([*(text_columns or ()), name])
            hint = "" if text_columns is None else f"; for a column of text set 'data.source.text_columns=[{names}]'"
            raise _invalid_number_error(texts[0], other[0].location(columns[name]), hint)
        numeric.add(name)
    return numeric


def _invalid_number_error(text: str, location: str, hint: str = "") -> UserError:
    problem = "can be read as two numbers" if _GROUPED_DIGITS.fullmatch(text) else "is not a number"
    remedy = "write it with a decimal point, without thousands separator and unit, or leave the cell empty"
    return UserError(f"{location}: {text[:40]!r} {problem}: {remedy}{hint}")


def parse_number_cell(text: str, location: str) -> float | None:
    """Parse a cell as int or float; None for an empty cell. Raises ``UserError`` for a text that is no number."""
    if parse_cell(text) is None:
        return None
    number = parse_number(text)
    if number is None:
        raise _invalid_number_error(text, location)
    return int(text) if _INTEGER.fullmatch(text) else number


def parse_cell(text: str) -> CellValue | None:
    """Parse a cell as a number or as text without control characters; None for an empty or missing value.

    The texts ``0012``, ``1_000``, ``inf`` and long identifiers remain text, as in FileList.csv.
    """
    text = clean_text(text)
    if text.lower() in _MISSING_VALUES:
        return None
    if not is_numeric_text(text):
        return text
    return int(text) if _INTEGER.fullmatch(text) else float(text)


def parse_cells(row: Mapping[str, str], columns: Iterable[str]) -> dict[str, CellValue]:
    """Parse the cells of ``columns`` in a row; missing values are omitted."""
    return {name: cell for name in columns if (cell := parse_cell(row.get(name, ""))) is not None}


def parse_number(text: str) -> float | None:
    """Parse a cell as a float; None if the cell does not hold a finite number."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in text else None


def parse_seconds(text: str, location: str) -> tuple[float, ...]:
    """Parse times in seconds, separated by spaces. Raises ``UserError`` unless all times are numbers >= 0."""
    times = tuple(parse_number(word) for word in text.split() if parse_cell(word) is not None)
    if any(time is None or time < 0 for time in times):
        raise UserError(f"{location}: {text[:40]!r} are not times: write seconds from 0, separated by spaces")
    return tuple(time for time in times if time is not None)


def parse_split(text: str, location: str) -> str | None:
    """Parse TRAIN, VAL, TEST or a synonym; None for an empty cell. Raises ``UserError`` that names ``location``."""
    word = text.strip().upper()
    word = _SPLIT_SYNONYMS.get(word, word)
    if word.lower() in _MISSING_VALUES:
        return None
    if word not in SPLITS:
        raise UserError(f"{location} has the split {text!r}: use {', '.join(SPLITS)} or leave it empty")
    return word


def check_column_names(names: Sequence[str], key: str) -> None:
    """Raise ``UserError`` for a column name that is invalid or reserved for a store; ``key`` begins the message."""
    for name in names:
        if not is_valid_column(name):
            raise UserError(f"{key} names the column {name!r}: use letters, digits and '_', a letter first")
        if name in REQUIRED_COLUMNS:
            raise UserError(f"{key} names the column {name!r}, which is reserved: choose another name")
