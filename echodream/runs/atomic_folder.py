"""A folder that one process writes, that says what it is made of, and that an interrupted process goes on with."""

import contextlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from echodream.errors import UserError
from echodream.store.lock import lock as take
from echodream.store.lock import unlock as unlock
from echodream.store.schema import partial_path

RANKS = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK")
"""Environment variables that are set in the processes of a distributed run."""
FRESH = ".new-"
"""Begins the name of what is not finished; no FileName begins so."""


def first_process() -> bool:
    """Whether this is the only process, or the first of a distributed run."""
    return all(os.environ.get(name, "0") == "0" for name in RANKS)


def lock(folder: Path, file: str | None = None, doing: str = "written", other: str = "dst=") -> int:
    """Make ``folder`` if it is absent and keep other processes out of it until ``unlock``.

    The lock is on the folder itself, or on a ``file`` that stays in it. Raises ``UserError`` when another process has
    it: the folder is being ``doing``, choose another ``other``.
    """
    try:
        return take(folder, file)
    except BlockingIOError as error:
        reason = f"{folder} is being {doing} by another process: wait for it, or choose another {other}"
        raise UserError(reason) from error
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}; choose another {other}") from error


@contextlib.contextmanager
def made_whole(target: Path) -> Iterator[Path | None]:
    """``<target>.partial``, which gets its name when the block ends without an error; None where ``target`` is there.

    No other process enters it meanwhile: ``UserError``, as of ``lock``. What a killed process left is still in it.
    """
    if target.exists():
        yield None
        return
    work = partial_path(target)
    held = lock(work)
    try:
        if target.exists():  # the process that held the lock before has finished
            with contextlib.suppress(OSError):  # it was renamed
                work.rmdir()
            yield None
        else:
            yield work
            work.rename(target)
    finally:
        unlock(held)


def read_record(path: Path) -> dict[str, Any] | None:
    """What ``write_record`` wrote; None where there is nothing, or something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write ``record`` as json, whole or not at all. NaN and infinity, which json lacks, become null."""
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
    """Write a file, whole or not at all."""
    fresh = path.with_name(f"{FRESH}{path.name}")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)


def require_same(path: Path, asked: Mapping[str, Any], kind: str) -> None:
    """Raise ``UserError`` unless the record at ``path`` says what was ``asked``; without one the folder is no ``kind``.

    A difference in ``source``, a fingerprint, is called other recordings.
    """
    found = read_record(path)
    if found is None:
        raise UserError(f"{path.parent} is there and is not {kind}: choose another dst=, or remove it")
    for name, value in json.loads(json.dumps(asked)).items():
        if found.get(name) != value:
            what = "from other recordings" if name == "source" else f"with {name}={found.get(name)}, now {value}"
            raise UserError(f"{path.parent} is already there, made {what}: choose another dst=, or remove it")


def begin(path: Path, asked: Mapping[str, Any], kind: str) -> None:
    """Record at ``path`` what its folder will be, or see that what was begun is the same; remove what is unfinished."""
    work = path.parent
    if path.exists() or any(not entry.name.startswith(FRESH) for entry in work.iterdir()):
        require_same(path, asked, kind)
    for left in [*work.glob(f"{FRESH}*"), *work.glob(f"*/{FRESH}*")]:
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    if not path.exists():
        write_record(path, asked)


def share_file(source: Path, target: Path) -> None:
    """The same file under another name, or a copy of it where that cannot be."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
