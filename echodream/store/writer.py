"""Atomic writing of a Store by one job at a time; a resumed job writes the same bytes as an uninterrupted job."""

import contextlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Self

from echodream.store import schema
from echodream.store.checksums import file_sha256
from echodream.store.lock import lock_for_writing, unlock
from echodream.store.reader import Store
from echodream.store.schema import Dataset, Statistics, StoreError
from echodream.store.table import clean_text, format_cell, write_table
from echodream.store.verify import TABLES_AND_METADATA, verify


class StoreWriter:
    """Context manager that writes the store ``root``.

    All files are written to ``<root>.partial``. There, ``store/`` contains the finished recordings, and ``begun.json``
    the settings. ``journal-0.jsonl`` has a line for each finished recording, {"row": ..., "sha256": ...} or
    {"rejected": ...}. ``finish`` writes the tables, verifies the store and renames ``store/`` to ``root``, so ``root``
    is always complete. After an interruption, a new writer continues after the last recording in the journal.

    Several processes of one job may write at the same time, each with its own journal. The process with ``shard`` 0
    enters the context first, and calls ``read_journals`` and ``finish`` after all other processes.

    Raises ``StoreError`` if another job is writing the store, or if ``root`` or the unfinished store has other
    settings.
    """

    def __init__(self, root: str | Path, dataset: Dataset, shard: int = 0) -> None:
        self.root = Path(root)
        self.shard = shard
        self.dataset = dataset
        self.complete = False
        """True if the complete store already exists with the same settings."""
        self.rows: dict[str, dict[str, Any]] = {}
        self.rejected: dict[str, dict[str, Any]] = {}
        self.done: set[str] = set()
        """Names of the written and the rejected recordings."""
        self._checksums: dict[str, str] = {}
        self._work = schema.partial_path(self.root)
        self._store = self._work / "store"
        self._scratch = self._work / f"scratch-{shard}-{os.getpid()}"
        self._lock: int | None = None
        self._journal: IO[str] | None = None

    @property
    def state(self) -> str:
        """State of the store in the summary of a stage: "done" or "already complete, nothing to do"."""
        return "already complete, nothing to do" if self.complete else "done"

    def __enter__(self) -> Self:
        if self._is_complete():
            return self
        if self.shard:
            self._resume_from_journal()
            return self
        self._lock = lock_for_writing(self._work, "lock")
        try:
            if not self._is_complete():  # another writer may have finished the store
                self._prepare_folders()
                self._resume_from_journal()
        except BaseException:
            self._release_lock()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._release_lock()

    @property
    def media_folder(self) -> Path:
        """Folder of the committed media files until the store is finished."""
        return self._store / schema.MEDIA_FILES[self.dataset.kind][0]

    def scratch_path(self, name: str) -> Path:
        """Temporary path for the media file of the recording ``name``, which ``commit`` moves to its final path."""
        if not schema.is_valid_name(name):
            raise StoreError(f"FileName {name[:80]!r} is not allowed: letters, digits, '.', '_' and '-' only")
        return self._scratch / f"{name}{schema.MEDIA_FILES[self.dataset.kind][1]}"

    def commit(self, row: Mapping[str, Any], media: Path) -> None:
        """Add a recording with its ``row`` of FileList.csv, and move its ``media`` file into the store."""
        name = row["FileName"]
        if not schema.is_valid_name(name) or name in self.done:
            raise StoreError(f"FileName {str(name)[:80]!r} is not allowed, or occurs twice")
        entry = {"row": _checked_row(row), "sha256": file_sha256(media)}
        media.replace(schema.media_path(self._store, self.dataset.kind, name))
        self._append_to_journal(entry)

    def copy(self, source: Path, row: Mapping[str, Any], *, link: bool = False) -> None:
        """Add a recording with its ``row`` and a copy, or with ``link`` a hard link, of the media file ``source``."""
        media = self.scratch_path(row["FileName"])
        if link:
            with contextlib.suppress(OSError):  # the file system does not support links
                os.link(source, media)
        if not media.exists():
            shutil.copyfile(source, media)
        self.commit(row, media)

    def reject(self, name: str, reason: str, *, counted: bool = True) -> None:
        """Add the recording ``name`` to rejected.csv; only ``counted`` recordings count toward ``max_rejected``."""
        row = {"FileName": name, "Reason": clean_text(reason), "Counted": str(counted).lower()}
        self._append_to_journal({"rejected": row})

    def finish(self, order: Sequence[str], statistics: Statistics | None = None) -> Store:
        """Write the tables with rows in the ``order`` of names, verify the store and rename it to ``root``.

        Raises ``StoreError`` if a recording in ``order`` was neither written nor rejected.
        """
        if missing := [name for name in order if name not in self.done]:
            count = f"{len(missing)} recordings are missing, the first is {missing[0]}"
            raise StoreError(f"{self.root} is not complete: {count}")
        folder, suffix = schema.MEDIA_FILES[self.dataset.kind]
        names = [name for name in order if name in self.rows]
        write_table(self._store / schema.FILE_LIST, [self.rows[name] for name in names], schema.REQUIRED_COLUMNS)
        rejected = [self.rejected[name] for name in order if name in self.rejected]
        write_table(self._store / schema.REJECTED, rejected, schema.REJECTED_COLUMNS)
        sums = {f"{folder}/{name}{suffix}": self._checksums[name] for name in names}
        self.dataset = replace(self.dataset, statistics=statistics)
        (self._store / schema.DATASET).write_text(self.dataset.to_json(), encoding="utf-8")
        sums.update({table: file_sha256(self._store / table) for table in TABLES_AND_METADATA})
        (self._store / schema.CHECKSUMS).write_text("".join(f"{value}  {name}\n" for name, value in sums.items()))
        verify(self._store)
        _flush_to_disk(self.media_folder)
        _flush_to_disk(self._store)
        self._store.rename(self.root)
        _flush_to_disk(self.root.parent)
        shutil.rmtree(self._work, ignore_errors=True)
        return Store(self.root)

    def _is_complete(self) -> bool:
        if not self.root.exists():
            return False
        existing = schema.read_dataset(self.root)
        same_version = replace(existing, code_version=self.dataset.code_version)
        if difference := schema.describe_difference(same_version, self.dataset):
            problem = f"{self.root} already exists with other settings ({difference})"
            raise StoreError(f"{problem}: choose another dst=, or remove it")
        self.dataset, self.complete = existing, True
        shutil.rmtree(self._work, ignore_errors=True)
        return True

    def _prepare_folders(self) -> None:
        path = self._work / "begun.json"
        if path.exists():
            begun = schema.parse_dataset(path)
            if difference := schema.describe_difference(begun, self.dataset):
                problem = f"{self._work} was begun with other settings ({difference})"
                raise StoreError(f"{problem}: use the old settings, or remove it")
            self.dataset = begun
        for scratch in self._work.glob("scratch-*"):
            shutil.rmtree(scratch, ignore_errors=True)
        self.media_folder.mkdir(parents=True, exist_ok=True)
        self._scratch.mkdir(exist_ok=True)
        if not path.exists():
            schema.write_text(path, self.dataset.to_json())

    def _resume_from_journal(self) -> None:
        """Read all journals and open the journal of this shard. Recordings with damaged media are written again."""
        self.read_journals()
        journal = self._work / f"journal-{self.shard}.jsonl"
        if self.shard:
            self._scratch.mkdir()
        else:
            self._rewrite_journals(journal)
            committed = {schema.media_path(self._store, self.dataset.kind, name) for name in self.rows}
            for media in self.media_folder.iterdir():
                if media not in committed:
                    media.unlink()
        self._journal = journal.open("a", encoding="utf-8")

    def _rewrite_journals(self, journal: Path) -> None:
        """Replace all journals atomically by ``journal`` with the current entries."""
        entries: list[dict[str, Any]] = [{"row": row, "sha256": self._checksums[n]} for n, row in self.rows.items()]
        entries += [{"rejected": row} for row in self.rejected.values()]
        schema.write_text(journal, "".join(json.dumps(entry) + "\n" for entry in entries))
        for other in self._work.glob("journal-*.jsonl"):
            if other != journal:
                other.unlink()

    def read_journals(self) -> None:
        """Read the journals of all shards, so that shard 0 can call ``finish``. Incomplete lines are skipped."""
        for path in sorted(self._work.glob("journal-*.jsonl")):
            for line in path.read_bytes().split(b"\n")[:-1]:
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue
                row = (entry.get("row") or entry.get("rejected")) if isinstance(entry, dict) else None
                if row and row["FileName"] not in self.done and ("rejected" in entry or self._is_intact(entry)):
                    self._add_entry(entry)

    def _is_intact(self, entry: Mapping[str, Any]) -> bool:
        media = schema.media_path(self._store, self.dataset.kind, entry["row"]["FileName"])
        return media.is_file() and file_sha256(media) == entry["sha256"]

    def _append_to_journal(self, entry: dict[str, Any]) -> None:
        if self._journal is None:
            raise RuntimeError("StoreWriter is a context manager: write inside its with block")
        line = json.dumps(entry) + "\n"
        self._journal.write(line)
        self._journal.flush()
        self._add_entry(json.loads(line))

    def _add_entry(self, entry: dict[str, Any]) -> None:
        if "rejected" in entry:
            self.rejected[entry["rejected"]["FileName"]] = row = entry["rejected"]
        else:
            self.rows[entry["row"]["FileName"]] = row = entry["row"]
            self._checksums[row["FileName"]] = entry["sha256"]
        self.done.add(row["FileName"])

    def _release_lock(self) -> None:
        if self._journal is not None:
            with contextlib.suppress(OSError):  # a full disk was already reported by the failed write
                self._journal.close()
        if self._lock is not None:
            unlock(self._lock)
        self._journal = self._lock = None


def _checked_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Copy of ``row`` with Python scalars. Raises ``StoreError`` for a column or value that is invalid in a csv."""
    values = {}
    for column, value in row.items():
        if not schema.is_valid_column(column):
            raise StoreError(f"column name {str(column)[:80]!r} is not allowed: use letters, digits and '_'")
        values[column] = value.item() if hasattr(value, "item") else value
        try:
            format_cell(values[column])
        except ValueError as error:
            raise StoreError(f"{row['FileName']} has {error} in {column}") from error
    return values


def _flush_to_disk(folder: Path) -> None:
    """Call fsync on ``folder`` and its files, so that their content reaches the disk before a later rename."""
    for path in [*(entry for entry in folder.iterdir() if entry.is_file()), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
