import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from echodream.store.lock import lock, unlock
from tests.support.fakes import video_store


def descriptors() -> int:
    """Number of open file descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("file", [None, "lock"])
def test_a_lock_is_had_once_and_again_after_it_was_let_go(tmp_path: Path, file: str | None) -> None:
    held = lock(tmp_path / "deep" / "work", file)
    for _ in range(2):
        before = descriptors()
        with pytest.raises(BlockingIOError):
            lock(tmp_path / "deep" / "work", file)
        assert descriptors() == before
    unlock(held)
    unlock(lock(tmp_path / "deep" / "work", file))
    assert [path.name for path in (tmp_path / "deep" / "work").iterdir()] == ([file] if file else [])


@pytest.mark.parametrize("file", [None, "lock"])
@pytest.mark.parametrize("moment", ["before it is opened", "before it is locked"])
def test_a_folder_that_was_renamed_meanwhile_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str | None, moment: str
) -> None:
    """If another process renames the folder, the lock must apply to a new folder at the same path."""
    work, module, name = tmp_path / "work", (os, "open"), "open"
    if moment == "before it is locked":
        module, name = (fcntl, "flock"), "flock"
    real, calls = getattr(module[0], name), []

    def late(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 1:
            work.rename(tmp_path / "done")
        return real(*arguments)

    monkeypatch.setattr(*module, late)
    held = lock(work, file)
    monkeypatch.undo()
    assert len(calls) == 2
    with pytest.raises(BlockingIOError):
        lock(work, file)
    unlock(lock(tmp_path / "done", file))
    unlock(held)


def test_a_lock_that_cannot_be_had_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "lock").symlink_to(tmp_path / "nowhere" / "lock")
    with pytest.raises(NotADirectoryError):
        lock(tmp_path / "file" / "work")
    with pytest.raises(OSError, match="symbolic links"):
        lock(tmp_path, "lock")


def test_a_system_without_flock_can_read_and_says_what_writing_needs(tmp_path: Path) -> None:
    """The test blocks the import of fcntl because Windows has no fcntl module."""
    code = f"""
import sys
sys.modules["fcntl"] = None
from pathlib import Path
import echodream.cli
from echodream.errors import UserError
from echodream.store import Store
from echodream.runs.atomic_folder import atomic_folder
assert Store(Path({str(video_store(tmp_path / "store", 1).root)!r})).frames("rec-000").shape[0] == 2
try:
    with atomic_folder(Path({str(tmp_path / "out")!r})):
        pass
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == ""
    assert "use Linux, macOS or WSL" in done.stdout


def test_a_forked_process_has_no_part_in_the_lock(tmp_path: Path) -> None:
    """In a forked process, ``unlock`` must not close another file that now has the descriptor number of the lock."""
    held = lock(tmp_path / "work")
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(tmp_path, os.O_RDONLY), held)  # replaces the lock's descriptor
        unlock(held)
        try:
            os.fstat(held)
            os.write(told, b"same")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(told)
    assert os.read(ready, 4) == b"same"
    os.close(ready)
    with pytest.raises(BlockingIOError):
        lock(tmp_path / "work")
    unlock(held)
