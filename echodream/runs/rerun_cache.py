"""Skips a stage that has already run with the same settings and files, before anything heavy is imported.

A finished stage writes a note outside of its output: digests of its settings, and of the size and time of the files
that it read and wrote. If any of them has changed, the stage runs and makes its own, closer check.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from echodream.runs.atomic_folder import RANK_VARIABLES, is_first_process, read_record, write_record
from echodream.runs.instantiate_stage import StageCall
from echodream.runs.summary import Summary
from echodream.store.schema import CHECKSUMS, DATASET, partial_path
from echodream.store.verify import require_intact


def run_once(notes: str | None, stage: StageCall, run: Callable[[], Summary]) -> Summary:
    """Run ``stage``, unless a note says that it is complete. Raises ``StoreError`` first if an input is damaged."""
    stores = [] if stage.name == "verify" else stage.inputs()  # stage=verify itself reports every damage
    if notes is None:
        check_stores(stores)
        return run()
    request = request_digest(stage)  # before the run, because files may be replaced during the run
    summary = finished_summary(notes, stage, request)
    if summary is None:
        check_stores(stores)
        summary = run()
        write_note(notes, stage, request, summary)
    return summary


def check_stores(paths: Iterable[Path]) -> None:
    """Raise ``StoreError`` if one of ``paths`` is a store whose files do not match its checksums."""
    if is_first_process():
        for path in set(paths):
            if (path / DATASET).is_file() and (path / CHECKSUMS).is_file():
                require_intact(path)


def finished_summary(notes: str, stage: StageCall, request: str) -> Summary | None:
    """The summary of an earlier, complete run of ``stage``; None if there is no note or anything changed."""
    note = read_record(_note_path(notes, stage))
    if note is None or _is_distributed_run() or partial_path(stage.dst).exists():
        return None
    if note.get("request") != request or note.get("output") != _output_digest(stage.dst, note.get("files", [])):
        return None
    return Summary(f"{stage.name}: {stage.dst} already complete, nothing to do", note["facts"])


def write_note(notes: str, stage: StageCall, request: str, summary: Summary) -> None:
    """Note in the folder ``notes`` that ``stage`` is complete. A full disk is ignored: the note is a convenience."""
    if summary.problem is not None or _is_distributed_run() or not stage.dst.is_dir():
        return
    note = {"request": request, "files": [*summary.files], "facts": {n: str(v) for n, v in summary.facts.items()}}
    with contextlib.suppress(OSError):
        path = _note_path(notes, stage)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_record(path, {**note, "output": _output_digest(stage.dst, summary.files)})


def request_digest(stage: StageCall) -> str:
    """Digest of the settings of ``stage`` and of the state of all files that it reads."""
    inputs = [[str(path), _file_state(path)] for path in stage.inputs()]
    request = {"stage": stage.target, "settings": stage.settings(), "inputs": inputs}
    return hashlib.sha256(json.dumps(request, sort_keys=True, default=str).encode()).hexdigest()


def _note_path(notes: str, stage: StageCall) -> Path:
    output = hashlib.sha256(str(stage.dst.absolute()).encode()).hexdigest()[:16]
    return Path(notes) / f"{stage.name}-{output}.json"


def _is_distributed_run() -> bool:
    """Whether this is one of several processes that wait for each other."""
    return any(name in os.environ for name in RANK_VARIABLES)


def _output_digest(dst: Path, names: Sequence[str] = ()) -> str:
    """Digest of the state of a store, or of the files directly in a report's folder: all, or those with ``names``."""
    files = [path for path in sorted(dst.glob("*")) if path.is_file() and (not names or path.name in names)]
    state = _file_state(dst) if (dst / DATASET).is_file() else [[path.name, *_size_and_time(path)] for path in files]
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()


def _file_state(path: Path) -> Any:
    """Size and modification time of a file, or of all files in a folder; None if ``path`` does not exist."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return [[str(file.relative_to(path)), *_size_and_time(file)] for file in files]
    return _size_and_time(path) if path.is_file() else None


def _size_and_time(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
