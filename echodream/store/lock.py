"""File locks, so that only one process at a time writes to a folder."""

import os
from pathlib import Path

from echodream.errors import UserError
from echodream.store.schema import StoreError

try:
    import fcntl
except ImportError:  # on Windows, stores can be read but not written
    fcntl = None  # type: ignore[assignment]

_lock_handles: set[int] = set()


def lock(folder: Path, file: str | None = None) -> int:
    """Create ``folder`` if needed, lock it or a ``file`` in it by flock(2), and return the handle for ``unlock``.

    The operating system releases the lock when the process ends. Raises ``BlockingIOError`` if another process holds
    the lock, another ``OSError`` if locking is impossible, and ``UserError`` on a system without flock(2).
    """
    if fcntl is None:
        raise UserError(f"{folder} cannot be locked, because this system lacks flock(2): use Linux, macOS or WSL")
    path = folder / file if file else folder
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW if file else os.O_RDONLY
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, flags, 0o666)
        except FileNotFoundError:  # another process has removed the folder
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise
        if _is_same_file(handle, path):
            _lock_handles.add(handle)
            return handle
        os.close(handle)


def lock_for_writing(folder: Path, file: str | None = None, action: str = "written", key: str = "dst=") -> int:
    """Like ``lock``, but raises ``StoreError`` if another process holds the lock or ``folder`` cannot be written.

    The message states that ``folder`` is being ``action``, and recommends another value of the setting ``key``.
    """
    try:
        return lock(folder, file)
    except BlockingIOError as error:
        problem = f"{folder} is being {action} by another process"
        raise StoreError(f"{problem}: wait for it, or choose another {key}") from error
    except OSError as error:
        raise StoreError(f"{folder} cannot be written: {error.strerror}; choose another {key}") from error


def unlock(handle: int) -> None:
    """Release the lock ``handle``. In a forked process, the lock stays, because the parent process holds the lock."""
    if handle in _lock_handles:
        _lock_handles.remove(handle)
        os.close(handle)


def _is_same_file(handle: int, path: Path) -> bool:
    """Whether the open file ``handle`` is still at ``path``, not removed or renamed."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _close_in_child() -> None:
    """Close inherited handles in a forked process, which could otherwise keep the locks of its parent process."""
    while _lock_handles:
        os.close(_lock_handles.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
