"""Condition values of the samples to generate, and the strict reader of a csv file with condition values."""

import contextlib
import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from echodream.errors import UserError
from echodream.store.schema import StoreError, read_text
from echodream.store.table import MAX_CSV_BYTES, TEXT_COLUMNS, is_numeric_text, read_text_table

SOURCE_COLUMN = "Source"
"""Column of the csv for ``stage=video``: FileName of the source image in src=."""
_COMMON_CONDITIONS = ("class_id", "EF", "View", "text")
"""Condition columns of the models in conf/. A model refuses a csv with a condition that only other models have."""


@dataclass(frozen=True)
class ConditionRequests:
    """Condition values of the samples to generate."""

    values: dict[str, list[Any]]
    """The values of all samples, by condition column; None for a missing value."""
    sources: list[str] | None = None
    """Cells of the csv column Source; None if the csv has no such column."""
    unread_columns: tuple[str, ...] = ()
    """Columns of the csv that are neither a condition of the model nor Source."""


def read_labels(path: str, columns: Sequence[str]) -> ConditionRequests:
    """Read the condition ``columns`` and the column Source of the csv at ``path``.

    Raises ``UserError`` for rows of wrong length, empty lines, duplicate columns, and conditions of other models.
    """
    file = Path(path)
    try:
        _check_csv_layout(path, read_text(file, MAX_CSV_BYTES).splitlines())
        table = read_text_table(file)
    except StoreError as error:
        reason = str(error).removesuffix(f": {file.parent} is not a store")
        raise UserError(f"labels={reason}; correct the csv") from error
    present = [name for name in columns if name in table]
    if not present or not len(table):
        raise UserError(f"labels={path} has no rows with {' or '.join(columns) or 'any condition of this model'}")
    _refuse_other_conditions(path, list(table.columns), columns)
    values = {name: _parse_cells(path, name, table[name].tolist()) for name in present}
    unread = tuple(name for name in map(str, table) if name not in (*columns, SOURCE_COLUMN))
    return ConditionRequests(values, table[SOURCE_COLUMN].tolist() if SOURCE_COLUMN in table else None, unread)


def _check_csv_layout(path: str, lines: Sequence[str]) -> None:
    """Raise ``UserError`` for a duplicate column in the header, and for an empty line between rows."""
    names = [name.strip() for name in next(csv.reader(lines[:1]), [])]
    if duplicates := [name for index, name in enumerate(names) if name in names[:index]]:
        raise UserError(f"labels={path}, line 1: the column {duplicates[0]!r} occurs twice; keep one of them")
    last = max((number for number, line in enumerate(lines) if line.strip()), default=0)
    if empty := [number for number, line in enumerate(lines[:last], 1) if not line.strip()]:
        raise UserError(f'labels={path}, line {empty[0]} is empty: remove the line, or write "" for a missing value')


def _refuse_other_conditions(path: str, names: Sequence[str], columns: Sequence[str]) -> None:
    """Raise ``UserError`` if one of ``names`` is a misspelled condition, or a condition that the model lacks."""
    conditions = {name.casefold(): name for name in (*_COMMON_CONDITIONS, *columns)}
    for name in (name for name in names if name not in columns):
        condition = conditions.get(name.strip().casefold())
        if condition in columns:
            raise UserError(f"labels={path} has a column {name!r}: write {condition}")
        if condition is not None:
            only = f"this model has only the conditions {', '.join(columns)}"
            raise UserError(f"labels={path} has a column {name}, but {only}: remove it")


def _parse_cells(path: str, name: str, cells: Sequence[str]) -> list[Any]:
    """Values of the csv column ``name``: numbers if all cells are numbers, else texts; None for an empty cell."""
    stripped = [cell.strip() for cell in cells]
    for line, cell in enumerate(stripped, 2):
        with contextlib.suppress(ValueError):
            if not math.isfinite(float(cell)):
                raise UserError(f"labels={path}, line {line}: {name} is {cell!r}; leave an unknown value empty")
    if name in TEXT_COLUMNS or not all(is_numeric_text(cell) for cell in stripped if cell):
        return [cell or None for cell in stripped]
    return [(float(cell) if set(cell) & set(".eE") else int(cell)) if cell else None for cell in stripped]
