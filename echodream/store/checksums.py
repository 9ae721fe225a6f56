"""SHA-256 checksums of files, and the file SHA256SUMS of a Store."""

import hashlib
import re
from pathlib import Path

from echodream.store.schema import CHECKSUMS, StoreError, read_text
from echodream.store.table import MAX_CSV_BYTES

_SHA256 = re.compile("[0-9a-f]{64}")


def file_sha256(path: Path) -> str:
    """SHA-256 of the file at ``path``, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_checksums(root: Path) -> dict[str, str]:
    """Read SHA256SUMS of the store ``root`` as a dict from path to checksum. Raises ``StoreError``."""
    path = root / CHECKSUMS
    sums: dict[str, str] = {}
    for line in read_text(path, MAX_CSV_BYTES).removesuffix("\n").split("\n"):
        value, _, name = line.partition("  ")
        if not _SHA256.fullmatch(value) or not name or name in sums:
            raise StoreError(f"{path}: the line {line[:80]!r} is not '<sha256>  <path>', or its path is listed twice")
        sums[name] = value
    return sums
