"""The study launch/studies/smoke.yaml: every step on few patients, run once and shared by all tests."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from echodream.runs import trainer
from tests.support.launching import Line, lines

USES_BF16_CPU = trainer._uses_bf16_cpu
"""The original function; a fixture replaces it in all tests."""
FOLDERS = ("raw", "data", "models", "samples", "reports")
"""Output folders of the commands, except runs/, which has logs, checkpoints and notes."""


@dataclass(frozen=True)
class Smoke:
    """The finished study below ``root``. ``made``: for each command, the files that were created or changed."""

    root: Path
    lines: list[Line]
    made: list[list[str]]


def state(root: Path) -> dict[str, int]:
    """Modification time of each output file, by path relative to ``root``."""
    found = (path for folder in FOLDERS for path in (root / folder).rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.stat().st_mtime_ns for path in found}


def content(root: Path) -> dict[str, bytes]:
    """Bytes of each output file, by path relative to ``root``."""
    return {name: (root / name).read_bytes() for name in sorted(state(root))}


def smoke_study(folder: Path) -> Smoke:
    """The study in ``folder``; the first test process that needs the study runs the steps."""
    asked, root = lines("smoke"), folder / "study"
    with FileLock(folder / "lock"):
        known = folder / "made"
        if not known.is_file():
            root.mkdir()
            known.with_suffix(".new").write_text("\n".join(_make(root, asked)))
            known.with_suffix(".new").rename(known)
    made = [line.split("\t")[1:] for line in known.read_text().splitlines()]
    return Smoke(root, asked, made)


def _make(root: Path, asked: list[Line]) -> list[str]:
    before, told = state(root), []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(trainer, "_uses_bf16_cpu", USES_BF16_CPU)  # the precision of commands in processes of their own
        patch.setenv("GIT_DIR", os.devnull)  # a commit during the tests must not change the code version
        for line in asked:
            line.run()
            after = state(root)
            told.append("\t".join([line.what, *(name for name in after if after[name] != before.get(name))]))
            before = after
    return told
