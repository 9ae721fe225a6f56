"""Errors for bad input: a message to the user, or a row in ``rejected.csv``."""

import re
from collections.abc import Sequence

CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class UserError(Exception):
    """Error that the user can correct. The message is one sentence: problem, file or key, remedy. The exit status is 1.

    Control characters in the message are replaced by "?", so that it stays on one line.
    """

    def __init__(self, message: object) -> None:
        super().__init__(CONTROL_CHARACTERS.sub("?", str(message)))


class Rejected(Exception):
    """Error for an unusable recording; the message, without names of patients and paths, is written to rejected.csv."""


def shortened_list(names: Sequence[str], max_names: int = 5) -> str:
    """Text with the first ``max_names`` of ``names`` and the number of further names."""
    return ", ".join(names[:max_names]) + (f" and {len(names) - max_names} more" if len(names) > max_names else "")
