"""Removal of paths from commands and configurations, and search for patients' names in texts."""

import re

from echodream.store import Store

_VALUE_IN_COMMAND = re.compile(r"=(.*?)(?=\s+[+~]*(?:hydra/)?[\w.@]+=|\s*$)", re.DOTALL)
"""Value of a key in a command. The value ends at the next key, because a path may contain spaces."""
_ABSOLUTE_PATH = re.compile(
    r"(?<![\w.])(?:~|\.\.|[A-Za-z]:)?[/\\][^\n,'\"\]}]*?(?=\s+[\w.+~@/]+=|\s+-|[,'\"\]}]|\s*$)", re.MULTILINE
)


def redact_absolute_paths(text: str) -> str:
    """Replace every absolute path in ``text`` by "..."; relative paths stay."""
    return _ABSOLUTE_PATH.sub("...", text)


def redact_paths_in_command(command: str) -> str:
    """Replace every value in ``command`` that contains an absolute or relative path by "..."."""
    return _VALUE_IN_COMMAND.sub(lambda match: "=..." if set(match[1]) & {"/", "\\"} else match[0], command)


def find_patient_name(real: Store, text: str, public_text: str = "") -> str | None:
    """First PatientID or FileName of the store ``real`` that occurs in ``text``; None if there is none.

    Numbers of fewer than six characters, other names of fewer than four characters, and names in ``public_text`` do not
    identify a patient and are ignored.
    """
    table = real.table
    for name in sorted({str(name) for column in ("PatientID", "FileName") for name in table[column]}):
        is_number = name.replace(".", "").isdigit()
        if len(name) < (6 if is_number else 4) or name not in text:
            continue
        no_decimal = r"(?<!\d\.)" if is_number else ""
        whole_name = re.compile(rf"{no_decimal}(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])")
        if whole_name.search(text) and not whole_name.search(public_text):
            return name
    return None
