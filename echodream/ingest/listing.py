"""What the sources share when they list a raw folder: walking it without leaving it, and naming what is found."""

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from echodream.errors import UserError
from echodream.ingest.names import unique_names
from echodream.ingest.source import Recording
from echodream.store.table import clean_text

OUTSIDE_RAW = "leaves the raw folder"
MISSING_FILE = "no such file in the raw folder"


@dataclass(frozen=True)
class ListedRecording(Recording):
    """A recording of which the listing knows more than the interface has room for: ``Source.read`` uses it."""

    fps: float | None = None
    """Frames per second that a table states, in place of the file's own."""
    marks: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Moments in seconds, by column name."""
    mark_frames: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Moments as frame numbers of the raw file, from 0, by column name."""
    sizes: tuple[int, ...] = ()
    """Bytes of each file where a recording is made of many."""


@dataclass(frozen=True)
class RawFile:
    """One file below the raw folder."""

    path: Path
    relative: str
    """Path below the raw folder, with ``/``."""
    problem: str | None = None
    counted: bool = True


def require_folder(raw: Path | None, study: str) -> Path:
    """``raw`` as an existing folder. Raises ``UserError`` that says what to set."""
    if raw is None:
        raise UserError(f"{study} is read from a folder: set raw=/path/to/{study}")
    if not raw.is_dir():
        raise UserError(f"raw={raw} is not a folder: set raw= to where {study} was unpacked")
    return raw


def list_files(root: Path) -> list[RawFile]:
    """Every file below ``root`` in a fixed order; what may not be opened has its ``problem``.

    Links to folders are not followed, hidden files and folders are listed but not entered, and a link to a file is
    taken only if its target lies below ``root``.
    """
    return sorted(_walk(root), key=lambda entry: entry.relative)


def _walk(root: Path) -> Iterator[RawFile]:
    unreadable: list[Path] = []
    for folder, folders, files in os.walk(root, onerror=lambda error: unreadable.append(Path(error.filename))):
        here = Path(folder)
        for name in list(folders):
            path = here / name
            if path.is_symlink() or name.startswith("."):
                folders.remove(name)
                linked = path.is_symlink()
                problem = "not a recording: a hidden folder"
                if linked:
                    problem = "a link to a folder is not followed" if is_inside(root, path) else OUTSIDE_RAW
                yield RawFile(path, _relative(root, path), problem, counted=linked)
        for name in files:
            yield _entry(root, here / name)
    for path in unreadable:
        yield RawFile(path, _relative(root, path), "the folder cannot be read")


def _relative(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def _entry(root: Path, path: Path) -> RawFile:
    relative = _relative(root, path)
    if path.name.startswith("."):
        return RawFile(path, relative, "not a recording: a hidden file", counted=False)
    return RawFile(path, relative, _why_not_opened(root, path))


def _why_not_opened(root: Path, path: Path) -> str | None:
    linked = path.is_symlink()
    if linked and not is_inside(root, path):
        return OUTSIDE_RAW
    try:
        mode = path.stat().st_mode
    except OSError:
        return "a link that leads nowhere" if linked else MISSING_FILE
    return None if stat.S_ISREG(mode) else "not a regular file"


def is_inside(root: Path, path: Path) -> bool:
    """Whether ``path`` lies below ``root`` once every link is followed."""
    try:
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError):  # a loop of links, a name the system refuses
        return False


def parent_folder(relative: str) -> str:
    """The folder part of a path below ``raw``; empty for ``raw`` itself."""
    folder = PurePosixPath(relative).parent.as_posix()
    return "" if folder == "." else folder


def require_inside_raw(root: Path, path: Path, said: str) -> None:
    """Raise ``UserError`` for a table, called ``said``, that does not lie below ``root``."""
    if not is_inside(root, path):
        raise UserError(f"{said} {OUTSIDE_RAW}: copy it there")


def non_recording(entry: RawFile) -> Recording:
    """The row of a file that belongs to no recording, or that may not be opened."""
    if entry.problem:
        return Recording(entry.relative, "", entry.path, problem=entry.problem, counted=entry.counted)
    kind = Path(entry.relative).suffix.lower() or "no suffix"
    return Recording(entry.relative, "", entry.path, problem=f"not a recording: {kind}", counted=False)


def with_unique_names(recordings: Iterable[Recording]) -> list[Recording]:
    """The recordings with valid, unique FileNames made of the names they came with; PatientIDs are made clean_text."""
    listed = list(recordings)
    names = unique_names([recording.name for recording in listed])
    return [
        replace(recording, name=name, patient=clean_text(recording.patient))
        for recording, name in zip(listed, names, strict=True)
    ]


def find_folder(root: Path, wanted: Callable[[Path], bool], depth: int = 2) -> Path | None:
    """The first folder for which ``wanted`` holds, ``root`` first, then level by level down to ``depth``, by name."""
    level = [root]
    for _ in range(depth + 1):
        for folder in level:
            if wanted(folder):
                return folder
        level = [child for folder in level for child in subfolders(folder)]
    return None


def subfolders(folder: Path) -> list[Path]:
    """Folders directly in ``folder``, by name, without links and hidden ones."""
    try:
        children = sorted(folder.iterdir())
    except OSError:
        return []
    return [path for path in children if path.is_dir() and not path.is_symlink() and not path.name.startswith(".")]


def find_entry(folder: Path, name: str) -> Path | None:
    """The entry called ``name`` in ``folder``, in any letter case."""
    try:
        matches = sorted(path for path in folder.iterdir() if path.name.casefold() == name.casefold())
    except OSError:
        return None
    exact = [path for path in matches if path.name == name]
    return next(iter(exact + matches), None)
