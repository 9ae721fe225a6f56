"""Skips a stage that has already run with the same settings and files, before slow imports.

A finished stage writes a note outside its output folder. The note contains digests of the settings, and of the size
and modification time of all input and output files. If a digest has changed, the stage runs again.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from echodream.runs.atomic_folder import RANK_VARIABLES, read_record, write_record
from echodream.runs.instantiate_stage import StageCall
from echodream.runs.summary import Summary
from echodream.runs.verified_stores import check_stores
from echodream.store.checksums import file_states
from echodream.store.schema import DATASET, partial_path

ALWAYS_VERIFIED_STAGES = ("filter", "audit", "anonymity", "linkability", "publish")
"""Stages with statements about patients, which always compute the checksums of all input files."""


def run_once(notes: str | None, stage: StageCall, run: Callable[[], Summary], verified: str | None = None) -> Summary:
    """Run ``stage`` unless its note shows that it is complete. Raises ``StoreError`` if an input store is damaged.

    ``verified``: folder with a record of each store whose checksums were correct (``check_stores``).
    """
    stores = [] if stage.name == "verify" else stage.inputs()  # stage=verify reports damaged files itself
    verified = None if stage.name in ALWAYS_VERIFIED_STAGES else verified
    if notes is None:
        check_stores(stores, verified)
        return run()
    digest = stage_digest(stage)  # computed before the run, because files may be replaced during the run
    summary = finished_summary(notes, stage, digest)
    if summary is None:
        check_stores(stores, verified)
        summary = run()
        write_note(notes, stage, digest, summary)
    return summary


def finished_summary(notes: str, stage: StageCall, digest: str) -> Summary | None:
    """Summary of a complete earlier run of ``stage``; None without a note, or if settings or files have changed."""
    note = read_record(_note_path(notes, stage))
    if note is None or _is_distributed_run() or partial_path(stage.dst).exists():
        return None
    if note.get("request") != digest or note.get("output") != _output_digest(stage.dst, note.get("files", [])):
        return None
    return Summary(f"{stage.name}: {stage.dst} already complete, nothing to do", note["facts"])


def write_note(notes: str, stage: StageCall, digest: str, summary: Summary) -> None:
    """Write a note that ``stage`` is complete to the folder ``notes``. Errors of writing are ignored."""
    if summary.problem is not None or _is_distributed_run() or not stage.dst.is_dir():
        return
    facts = {
        name: value if isinstance(value, str | int | float) else str(value) for name, value in summary.facts.items()
    }
    note = {"request": digest, "files": [*summary.files], "facts": facts}
    with contextlib.suppress(OSError):
        write_record(_note_path(notes, stage), {**note, "output": _output_digest(stage.dst, summary.files)})


def stage_digest(stage: StageCall) -> str:
    """Digest of the settings of ``stage``, and of the size and modification time of its input files."""
    inputs = [[str(path), _file_state(path)] for path in stage.inputs()]
    request = {"stage": stage.target, "settings": stage.settings(), "inputs": inputs}
    return hashlib.sha256(json.dumps(request, sort_keys=True, default=str).encode()).hexdigest()


def _note_path(notes: str, stage: StageCall) -> Path:
    output = hashlib.sha256(str(stage.dst.absolute()).encode()).hexdigest()[:16]
    return Path(notes) / f"{stage.name}-{output}.json"


def _is_distributed_run() -> bool:
    """Whether this process is part of a distributed run."""
    return any(name in os.environ for name in RANK_VARIABLES)


def _output_digest(dst: Path, names: Sequence[str] = ()) -> str:
    """Digest of sizes and times of all files of the store ``dst``, or of the files ``names`` if ``dst`` is no store."""
    files = [path for path in sorted(dst.glob("*")) if path.is_file() and (not names or path.name in names)]
    state = _file_state(dst) if (dst / DATASET).is_file() else [[path.name, *_size_and_time(path)] for path in files]
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()


def _file_state(path: Path) -> Any:
    """Size and modification time of the file ``path``, or of all files in the folder; None for a missing ``path``."""
    if path.is_dir():
        return [[name, status.st_size, status.st_mtime_ns] for name, status in file_states(path)]
    return _size_and_time(path) if path.is_file() else None


def _size_and_time(path: Path) -> list[int]:
    """Size in bytes and modification time in ns; empty if another process has meanwhile removed or renamed the file."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return []
    return [status.st_size, status.st_mtime_ns]
