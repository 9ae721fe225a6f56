"""File locks: only one process at a time writes to a folder."""

import os
from pathlib import Path

from echodream.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: stores can be read, not written
    fcntl = None  # type: ignore[assignment]

_handles: set[int] = set()


def lock(folder: Path, file: str | None = None) -> int:
    """Create ``folder`` if needed and lock it against other processes (flock(2)); returns the handle for ``unlock``.

    The lock is on the folder itself, or on a ``file`` in it. The system releases it when this process ends.
    Raises ``BlockingIOError`` when another process holds the lock, another ``OSError`` when locking is impossible, and
    ``UserError`` on a system without flock(2).
    """
    if fcntl is None:
        raise UserError(f"{folder} cannot be locked, because this system lacks flock(2): use Linux, macOS or WSL")
    path = folder / file if file else folder
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW if file else os.O_RDONLY
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, flags, 0o666)
        except FileNotFoundError:  # the process that held the lock has removed the folder in the meantime
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise
        if _is_same_file(handle, path):
            _handles.add(handle)
            return handle
        os.close(handle)


def unlock(handle: int) -> None:
    """Release the lock. Does nothing in a forked process, because the lock belongs to its parent."""
    if handle in _handles:
        _handles.remove(handle)
        os.close(handle)


def _is_same_file(handle: int, path: Path) -> bool:
    """Whether the opened file is still the file at ``path``, not removed or renamed since."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _close_in_child() -> None:
    """Close inherited handles in a forked process, which could outlive its parent and keep the parent's locks."""
    while _handles:
        os.close(_handles.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
