"""Requested condition values, and the reader of a csv file with condition values, which refuses any irregularity."""

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

SOURCE = "Source"
"""Column of the csv: FileName of the recording in src= that the row belongs to."""
_COMMON_CONDITIONS = ("class_id", "EF", "View", "text")
"""Condition columns of the models in conf/. A csv column that is a condition of another model only is refused."""


@dataclass(frozen=True)
class ConditionRequests:
    """Condition values of the samples to generate."""

    values: dict[str, list[Any]]
    """Values of all samples by column; None where a value is missing."""
    sources: list[str] | None = None
    """The column Source, if the csv has it."""
    unread_columns: tuple[str, ...] = ()
    """Columns of the csv that nothing reads."""


def read_labels(path: str, columns: Sequence[str]) -> ConditionRequests:
    """Values of the condition ``columns`` in the csv at ``path``, and its column Source.

    Raises ``UserError`` with file and line for rows of another length than the header, empty lines, duplicate columns,
    and columns of conditions that the model does not have.
    """
    file = Path(path)
    try:
        lines = read_text(file, MAX_CSV_BYTES).splitlines()
        _check_lines(path, lines)
        table = read_text_table(file)
    except StoreError as error:
        reason = str(error).removesuffix(f": {file.parent} is not a store")
        raise UserError(f"labels={reason}; correct the csv") from error
    present = [name for name in columns if name in table]
    if not present or not len(table):
        raise UserError(f"labels={path} has no rows with {' or '.join(columns) or 'any condition of this model'}")
    _refuse_other_conditions(path, list(table.columns), columns)
    values = {name: _parse_cells(path, name, table[name].tolist()) for name in present}
    sources = table[SOURCE].tolist() if SOURCE in table else None
    unread = tuple(name for name in map(str, table) if name not in (*columns, SOURCE))
    return ConditionRequests(values, sources, unread)


def _check_lines(path: str, lines: Sequence[str]) -> None:
    """Raise ``UserError`` for a duplicate column in the header, and for an empty line between rows."""
    names = [name.strip() for name in next(csv.reader(lines[:1]), [])]
    if duplicates := [name for index, name in enumerate(names) if name in names[:index]]:
        raise UserError(f"labels={path}, line 1: the column {duplicates[0]!r} is there twice; keep one of them")
    last = max((number for number, line in enumerate(lines) if line.strip()), default=0)
    if empty := [number for number, line in enumerate(lines[:last], 1) if not line.strip()]:
        raise UserError(f'labels={path}, line {empty[0]} is empty: remove it, or write "" for a value that is missing')


def _refuse_other_conditions(path: str, names: Sequence[str], columns: Sequence[str]) -> None:
    """Raise ``UserError`` if one of ``names`` is a (misspelled) condition that the model does not have."""
    conditions = {name.casefold(): name for name in (*_COMMON_CONDITIONS, *columns)}
    for name in (name for name in names if name not in columns):
        condition = conditions.get(name.strip().casefold())
        if condition in columns:
            raise UserError(f"labels={path} has a column {name!r}: write {condition}")
        if condition is not None:
            only = f"{', '.join(columns)} only"
            raise UserError(f"labels={path} has a column {name}, and this model has the conditions {only}: remove it")


def _parse_cells(path: str, name: str, cells: Sequence[str]) -> list[Any]:
    """Numbers if all cells of the column are numbers, as in a Store, else text; None where a cell is empty."""
    stripped = [cell.strip() for cell in cells]
    for line, cell in enumerate(stripped, 2):
        with contextlib.suppress(ValueError):
            if not math.isfinite(float(cell)):
                raise UserError(f"labels={path}, line {line}: {name} is {cell!r}; leave a cell empty if unknown")
    if name in TEXT_COLUMNS or not all(is_numeric_text(cell) for cell in stripped if cell):
        return [cell or None for cell in stripped]
    return [(float(cell) if set(cell) & set(".eE") else int(cell)) if cell else None for cell in stripped]
