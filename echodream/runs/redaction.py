"""Removes paths from commands and configurations, and finds patients' names in texts."""

import re

from echodream.store import Store

_VALUE = re.compile(r"=(.*?)(?=\s+[+~]*(?:hydra/)?[\w.@]+=|\s*$)", re.DOTALL)
"""The value of a key in a command: up to the next key, since a path may contain spaces."""
_ABSOLUTE_PATH = re.compile(
    r"(?<![\w.])(?:~|\.\.|[A-Za-z]:)?[/\\][^\n,'\"\]}]*?(?=\s+[\w.+~@/]+=|\s+-|[,'\"\]}]|\s*$)", re.MULTILINE
)


def redact_absolute_paths(text: str) -> str:
    """``text`` with every absolute path replaced by "..."; relative paths stay."""
    return _ABSOLUTE_PATH.sub("...", text)


def redact_paths_in_command(command: str) -> str:
    """``command`` with every value that contains a path, absolute or relative, replaced by "..."."""
    return _VALUE.sub(lambda match: "=..." if set(match[1]) & {"/", "\\"} else match[0], command)


def find_patient_name(real: Store, text: str, public_text: str = "") -> str | None:
    """The first PatientID or FileName of the store ``real`` that occurs in ``text``; None if there is no such name.

    Numbers of fewer than six digits, other names of fewer than four letters, and words of ``public_text`` are ignored,
    because they cannot identify a patient.
    """
    table = real.table
    for name in sorted({str(name) for column in ("PatientID", "FileName") for name in table[column]}):
        is_number = name.replace(".", "").isdigit()
        if len(name) < (6 if is_number else 4) or name in public_text or name not in text:
            continue
        no_decimal = r"(?<!\d\.)" if is_number else ""
        if re.search(rf"{no_decimal}(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", text):
            return name
    return None
