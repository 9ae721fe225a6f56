"""Errors for bad input: a message to the user, or a row in ``rejected.csv``."""

import re

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


class UserError(Exception):
    """The command line prints this message, one sentence: problem, file or key, remedy; the exit status is 1.

    Control characters of quoted names and cells are replaced by "?", so that the message stays on one line.
    """

    def __init__(self, message: object) -> None:
        super().__init__(_CONTROL.sub("?", str(message)))


class Rejected(Exception):
    """A recording cannot be used. The message is the reason in ``rejected.csv``, without patients' names and paths."""
