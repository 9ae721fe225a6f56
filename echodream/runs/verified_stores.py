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

TIMESTAMP_RESOLUTION_NS = 2_000_000_000
"""Time in nanoseconds between two changes of a file that have different time stamps on any file system."""


def check_stores(paths: Iterable[Path], verified: str | None = None) -> None:
    """Raise ``StoreError`` if one of ``paths`` is a store whose files do not match its checksums.

    The folder ``verified`` has a record of each store whose checksums were correct: size, times and inode of its files.
    Checksums are computed again only if the size, times or inode of a file have changed, or if ``verified`` is None.
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
    if latest < now - TIMESTAMP_RESOLUTION_NS:  # a later change will have another time stamp
        with contextlib.suppress(OSError):
            write_record(path, record)
