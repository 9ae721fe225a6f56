"""Atomic, resumable folders and files, each written by one process at a time."""

import contextlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from echodream.errors import UserError
from echodream.store.lock import lock_for_writing, unlock
from echodream.store.schema import TEMPORARY_PREFIX as TEMPORARY_PREFIX
from echodream.store.schema import partial_path
from echodream.store.schema import write_text as write_text

RANK_VARIABLES = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK")
"""Environment variables with the rank of a process in a distributed run."""


def is_first_process() -> bool:
    """Whether this is the only process, or the first process of a distributed run."""
    return all(os.environ.get(name, "0") == "0" for name in RANK_VARIABLES)


@contextlib.contextmanager
def atomic_folder(target: Path) -> Iterator[Path | None]:
    """Lock and yield ``<target>.partial``, and rename it to ``target`` at the end. Yield None if ``target`` exists.

    After a killed run, the partial folder contains the files of that run. Raises ``UserError`` if another process is
    writing the folder.
    """
    if target.exists():
        yield None
        return
    work = partial_path(target)
    handle = lock_for_writing(work)
    try:
        if target.exists():  # another process wrote ``target`` before this process got the lock
            with contextlib.suppress(OSError):
                work.rmdir()
            yield None
        else:
            yield work
            work.rename(target)
    finally:
        unlock(handle)


def read_record(path: Path) -> dict[str, Any] | None:
    """Read a record of ``write_record``; None if the file does not exist or is not a json object."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write ``record`` atomically as json. NaN and infinity, which json lacks, become null."""
    write_text(path, json.dumps(_json_value(record), indent=2, sort_keys=True) + "\n")


def _json_value(value: Any) -> Any:
    """Copy of ``value`` with Python numbers instead of NumPy numbers, and None instead of NaN and infinity."""
    if isinstance(value, Mapping):
        return {key: _json_value(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(entry) for entry in value]
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def require_same_settings(path: Path, settings: Mapping[str, Any], kind: str) -> None:
    """Raise ``UserError`` unless the record at ``path`` has the ``settings``. ``kind``: type of the folder."""
    record = read_record(path)
    if record is None:
        raise UserError(f"{path.parent} exists and is not {kind}: choose another dst=, or remove it")
    for name, value in json.loads(json.dumps(settings)).items():
        if record.get(name) != value:
            # ``source`` is the checksum of the recordings
            difference = "from other recordings" if name == "source" else f"with {name}={record.get(name)}, now {value}"
            raise UserError(f"{path.parent} already exists, made {difference}: choose another dst=, or remove it")


def start_or_resume_folder(path: Path, settings: Mapping[str, Any], kind: str) -> None:
    """Remove unfinished files from the folder of ``path``, and write ``settings`` to ``path`` if it is missing.

    Raises ``UserError`` if the folder contains a run with other settings.
    """
    folder = path.parent
    if path.exists() or any(not entry.name.startswith(TEMPORARY_PREFIX) for entry in folder.iterdir()):
        require_same_settings(path, settings, kind)
    for entry in [*folder.rglob(f"{TEMPORARY_PREFIX}*")]:
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink(missing_ok=True)
    if not path.exists():
        write_record(path, settings)
