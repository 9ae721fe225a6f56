"""Commands and texts without the folders that they name, which may tell of a patient or a person."""

import re

_VALUE = re.compile(r"=(.*?)(?=\s+[+~]*(?:hydra/)?[\w.@]+=|\s*$)", re.DOTALL)
"""Of a key in a command: up to the next key, since a folder may have spaces in its name."""


_ABSOLUTE = re.compile(
    r"(?<![\w.])(?:~|\.\.|[A-Za-z]:)?[/\\][^\n,'\"\]}]*?(?=\s+[\w.+~@/]+=|\s+-|[,'\"\]}]|\s*$)", re.MULTILINE
)


def without_places(text: str) -> str:
    """Without absolute paths, which may say who works where, and on whom."""
    return _ABSOLUTE.sub("...", text)


def without_folders(command: str) -> str:
    """``command`` without the files and folders that it names, relative ones too: they may tell of a patient."""
    return _VALUE.sub(lambda found: "=..." if set(found[1]) & {"/", "\\"} else found[0], command)
