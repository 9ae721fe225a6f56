"""Folders and files that one process at a time writes, completely or not at all, and that a rerun can continue."""

import contextlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from echodream.errors import UserError
from echodream.store.lock import lock as lock_folder
from echodream.store.lock import unlock as unlock
from echodream.store.schema import partial_path

RANK_VARIABLES = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK")
"""Environment variables of the processes of a distributed run."""
TEMPORARY_PREFIX = ".new-"
"""Prefix of the names of unfinished files and folders; a FileName never starts with it."""


def is_first_process() -> bool:
    """Whether this is the only process, or the first process of a distributed run."""
    return all(os.environ.get(name, "0") == "0" for name in RANK_VARIABLES)


def lock(folder: Path, file: str | None = None, action: str = "written", key: str = "dst=") -> int:
    """Create ``folder`` if needed and lock it against other processes; returns the handle for ``unlock``.

    The lock is on the folder itself, or on a ``file`` in it. Raises ``UserError`` if another process holds the lock;
    its message says
    that ``folder`` is being ``action``, and to choose another value of ``key``.
    """
    try:
        return lock_folder(folder, file)
    except BlockingIOError as error:
        text = f"{folder} is being {action} by another process"
        raise UserError(f"{text}: wait for it, or choose another {key}") from error
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}; choose another {key}") from error


@contextlib.contextmanager
def atomic_folder(target: Path) -> Iterator[Path | None]:
    """``<target>.partial``, locked, and renamed to ``target`` at the end of the block; None if ``target`` exists.

    The partial folder still has the files of a killed run. Raises ``UserError`` if another process is writing.
    """
    if target.exists():
        yield None
        return
    work = partial_path(target)
    handle = lock(work)
    try:
        if target.exists():  # another process has finished it while this one waited for the lock
            with contextlib.suppress(OSError):  # the other process has renamed the partial folder
                work.rmdir()
            yield None
        else:
            yield work
            work.rename(target)
    finally:
        unlock(handle)


def read_record(path: Path) -> dict[str, Any] | None:
    """The record that ``write_record`` wrote; None if the file is absent or is not a record."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write ``record`` as json, completely or not at all. NaN and infinity, which json lacks, become null."""
    write_text(path, json.dumps(_json_value(record), indent=2, sort_keys=True) + "\n")


def _json_value(value: Any) -> Any:
    """``value`` with Python numbers for those of numpy, and None for NaN and infinity."""
    if isinstance(value, Mapping):
        return {key: _json_value(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(entry) for entry in value]
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_text(path: Path, text: str) -> None:
    """Write a file, completely or not at all; creates its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def require_same_settings(path: Path, settings: Mapping[str, Any], kind: str) -> None:
    """Raise ``UserError`` unless the record at ``path`` has these ``settings``; ``kind`` describes its folder."""
    record = read_record(path)
    if record is None:
        raise UserError(f"{path.parent} exists and is not {kind}: choose another dst=, or remove it")
    for name, value in json.loads(json.dumps(settings)).items():
        if record.get(name) != value:
            # the setting ``source`` is the fingerprint of the recordings
            difference = "from other recordings" if name == "source" else f"with {name}={record.get(name)}, now {value}"
            raise UserError(f"{path.parent} already exists, made {difference}: choose another dst=, or remove it")


def begin_or_resume(path: Path, settings: Mapping[str, Any], kind: str) -> None:
    """Write ``settings`` to ``path``, or ``require_same_settings`` of an interrupted run; remove unfinished files."""
    folder = path.parent
    if path.exists() or any(not entry.name.startswith(TEMPORARY_PREFIX) for entry in folder.iterdir()):
        require_same_settings(path, settings, kind)
    for entry in [*folder.glob(f"{TEMPORARY_PREFIX}*"), *folder.glob(f"*/{TEMPORARY_PREFIX}*")]:
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    if not path.exists():
        write_record(path, settings)
