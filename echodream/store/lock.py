"""Keeping other processes out of what one process writes."""

import fcntl
import os
from pathlib import Path

_held: set[int] = set()


def lock(folder: Path, file: str | None = None) -> int:
    """Make ``folder`` if it is absent and keep other processes out of it; returns what ``unlock`` needs.

    The lock is on the folder itself, or on a ``file`` that stays in it. It ends with this process, however that ends.
    Raises ``BlockingIOError`` when it is held already, another ``OSError`` when it cannot be had at all.
    """
    path = folder / file if file else folder
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW if file else os.O_RDONLY
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, flags, 0o666)
        except FileNotFoundError:  # who held the lock has finished and removed the folder meanwhile: make it again
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise
        if _is_at(handle, path):
            _held.add(handle)
            return handle
        os.close(handle)


def unlock(handle: int) -> None:
    """Let other processes in again. In a forked process, whose lock it is not, this does nothing."""
    if handle in _held:
        _held.remove(handle)
        os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    """Whether what was opened is still what lies at ``path``: it may have been removed or renamed since."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _forget() -> None:
    """In a forked process, which may outlive a killed parent for some seconds: the locks are the parent's alone."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_forget)
