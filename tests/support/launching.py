"""The lines of a launch script, as bash reads them, each run in this process: a script and its test cannot part."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from hydra.core.global_hydra import GlobalHydra

from echodream import cli

LAUNCH = Path(__file__).resolve().parents[2] / "launch"
_RECORDER = """#!/bin/sh
{ for word; do printf '%s\\037' "$word"; done; printf '\\n'; } >> "$LAUNCHED"
"""
"""Stands for python: writes down what it is given."""


@dataclass(frozen=True)
class Line:
    """``python train.py model=vae ...``: the program without .py, and its overrides."""

    program: str
    overrides: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join(["python", f"{self.program}.py", *self.overrides])

    @property
    def what(self) -> str:
        """Which model is trained, or which stage is carried out."""
        return self.value("model" if self.program == "train" else "stage") or ""

    def value(self, key: str) -> str | None:
        """What the line says of ``key``, if anything."""
        said = [override.partition("=")[2] for override in self.overrides if _key(override) == key]
        return said[-1] if said else None

    def run(self, *overrides: str) -> None:
        """Carry it out in the working folder; ``overrides`` stand in place of those of the same keys."""
        replaced = {_key(override) for override in overrides}
        kept = [override for override in self.overrides if _key(override) not in replaced]
        GlobalHydra.instance().clear()
        with mock.patch.object(sys, "argv", [f"{self.program}.py", *kept, *overrides]):
            try:
                getattr(cli, self.program)()
            except SystemExit as stopped:
                raise AssertionError(f"{self} exited with {stopped.code}") from None


def lines(script: str, *arguments: str) -> list[Line]:
    """Every line of launch/``script`` that calls python, when it is called with ``arguments``, in their order."""
    with tempfile.TemporaryDirectory() as folder:
        python, launched = Path(folder) / "python", Path(folder) / "launched"
        python.write_text(_RECORDER)
        python.chmod(0o755)
        launched.touch()
        around = {
            **os.environ,
            "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
            "LAUNCHED": str(launched),
            "JOBS": "1",
        }
        done = subprocess.run(["bash", LAUNCH / script, *arguments], env=around, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return [_line(words.split("\037")[:-1]) for words in launched.read_text().splitlines()]


def _line(words: Sequence[str]) -> Line:
    program, *overrides = words
    return Line(Path(program).stem, tuple(overrides))


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")
