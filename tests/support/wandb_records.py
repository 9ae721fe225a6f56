"""Reader of W&B's offline runs: a header of seven bytes, then protocol buffers in LevelDB's log format."""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, HEAD = 32768, 7


def records(path: Path) -> Iterator[Any]:
    """The records of a .wandb file, in order."""
    from wandb.proto import wandb_internal_pb2

    content, place, held = path.read_bytes(), HEAD, b""
    assert content[:4] == b":W&B"
    while place + HEAD <= len(content):
        if BLOCK - place % BLOCK < HEAD:
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + HEAD])
        held += content[place + HEAD : place + HEAD + length]
        place += HEAD + length
        if kind in (1, 4):  # a whole record, or its last fragment
            record = wandb_internal_pb2.Record()
            record.ParseFromString(held)
            held = b""
            yield record


class Written:
    """The content of the offline run in the folder ``root``."""

    def __init__(self, root: Path) -> None:
        (self.path,) = root.glob("run-*.wandb")
        self.id = ""
        self.resumes = False
        self.config: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        self.media: list[str] = []
        self.artifacts: dict[str, Any] = {}
        self.kinds: set[str] = set()
        for record in records(self.path):
            self._take(record)

    def _take(self, record: Any) -> None:
        kind = record.WhichOneof("record_type")
        self.kinds.add(kind)
        if kind == "run":
            self.id, self.resumes, self.host = record.run.run_id, record.run.resume, record.run.host
            self.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "history":
            items = {".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
            self.history.append(items)
        elif kind == "files":
            self.media += [item.path for item in record.files.files]
        elif kind == "artifact":
            self.artifacts[record.artifact.name] = record.artifact

    def values(self, key: str) -> list[Any]:
        """All values that were logged as ``key``."""
        return [step[key] for step in self.history if key in step]


def offline_runs(folder: Path) -> list[Written]:
    """The offline runs below ``folder``, the oldest first; waits until all runs are complete."""
    found = []
    for path in sorted((folder / "wandb").glob("offline-run-*")):
        for _ in range(200):
            if "exit" in (run := Written(path)).kinds:
                break
            time.sleep(0.1)
        found.append(run)
    return found
