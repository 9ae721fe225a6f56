"""The journal of a store that is being written: one line of JSON for each recording that is written or rejected."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

Entry = dict[str, Any]
"""{"row": ..., "sha256": ...} of a written recording, or {"rejected": ...} of a rejected one."""


def journal_path(work: Path, shard: int) -> Path:
    """Path of the journal of process ``shard``, in the folder ``work``."""
    return work / f"journal-{shard}.jsonl"


def entry_line(entry: Mapping[str, Any]) -> str:
    """``entry`` as one line of JSON."""
    return json.dumps(entry) + "\n"


def read(work: Path) -> Iterator[Entry]:
    """The entries of all shards. Incomplete lines are skipped: a crash can lose the end of a file."""
    for path in sorted(work.glob("journal-*.jsonl")):
        for line in path.read_bytes().split(b"\n")[:-1]:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and ("row" in entry or "rejected" in entry):
                yield entry


def entry_name(entry: Entry) -> str:
    """FileName of the recording in ``entry``."""
    return str((entry.get("row") or entry["rejected"])["FileName"])


def rewrite(work: Path, entries: Iterable[Entry]) -> None:
    """Replace all journals by the journal of shard 0 with ``entries``, atomically."""
    path = journal_path(work, 0)
    temporary = path.with_suffix(".new")
    with temporary.open("w", encoding="utf-8") as file:
        file.writelines(map(entry_line, entries))
    temporary.replace(path)
    for other in work.glob("journal-*.jsonl"):
        if other != path:
            other.unlink()
