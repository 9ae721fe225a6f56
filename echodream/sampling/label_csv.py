"""What samples are asked for, and the csv that may say it, read strictly: no cell comes under another column."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from echodream.errors import UserError
from echodream.store.schema import StoreError, read_text
from echodream.store.table import MAX_CSV_BYTES, TEXT_COLUMNS, is_numeric_text, read_text_table

SOURCE = "Source"
"""The column that says which row of src= a row is for."""
_CONDITIONS = ("class_id", "EF", "View", "text")
"""Columns that some models can be told."""


@dataclass(frozen=True)
class Asked:
    """What is asked of the conditions."""

    values: dict[str, list[Any]]
    """For each column that the conditions read, the value for each sample; None where it is missing."""
    sources: list[str] | None = None
    """The FileName of the source that each row is for, where a csv says it."""
    unread: tuple[str, ...] = ()
    """Columns of the csv that nothing reads."""


def read_labels(path: str, columns: Sequence[str]) -> Asked:
    """The ``columns`` that the csv at ``path`` has, and Source if it is there, as text.

    Raises ``UserError`` with file and line for rows that are not as long as the header, empty lines and names that
    stand there twice, and for columns of conditions that this model, which is told ``columns``, has not.
    """
    file = Path(path)
    try:
        lines = read_text(file, MAX_CSV_BYTES).splitlines()
        _refuse_lines(path, lines)
        table = read_text_table(file)
    except StoreError as error:
        reason = str(error).removesuffix(f": {file.parent} is not a store")
        raise UserError(f"labels={reason}; correct the csv") from error
    found = [name for name in columns if name in table]
    if not found or not len(table):
        raise UserError(f"labels={path} has no rows with {' or '.join(columns) or 'any condition of this model'}")
    _refuse_unheard(path, list(table.columns), columns)
    values = {name: _cells(path, name, table[name].tolist()) for name in found}
    sources = table[SOURCE].tolist() if SOURCE in table else None
    return Asked(values, sources, tuple(name for name in map(str, table) if name not in (*columns, SOURCE)))


def _refuse_lines(path: str, lines: Sequence[str]) -> None:
    """Raise ``UserError`` for a name that stands twice in the header, and for an empty line between rows."""
    names = [name.strip() for name in next(csv.reader(lines[:1]), [])]
    if twice := [name for place, name in enumerate(names) if name in names[:place]]:
        raise UserError(f"labels={path}, line 1: the column {twice[0]!r} stands there twice; keep one of them")
    last = max((number for number, line in enumerate(lines) if line.strip()), default=0)
    if empty := [number for number, line in enumerate(lines[:last], 1) if not line.strip()]:
        raise UserError(f'labels={path}, line {empty[0]} is empty: remove it, or write "" for a value that is missing')


def _refuse_unheard(path: str, names: Sequence[str], columns: Sequence[str]) -> None:
    """Raise ``UserError`` for a column of ``names`` that asks for a condition which is not among ``columns``."""
    meant = {name.casefold(): name for name in (*_CONDITIONS, *columns)}
    for name in names:
        right = meant.get(name.strip().casefold())
        if name in columns or right is None:
            continue
        if right in columns:
            raise UserError(f"labels={path} has a column {name!r}: write {right}")
        raise UserError(
            f"labels={path} has a column {name}, and this model can be told {', '.join(columns)} alone: remove it"
        )


def _cells(path: str, name: str, cells: Sequence[str]) -> list[Any]:
    """Numbers where the whole column is numbers, as in a Store; None where a cell is empty."""
    found = [cell.strip() for cell in cells]
    for line, cell in enumerate(found, 2):
        if _is_not_finite(cell):
            raise UserError(f"labels={path}, line {line}: {name} is {cell!r}; leave a cell empty where it is missing")
    if name in TEXT_COLUMNS or not all(is_numeric_text(cell) for cell in found if cell):
        return [cell or None for cell in found]
    return [(float(cell) if set(cell) & set(".eE") else int(cell)) if cell else None for cell in found]


def _is_not_finite(cell: str) -> bool:
    try:
        return not math.isfinite(float(cell))
    except ValueError:
        return False
