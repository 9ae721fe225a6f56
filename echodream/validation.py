"""Checks of settings. A check returns the value, or raises ``UserError``: "<key> is <value>: give <valid value>"."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

from echodream.errors import UserError


def is_whole(value: object, minimum: int | None = None, maximum: int | None = None) -> TypeGuard[int]:
    """Whether ``value`` is an int, not a bool, from ``minimum`` to ``maximum``."""
    if not isinstance(value, int) or isinstance(value, bool):
        return False
    return (minimum is None or value >= minimum) and (maximum is None or value <= maximum)


def is_finite(value: object) -> TypeGuard[float]:
    """Whether ``value`` is an int or a float, not a bool, and neither NaN nor infinite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def whole_number(key: str, value: object, minimum: int = 1, maximum: int | None = None, note: str = "") -> int:
    """Return ``value`` if it is a whole number from ``minimum`` to ``maximum``; ``note`` ends the error message."""
    if not is_whole(value, minimum, maximum):
        upper = "" if maximum is None else f" to {maximum}"
        refuse(key, value, f"give a whole number from {minimum}{upper}{note}")
    return value


def number(
    key: str,
    value: object,
    minimum: float | None = None,
    maximum: float | None = None,
    *,
    above: float | None = None,
    below: float | None = None,
    note: str = "",
) -> float:
    """Return ``value`` if it is a finite number >= ``minimum``, <= ``maximum``, > ``above`` and < ``below``."""
    if not (
        is_finite(value)
        and (minimum is None or value >= minimum)
        and (maximum is None or value <= maximum)
        and (above is None or value > above)
        and (below is None or value < below)
    ):
        until = "and below" if minimum is None else "to below"
        limits = [("from", minimum), ("above", above), ("to", maximum), (until, below)]
        interval = "".join(f" {word} {limit:g}" for word, limit in limits if limit is not None)
        refuse(key, value, f"give a number{interval}{note}")
    return value


def positive_number(key: str, value: object, note: str = "") -> float:
    """Return ``value`` if it is a finite number above 0."""
    return number(key, value, above=0, note=note)


def fraction(key: str, value: object, note: str = "") -> float:
    """Return ``value`` if it is a number from 0 to 1."""
    return number(key, value, 0, 1, note=note)


def frame_rate(key: str, value: object, note: str = "") -> float:
    """Return ``value`` if it is a number of frames per second above 0 and at most 1000."""
    if not is_finite(value) or not 0 < value <= 1000:
        refuse(key, value, f"give frames per second, above 0 and at most 1000{note}")
    return value


def true_or_false(key: str, value: object) -> bool:
    """Return ``value`` if it is a bool."""
    if not isinstance(value, bool):
        refuse(key, value, "give true or false")
    return value


def one_of(key: str, value: Any, choices: Iterable[object]) -> Any:
    """Return ``value`` if it is one of ``choices``."""
    choices = list(choices)
    if value not in choices or isinstance(value, bool):
        refuse(key, value, f"choose one of {', '.join(map(str, choices))}")
    return value


def nonempty_text(key: str, value: object) -> str:
    """Return ``value`` if it is a string that is not empty."""
    if not isinstance(value, str) or not value:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        refuse(key, value, f"write it in quotes, '{value}'" if is_number else "give a text that is not empty")
    return value


def list_of_values(key: str, value: object) -> tuple[Any, ...]:
    """Return the entries of ``value`` if it is a list. A string or a mapping raises ``UserError``."""
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        refuse(key, value, "give a list")
    return tuple(value)


def whole_numbers(key: str, value: Any, count: int) -> Sequence[int]:
    """Return ``value`` if it is a list of ``count`` whole numbers from 1."""
    is_list = isinstance(value, Sequence) and not isinstance(value, str) and len(value) == count
    if not is_list or not all(is_whole(entry, 1) for entry in value):
        refuse(key, value, f"give a list of {count} whole numbers from 1")
    return value


def list_of_names(key: str, value: object) -> tuple[str, ...]:
    """Return the entries of the list ``value`` as texts (``name_text``)."""
    return tuple(name_text(key, entry) for entry in list_of_values(key, value))


def name_text(key: str, value: object) -> str:
    """Return a text or number as text. Raises ``UserError`` for null and booleans, such as ~ and no in YAML."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        words = {True: "yes, on or true", False: "no, off or false", None: "null or ~"}
        origin = f", which YAML reads for {words[value]}" if value is None or isinstance(value, bool) else ""
        quotes = "write names in quotes, such as ['no', 'yes'] in a yaml file, or \"['no','yes']\" on the command line"
        raise UserError(f"{key} has {value!r}{origin}: {quotes}")
    return str(value)


def column_mapping(key: str, value: object) -> dict[str, str]:
    """Return the entries of a mapping from store column to csv column; entries with the value None are omitted."""
    if not isinstance(value, Mapping):
        refuse(key, value, "give a mapping, store column: csv column")
    return {name_text(key, column): name_text(key, source) for column, source in value.items() if source is not None}


def path_list(value: Any) -> list[str]:
    """Paths of a setting that is one path, a list of paths, or None."""
    return [] if value is None else [str(value)] if isinstance(value, str | Path) else [str(path) for path in value]


def refuse(key: str, value: object, remedy: str) -> NoReturn:
    """Raise ``UserError`` about the invalid ``value`` of the setting ``key``; ``remedy`` ends the message."""
    quoted = repr(list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value)
    quoted = {"None": "null", "True": "true", "False": "false"}.get(quoted, quoted)
    raise UserError(f"{key} is {quoted if len(quoted) <= 200 else quoted[:197] + '...'}: {remedy}")
