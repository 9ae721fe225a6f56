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

OUTSIDE_RAW = "leaves the raw folder"
MISSING_FILE = "no such file in the raw folder"
_MAX_NAME_LENGTH = 128
_NOT_ALLOWED = re.compile(r"[^A-Za-z0-9._-]+")
_DOCUMENT = re.compile(
    r".*\.(csv|tsv|txt|md|rst|json|xml|html?|pdf|rtf|docx?|xlsx?|od[ts]|pptx?|db|ini|lnk|log|py|pyc|exe|dll|wav|mp3|m4a)(\.gz)?"
)
"""Names of files that cannot be recordings, in lower case."""
_TEXT = bytes([*b"\a\b\t\n\f\r\x1b", *range(0x20, 0x7F), *range(0x80, 0x100)])
"""Bytes of text in any encoding of 8 bits per character."""


@dataclass(frozen=True)
class ListedRecording(Recording):
    """A recording with values from the tables of a study, which ``Source.read`` uses."""

    fps: float | None = None
    """Frames per second from a table, which replace those of the file."""
    marks: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Column (ED, ES) -> times in seconds."""
    mark_frames: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Column (ED, ES) -> frame numbers of the raw file, from 0."""
    sizes: tuple[int, ...] = ()
    """Sizes in bytes of the files of a recording with several files."""


@dataclass(frozen=True)
class RawFile:
    """A file below the raw folder."""

    path: Path
    relative: str
    """Path below the raw folder, with "/"."""
    problem: str | None = None
    """Reason why the file may not be opened."""
    counted: bool = True
    """Whether the file counts as a lost recording if it is rejected."""


def require_folder(raw: Path | None, study: str) -> Path:
    """``raw``, which must be an existing folder. Raises ``UserError``."""
    if raw is None:
        raise UserError(f"{study} needs a folder of raw files: set raw=/path/to/{study}")
    if not raw.is_dir():
        raise UserError(f"raw={raw} is not a folder: set raw= to the folder of {study}")
    return raw


def list_files(root: Path) -> list[RawFile]:
    """All files below ``root``, sorted by path; files that may not be opened have a ``problem``.

    Links to folders and hidden folders are listed, but not entered. Links to files must point below ``root``.
    """
    unreadable: list[str] = []
    listed: list[RawFile] = []
    for folder, folders, files in os.walk(root, onerror=lambda error: unreadable.append(error.filename)):
        skipped = [name for name in folders if name.startswith(".") or Path(folder, name).is_symlink()]
        folders[:] = [name for name in folders if name not in skipped]
        listed += [_raw_file(root, Path(folder, name), is_folder=True) for name in skipped]
        listed += [_raw_file(root, Path(folder, name), is_folder=False) for name in files]
    for path in map(Path, unreadable):
        listed.append(RawFile(path, path.relative_to(root).as_posix(), "the folder cannot be read"))
    return sorted(listed, key=lambda entry: entry.relative)


def _raw_file(root: Path, path: Path, *, is_folder: bool) -> RawFile:
    """A file, or a folder that is not entered because it is hidden or a link."""
    problem, counted, linked = None, True, path.is_symlink()
    if path.name.startswith(".") and not (linked and is_folder):
        hidden = (Path(*found, name) for *found, _, names in os.walk(path) for name in names) if is_folder else (path,)
        counted = any(map(_is_media, hidden))
        problem = f"{'' if counted else 'not a recording: '}a hidden {'folder' if is_folder else 'file'}"
    elif linked and not is_inside(root, path):
        problem = OUTSIDE_RAW
    elif is_folder:
        problem = "a link to a folder is not followed"
    else:
        try:
            problem = None if stat.S_ISREG(path.stat().st_mode) else "not a regular file"
        except OSError:
            problem = "a link that leads nowhere" if linked else MISSING_FILE
    return RawFile(path, path.relative_to(root).as_posix(), problem, counted)


def is_inside(root: Path, path: Path) -> bool:
    """Whether ``path`` lies below ``root`` after resolving links."""
    try:
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError):  # a loop of links, or an invalid name
        return False


def parent_folder(relative: str) -> str:
    """Parent folder of a path below ``raw``; "" for files directly in ``raw``."""
    folder = PurePosixPath(relative).parent.as_posix()
    return "" if folder == "." else folder


def require_inside_raw(root: Path, path: Path, name: str) -> None:
    """Raise ``UserError`` if ``path``, called ``name`` in the message, is not below the raw folder ``root``."""
    if not is_inside(root, path):
        raise UserError(f"{name} {OUTSIDE_RAW}: copy it there")


def non_recording(entry: RawFile) -> Recording:
    """The rejected entry of a file that is not read. It counts as lost, unless it cannot be a recording."""
    counted = entry.counted if entry.problem else may_be_recording(entry.path)
    reason = f"{'not read by this study' if counted else 'not a recording'}: {entry.path.suffix.lower() or 'no suffix'}"
    return Recording(entry.relative, "", entry.path, problem=entry.problem or reason, counted=counted)


def may_be_recording(path: Path) -> bool:
    """Whether a file is a video or an image by its suffix, or neither a document by its suffix nor plain text."""
    if _is_media(path):
        return True
    try:
        with path.open("rb") as file:
            return not _DOCUMENT.fullmatch(path.name.lower()) and bool(file.read(1024).translate(None, _TEXT))
    except OSError:
        return True


def have_same_content(first: Path | None, second: Path | None) -> bool:
    """Whether two files have the same bytes, after decompression of .gz files; False if one cannot be read."""
    if first is None or second is None:
        return False
    try:
        return _content_sha256(first) == _content_sha256(second)
    except (OSError, EOFError, zlib.error):
        return False


def _content_sha256(path: Path) -> str:
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_media(path: Path) -> bool:
    """Whether a file has the suffix of a video or an image; "._name" is a companion file of macOS."""
    return path.suffix.lower() in MEDIA_SUFFIXES and not path.name.startswith("._")


def with_unique_names(recordings: Iterable[Recording]) -> list[Recording]:
    """The recordings with valid, unique FileNames made from their names, and PatientIDs without control characters."""
    listed = list(recordings)
    names = unique_names([recording.name for recording in listed])
    return [
        replace(entry, name=name, patient=clean_text(entry.patient)) for entry, name in zip(listed, names, strict=True)
    ]


def folders_below(root: Path, depth: int = 2) -> Iterator[Path]:
    """``root`` and its subfolders down to ``depth`` levels, breadth first, without links and hidden folders."""
    level = [root]
    for _ in range(depth + 1):
        yield from level
        level = [child for folder in level for child in subfolders(folder)]


def subfolders(folder: Path) -> list[Path]:
    """Subfolders of ``folder``, sorted by name, without links and hidden folders."""
    try:
        children = sorted(folder.iterdir())
    except OSError:
        return []
    return [path for path in children if path.is_dir() and not path.is_symlink() and not path.name.startswith(".")]


def find_entry(folder: Path, name: str) -> Path | None:
    """Path of the entry ``name`` of ``folder``, ignoring case; None if there is none."""
    try:
        matches = sorted(path for path in folder.iterdir() if path.name.casefold() == name.casefold())
    except OSError:
        return None
    return min(matches, key=lambda path: path.name != name, default=None)


def file_name(text: str) -> str:
    """A valid FileName made from ``text``: ASCII, other characters replaced by "-", at most 128 characters.

    A text without any ASCII letter or digit gives ``recording-`` and a hash of the text.
    """
    ascii_name = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")
    ascii_name = _NOT_ALLOWED.sub("-", ascii_name).lstrip("._-").rstrip(".-")
    if not ascii_name:
        return f"recording-{_short_hash(text)}"
    return ascii_name if len(ascii_name) <= _MAX_NAME_LENGTH else _with_short_hash(ascii_name, text)


def unique_names(texts: Sequence[str]) -> list[str]:
    """One FileName for each text, all unique, also on file systems that ignore case.

    Texts with the same FileName each get a suffix, a hash of the text, so that names do not depend on the order of the
    listing; equal texts are numbered.
    """
    names = [file_name(text) for text in texts]
    count = Counter(name.casefold() for name in names)
    names = [
        name if count[name.casefold()] == 1 else _with_short_hash(name, text)
        for name, text in zip(names, texts, strict=True)
    ]
    used: set[str] = set()
    for index, name in enumerate(names):
        number = 1
        while names[index].casefold() in used:
            number += 1
            names[index] = f"{name[: _MAX_NAME_LENGTH - 8]}-{number}"
        used.add(names[index].casefold())
    return names


def _with_short_hash(name: str, text: str) -> str:
    return f"{name[: _MAX_NAME_LENGTH - 9]}-{_short_hash(text)}"


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def listing_fingerprint(recordings: Sequence[Recording], splits: Mapping[str, str]) -> str:
    """SHA-256 of the listing, the splits (patient -> split) and the content of the raw files.

    An unfinished store is continued only with the same fingerprint. Paths are not part of it: a raw folder may move.
    """
    rows = []
    for recording in recordings:
        names = [field.name for field in fields(recording) if field.name != "evidence"]
        values = {name: getattr(recording, name) for name in names}
        if recording.problem is not None:  # may be a pipe, or a link out of the raw folder: never open it
            values = {name: value for name, value in values.items() if not isinstance(value, Path)}
        rows.append({**values, "split": splits.get(recording.patient)})
    return hashlib.sha256(json.dumps(rows, sort_keys=True, default=_json_value).encode()).hexdigest()


def _json_value(value: Any) -> Any:
    """JSON for a value of a recording; a path becomes a fingerprint of the file."""
    if isinstance(value, Path):
        return _file_fingerprint(value)
    if isinstance(value, Mapping):
        return dict(value)
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _file_fingerprint(path: Path, piece: int = 1 << 16) -> list[Any] | None:
    """Size of a file and SHA-256 of its first and last 64 KiB; for a folder the sizes of its files; else None."""
    try:
        if path.is_dir():
            return sorted(file.stat().st_size for file in path.rglob("*") if file.is_file())
        if not path.is_file():
            return None
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            ends = hashlib.sha256()
            for start in (0, max(0, size - piece)):
                file.seek(start)
                ends.update(file.read(piece))
    except OSError:  # the source reports it when it reads the file
        return None
    return [size, ends.hexdigest()]
