"""Checks of the fields of sources: a bad value is one sentence that names the field and what it may be."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from echodream.errors import UserError


def choice(name: str, given: object, choices: Sequence[object]) -> None:
    """``given`` has to be one of ``choices``."""
    if given not in choices or isinstance(given, bool):
        raise UserError(f"{name} is {given!r}: use one of {', '.join(map(str, choices))}")


def rate(name: str, given: object) -> None:
    """``given`` has to be a frame rate."""
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given <= 1000:
        raise UserError(f"{name} is {given!r}: use frames per second from 0 to 1000")


def is_whole(given: object) -> bool:
    """Whether ``given`` is a whole number; True and False are none."""
    return isinstance(given, int) and not isinstance(given, bool)


def is_finite(given: object) -> bool:
    """Whether ``given`` is a finite number; True and False are none."""
    return isinstance(given, int | float) and not isinstance(given, bool) and math.isfinite(given)


def whole(name: str, given: object, least: int) -> None:
    """``given`` has to be a whole number of at least ``least``."""
    if not is_whole(given) or given < least:  # type: ignore[operator]
        raise UserError(f"{name} is {given!r}: use a whole number of at least {least}")


def share(name: str, given: object) -> None:
    """``given`` has to be a number from 0 to 1."""
    if not is_finite(given) or not 0 <= given <= 1:  # type: ignore[operator]
        raise UserError(f"{name} is {given!r}: use a share from 0 to 1")


def positive(name: str, given: object) -> None:
    """``given`` has to be a number above 0."""
    if not is_finite(given) or given <= 0:  # type: ignore[operator]
        raise UserError(f"{name} is {given!r}: use a number above 0")


def text(name: str, given: object) -> None:
    """``given`` has to be a text that is not empty."""
    if not isinstance(given, str) or not given:
        raise UserError(f"{name} is {given!r}: use a text that is not empty")


def items(name: str, given: object) -> tuple[Any, ...]:
    """``given``, which has to be a list, as a tuple: yaml gives lists, and a text is not a list of letters."""
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        raise UserError(f"{name} is {given!r}: use a list")
    return tuple(given)


def mapping(name: str, given: object) -> dict[str, str]:
    """``given``, which has to be a mapping of texts to texts, as a dict."""
    if not isinstance(given, Mapping) or not all(isinstance(word, str) for pair in given.items() for word in pair):
        raise UserError(f"{name} is {given!r}: use a mapping, store column: csv column")
    return dict(given)
