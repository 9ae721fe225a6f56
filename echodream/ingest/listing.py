"""Lists the files of a raw folder, gives recordings unique names, and computes the fingerprint of the listing."""

import gzip
import hashlib
import json
import os
import re
import stat
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

from echodream.errors import UserError
from echodream.ingest.media_files import MEDIA_SUFFIXES
from echodream.ingest.source import Recording
from echodream.store.table import clean_text

OUTSIDE_RAW_REASON = "is outside the raw folder"
MISSING_FILE_REASON = "no such file in the raw folder"
_MAX_NAME_LENGTH = 128
_FORBIDDEN_CHARACTERS = re.compile(r"[^A-Za-z0-9._-]+")
_DOCUMENT_NAME = re.compile(
    r".*\.(csv|tsv|txt|md|rst|json|xml|html?|pdf|rtf|docx?|xlsx?|od[ts]|pptx?|db|ini|lnk|log|py|pyc|exe|dll|wav|mp3|m4a)(\.gz)?"
)
"""Lower-case names of files that cannot be recordings."""
_TEXT_BYTES = bytes([*b"\a\b\t\n\f\r\x1b", *range(0x20, 0x7F), *range(0x80, 0x100)])
"""Bytes that occur in text files, in any encoding of 8 bits per character."""


@dataclass(frozen=True)
class ListedRecording(Recording):
    """A recording with the values from the tables of its study that ``Source.read`` needs."""

    fps: float | None = None
    """Frames per second from a table; None to use the frame rate of the file."""
    marks: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Column (ED, ES) -> times in seconds."""
    mark_frames: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Column (ED, ES) -> frame numbers in the raw file, starting at 0."""
    sizes: tuple[int, ...] = ()
    """Sizes in bytes of the files of an image sequence; () for a recording in one file."""


@dataclass(frozen=True)
class RawFile:
    """A file below the raw folder, or a folder that is not searched."""

    path: Path
    relative_path: str
    """Path below the raw folder, separated by "/"."""
    problem: str | None = None
    """Reason why the file must not be opened; None if it may be opened."""
    counted: bool = True
    """Whether the rejected file counts for ``max_rejected``."""


def require_folder(raw: Path | None, study: str) -> Path:
    """Return ``raw``. Raises ``UserError`` unless ``raw`` is an existing folder."""
    if raw is None:
        raise UserError(f"{study} needs a folder of raw files: set raw=/path/to/{study}")
    if not raw.is_dir():
        raise UserError(f"raw={raw} is not a folder: set raw= to the folder of {study}")
    return raw


def list_files(root: Path) -> list[RawFile]:
    """List all files below ``root``, sorted by path; a file that must not be opened has a ``problem``.

    Linked folders and hidden folders are listed, but not searched. Linked files must be below ``root``.
    """
    listed: list[RawFile] = []

    def add_unreadable_folder(error: OSError) -> None:
        path = Path(error.filename)
        listed.append(RawFile(path, path.relative_to(root).as_posix(), "the folder cannot be read"))

    for folder, folders, files in os.walk(root, onerror=add_unreadable_folder):
        skipped = [name for name in folders if name.startswith(".") or Path(folder, name).is_symlink()]
        folders[:] = [name for name in folders if name not in skipped]
        listed += [_build_raw_file(root, Path(folder, name), is_folder=True) for name in skipped]
        listed += [_build_raw_file(root, Path(folder, name), is_folder=False) for name in files]
    return sorted(listed, key=lambda entry: entry.relative_path)


def _build_raw_file(root: Path, path: Path, *, is_folder: bool) -> RawFile:
    """Build the ``RawFile`` of a file below ``root``, or of a hidden or linked folder."""
    problem, counted, linked = None, True, path.is_symlink()
    if path.name.startswith(".") and not (linked and is_folder):
        hidden = (Path(parent, name) for parent, _, names in os.walk(path) for name in names) if is_folder else (path,)
        counted = any(map(_has_media_suffix, hidden))
        problem = f"{'' if counted else 'not a recording: '}a hidden {'folder' if is_folder else 'file'}"
    elif linked and not is_inside(root, path):
        problem = OUTSIDE_RAW_REASON
    elif is_folder:
        problem = "a link to a folder is not followed"
    else:
        try:
            problem = None if stat.S_ISREG(path.stat().st_mode) else "not a regular file"
        except OSError:
            problem = "a link to a missing file" if linked else MISSING_FILE_REASON
    return RawFile(path, path.relative_to(root).as_posix(), problem, counted)


def is_inside(root: Path, path: Path) -> bool:
    """Whether ``path`` is below ``root`` after links are resolved."""
    try:
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError):  # links form a loop, or the name is invalid
        return False


def parent_folder(relative_path: str) -> str:
    """Return the parent folder of a path below ``raw``; "" for files directly in ``raw``."""
    folder = PurePosixPath(relative_path).parent.as_posix()
    return "" if folder == "." else folder


def require_inside_raw(root: Path, path: Path, name: str) -> None:
    """Raise ``UserError`` if ``path`` is not below the raw folder ``root``; ``name`` begins the error message."""
    if not is_inside(root, path):
        raise UserError(f"{name} {OUTSIDE_RAW_REASON}: copy it into this folder")


def reject_file(entry: RawFile) -> Recording:
    """Build a rejected recording for a file that is not read; possible recordings count for ``max_rejected``."""
    counted = entry.counted if entry.problem else may_be_recording(entry.path)
    reason = f"{'not read by this study' if counted else 'not a recording'}: {entry.path.suffix.lower() or 'no suffix'}"
    return Recording(entry.relative_path, "", entry.path, problem=entry.problem or reason, counted=counted)


def may_be_recording(path: Path) -> bool:
    """Whether a file may be a recording: a video or image by its suffix, or neither a document nor plain text."""
    if _has_media_suffix(path):
        return True
    try:
        with path.open("rb") as file:
            return not _DOCUMENT_NAME.fullmatch(path.name.lower()) and bool(
                file.read(1024).translate(None, _TEXT_BYTES)
            )
    except OSError:
        return True


def have_same_content(first: Path | None, second: Path | None) -> bool:
    """Whether two files have equal content after decompression of .gz files; False if a file cannot be read."""
    try:
        return first is not None and second is not None and _content_sha256(first) == _content_sha256(second)
    except (OSError, EOFError, zlib.error):
        return False


def _content_sha256(path: Path) -> str:
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _has_media_suffix(path: Path) -> bool:
    """Whether a file has the suffix of a video or image, and is not a metadata file of macOS ("._name")."""
    return path.suffix.lower() in MEDIA_SUFFIXES and not path.name.startswith("._")


def with_unique_names(recordings: Iterable[Recording]) -> list[Recording]:
    """Replace names by valid, unique FileNames, and remove control characters from PatientIDs."""
    listed = list(recordings)
    names = unique_names([recording.name for recording in listed])
    return [
        replace(entry, name=name, patient=clean_text(entry.patient)) for entry, name in zip(listed, names, strict=True)
    ]


def folders_below(root: Path, depth: int = 2) -> Iterator[Path]:
    """Yield ``root`` and its subfolders down to ``depth`` levels, breadth first, without linked and hidden folders."""
    level = [root]
    for _ in range(depth + 1):
        yield from level
        level = [child for folder in level for child in subfolders(folder)]


def folder_contents(folder: Path) -> list[Path]:
    """List the files and folders in ``folder``, sorted by name; [] if ``folder`` cannot be read."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def subfolders(folder: Path) -> list[Path]:
    """List the subfolders of ``folder``, sorted by name, without linked and hidden folders."""
    visible = (path for path in folder_contents(folder) if not path.name.startswith("."))
    return [path for path in visible if path.is_dir() and not path.is_symlink()]


def find_ignoring_case(folder: Path, name: str) -> Path | None:
    """Find the file or folder ``name`` in ``folder``, ignoring case; None if there is none."""
    matches = [path for path in folder_contents(folder) if path.name.casefold() == name.casefold()]
    return min(matches, key=lambda path: path.name != name, default=None)


def valid_file_name(text: str) -> str:
    """Convert ``text`` to a valid FileName of at most 128 ASCII characters, with "-" for characters not allowed.

    A text without ASCII letters and digits becomes ``recording-`` and a hash of the text.
    """
    name = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")
    name = _FORBIDDEN_CHARACTERS.sub("-", name).lstrip("._-").rstrip(".-")
    return name if 0 < len(name) <= _MAX_NAME_LENGTH else _append_hash(name or "recording", text)


def unique_names(texts: Sequence[str]) -> list[str]:
    """Convert each text to a FileName; names are unique even on file systems that ignore case.

    Different texts with equal FileNames get a hash of the text as suffix, which does not depend on the order of the
    listing. Equal texts are numbered.
    """
    names = [valid_file_name(text) for text in texts]
    count = Counter(name.casefold() for name in names)
    pairs = zip(names, texts, strict=True)
    names = [name if count[name.casefold()] == 1 else _append_hash(name, text) for name, text in pairs]
    used: set[str] = set()
    for index, name in enumerate(names):
        number = 1
        while names[index].casefold() in used:
            number += 1
            names[index] = f"{name[: _MAX_NAME_LENGTH - 8]}-{number}"
        used.add(names[index].casefold())
    return names


def _append_hash(name: str, text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{name[: _MAX_NAME_LENGTH - 9]}-{digest[:8]}"


def listing_fingerprint(recordings: Sequence[Recording], splits: Mapping[str, str]) -> str:
    """Compute the SHA-256 of the listing, the splits (patient -> split) and the content of the raw files.

    An unfinished store is continued only if the fingerprint is unchanged. The fingerprint excludes the path of ``raw``.
    """
    rows = []
    for recording in recordings:
        values = {item.name: getattr(recording, item.name) for item in fields(recording) if item.name != "evidence"}
        if recording.problem is not None:  # a pipe or a link out of the raw folder must not be opened
            values = {name: value for name, value in values.items() if not isinstance(value, Path)}
        rows.append({**values, "split": splits.get(recording.patient)})
    return hashlib.sha256(json.dumps(rows, sort_keys=True, default=_json_value).encode()).hexdigest()


def _json_value(value: Any) -> Any:
    """Convert a value of a recording to JSON, and a path to the fingerprint of its file."""
    if isinstance(value, Path):
        return _file_fingerprint(value)
    if isinstance(value, Mapping):
        return dict(value)
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _file_fingerprint(path: Path) -> list[Any] | None:
    """Return the size of a file and the SHA-256 of its first and last 64 KiB; for a folder, the sizes of its files."""
    chunk_bytes = 1 << 16
    try:
        if path.is_dir():
            return sorted(file.stat().st_size for file in path.rglob("*") if file.is_file())
        if not path.is_file():
            return None
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            digest = hashlib.sha256()
            for start in (0, max(0, size - chunk_bytes)):
                file.seek(start)
                digest.update(file.read(chunk_bytes))
    except OSError:  # ``Source.read`` reports the error
        return None
    return [size, digest.hexdigest()]
