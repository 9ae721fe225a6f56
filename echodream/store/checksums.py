"""SHA-256 checksums of files, and the file SHA256SUMS of a Store."""

import contextlib
import hashlib
import os
import re
from pathlib import Path

from echodream.store.schema import CHECKSUMS, StoreError, read_text
from echodream.store.table import MAX_CSV_BYTES

_SHA256 = re.compile("[0-9a-f]{64}")


def file_sha256(path: Path) -> str:
    """SHA-256 of the file at ``path``, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_states(root: Path) -> list[tuple[str, os.stat_result]]:
    """Relative path and status of each file in the folder ``root`` and its subfolders, sorted by path."""
    files: list[tuple[str, os.stat_result]] = []
    folders = [""]
    while folders:
        folder = folders.pop()
        with contextlib.suppress(PermissionError, FileNotFoundError), os.scandir(root / folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(f"{folder}{entry.name}/")
                elif entry.is_file():
                    with contextlib.suppress(FileNotFoundError):  # removed by another process
                        files.append((f"{folder}{entry.name}", entry.stat()))
    return sorted(files, key=lambda file: file[0].split("/"))


def read_checksums(root: Path) -> dict[str, str]:
    """Read SHA256SUMS of the store ``root`` as a dict from relative path to checksum. Raises ``StoreError``."""
    path = root / CHECKSUMS
    sums: dict[str, str] = {}
    for line in read_text(path, MAX_CSV_BYTES).removesuffix("\n").split("\n"):
        value, _, name = line.partition("  ")
        if not _SHA256.fullmatch(value) or not name or name in sums:
            raise StoreError(f"{path}: the line {line[:80]!r} is not '<sha256>  <path>', or its path is listed twice")
        sums[name] = value
    return sums
