"""The journal of a store that is being written: a line of JSON for each recording that is done or left out."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

Entry = dict[str, Any]
"""{"row": ..., "sha256": ...} of a recording that is written, {"rejected": ...} of one that is left out."""


def journal_path(work: Path, shard: int) -> Path:
    """Where the process ``shard`` of a job keeps its journal."""
    return work / f"journal-{shard}.jsonl"


def entry_line(entry: Mapping[str, Any]) -> str:
    """``entry`` as a line."""
    return json.dumps(entry) + "\n"


def read(work: Path) -> Iterator[Entry]:
    """The entries of all shards, as far as their lines are whole: the disk may lose the end of a file in a crash."""
    for path in sorted(work.glob("journal-*.jsonl")):
        for line in path.read_bytes().split(b"\n")[:-1]:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and ("row" in entry or "rejected" in entry):
                yield entry


def entry_name(entry: Entry) -> str:
    """FileName of the recording that ``entry`` is about."""
    return str((entry.get("row") or entry["rejected"])["FileName"])


def rewrite(work: Path, entries: Iterable[Entry]) -> None:
    """Make the first shard's journal the only one, with ``entries``; whole or not at all."""
    path = journal_path(work, 0)
    fresh = path.with_suffix(".new")
    with fresh.open("w", encoding="utf-8") as file:
        file.writelines(map(entry_line, entries))
    fresh.replace(path)
    for other in work.glob("journal-*.jsonl"):
        if other != path:
            other.unlink()
