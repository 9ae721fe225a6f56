"""What a rerun is told at once, before anything heavy is imported: the same was asked for, and is done.

A stage that is done leaves a note, outside of what it made: a digest of all its settings and of the state of the files
that it read, and the state of the files that it wrote. Where anything differs the stage itself looks closer.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from echodream.runs.atomic_folder import RANKS, first_process, read_record, write_record
from echodream.runs.summary import Summary
from echodream.store.schema import CHECKSUMS, DATASET, partial_path
from echodream.store.verify import require_intact

_WRITTEN = ("dst", "private")
"""Settings that say where a stage writes."""


def run_once(notes: str | None, stage: Mapping[str, Any], run: Callable[[], Summary]) -> Summary:
    """``run`` the stage that ``stage`` configures, unless the folder ``notes``, if given, says that it is done.

    Raises ``StoreError`` before, where a store that it reads is damaged.
    """
    if notes is None:
        check_sources(stage)
        return run()
    asked = _asked(stage)  # before the run: what is replaced while it runs was not read
    found = remembered(notes, stage, asked)
    if found is None:
        check_sources(stage)
        found = run()
        remember(notes, stage, asked, found)
    return found


def check_sources(settings: Mapping[str, Any]) -> None:
    """Raise ``StoreError`` unless all files of the stores that ``settings`` name, but where it writes, are as made."""
    if not first_process() or str(settings.get("_target_", "")).endswith(".verify"):  # which says more
        return
    for path in {_path(value) for value in _texts(settings)}:
        if (path / DATASET).is_file() and (path / CHECKSUMS).is_file():
            require_intact(path)


def _texts(value: Any) -> Iterator[str]:
    """Every text in ``value``, however deep, but where it says what is written."""
    if isinstance(value, Mapping):
        value = [item for key, item in value.items() if key not in _WRITTEN]
    if isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str) and value:
        yield value


def remembered(notes: str, stage: Mapping[str, Any], asked: str) -> Summary | None:
    """The summary of ``stage``, its configuration, if the folder ``notes`` says that it is done and nothing changed."""
    note = read_record(_place(notes, stage))
    if note is None or _distributed() or partial_path(_dst(stage)).exists():
        return None
    if note.get("asked") != asked or note.get("made") != _made(_dst(stage), note.get("files", [])):
        return None
    title = f"{_name(stage)}: {_dst(stage)} already complete, nothing to do"
    return Summary(title, note["facts"])


def remember(notes: str, stage: Mapping[str, Any], asked: str, summary: Summary) -> None:
    """Leave a note in the folder ``notes`` that ``stage`` is done; a convenience, so no disk needs room for it."""
    if summary.problem is not None or _distributed() or not _dst(stage).is_dir():
        return
    facts = {name: str(value) for name, value in summary.facts.items()}
    with contextlib.suppress(OSError):
        place = _place(notes, stage)
        place.parent.mkdir(parents=True, exist_ok=True)
        made = _made(_dst(stage), summary.files)
        write_record(place, {"asked": asked, "made": made, "files": [*summary.files], "facts": facts})


def _dst(stage: Mapping[str, Any]) -> Path:
    """Where ``stage`` writes: its own setting, or one of its stores."""
    return Path(stage["dst"] if "dst" in stage else stage["stores"]["dst"])


def _name(stage: Mapping[str, Any]) -> str:
    return str(stage["_target_"]).rpartition(".")[2]


def _place(notes: str, stage: Mapping[str, Any]) -> Path:
    whose = hashlib.sha256(str(_dst(stage).absolute()).encode()).hexdigest()[:16]
    return Path(notes) / f"{_name(stage)}-{whose}.json"


def _distributed() -> bool:
    """Whether there are processes that wait for each other."""
    return any(name in os.environ for name in RANKS)


def _asked(stage: Mapping[str, Any]) -> str:
    """Digest of the settings of ``stage`` but where it writes, with the state of all files that they name."""

    def seen(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): seen(item) for key, item in value.items() if key not in _WRITTEN}
        if isinstance(value, Sequence) and not isinstance(value, str):
            return [seen(item) for item in value]
        return [value, _state(_path(value))] if isinstance(value, str) and value else value

    settings = seen(stage)
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def _path(value: str) -> Path:
    """What a setting may name: ``value``, or what follows the colon in kind:path."""
    whole, (_, _, after) = Path(value), value.partition(":")
    return Path(after) if after and not whole.exists() else whole


def _made(dst: Path, names: Sequence[str] = ()) -> str:
    """Digest of the state of a store, or of the files, not the folders, of a report: all, or those with ``names``."""
    own = [path for path in sorted(_files(dst)) if not names or path.name in names]
    found = _state(dst) if (dst / DATASET).is_file() else [[path.name, *_file(path)] for path in own]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def _state(path: Path) -> Any:
    """Size and time of a file, or of all files in a folder; None where there is neither."""
    if path.is_dir():
        return [[str(file.relative_to(path)), *_file(file)] for file in sorted(path.rglob("*")) if file.is_file()]
    return _file(path) if path.is_file() else None


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []


def _file(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]
