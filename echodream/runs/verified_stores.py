"""Check of the stores that a stage or a training reads, without computing the checksums of unchanged files again."""

import contextlib
import hashlib
import json
import time
from collections.abc import Iterable
from pathlib import Path

from echodream.runs.atomic_folder import is_first_process, read_record, write_record
from echodream.store.checksums import file_sha256, file_states
from echodream.store.schema import CHECKSUMS, DATASET
from echodream.store.verify import require_intact

SETTLING_NS = 2_000_000_000
"""Nanoseconds after which a further change of a file has another time stamp on any file system."""


def check_stores(paths: Iterable[Path], verified: str | None = None) -> None:
    """Raise ``StoreError`` if one of ``paths`` is a store whose files do not match its checksums.

    The folder ``verified`` records the size, times and inode of all files of stores whose checksums were correct; they
    are computed again only after one of these has changed. Without ``verified`` they are always computed.
    """
    if is_first_process():
        for path in set(paths):
            if (path / DATASET).is_file() and (path / CHECKSUMS).is_file():
                _check_store(path, verified)


def _check_store(store: Path, verified: str | None) -> None:
    if verified is None or any(entry.is_symlink() and entry.is_dir() for entry in store.iterdir()):
        require_intact(store)  # files in a linked folder are not in ``file_states``
        return
    now, name, files = time.time_ns(), str(store.absolute()), file_states(store)
    states = [[path, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for path, s in files]
    digest = hashlib.sha256(json.dumps(states).encode()).hexdigest()
    record = {"store": name, "sha256": file_sha256(store / CHECKSUMS), "files": len(files), "state": digest}
    path = Path(verified) / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.json"
    if read_record(path) == record:
        return
    require_intact(store)
    latest = max(max(status.st_mtime_ns, status.st_ctime_ns) for _, status in files)
    if latest < now - SETTLING_NS:  # a later change will have another time stamp
        with contextlib.suppress(OSError):
            write_record(path, record)
