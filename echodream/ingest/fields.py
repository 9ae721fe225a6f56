"""Checks of the fields of sources: a bad value is one sentence that names the field and what it may be."""

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
