"""Keyed pseudonyms, which are reproducible with a secret key and cannot be computed without this key."""

import csv
import hashlib
import hmac
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partialmethod
from pathlib import Path

from echodream.errors import UserError

_MIN_KEY_BYTES = 16
_NEW_KEY_BYTES = 32


@dataclass(frozen=True)
class Pseudonyms:
    """Pseudonyms: p (patient), s (study) or r (recording), then 16 hex digits of the HMAC-SHA256 with ``key``."""

    key: bytes

    def __post_init__(self) -> None:
        if len(self.key) < _MIN_KEY_BYTES:
            raise UserError(f"the key has {len(self.key)} bytes: give a key of at least {_MIN_KEY_BYTES} bytes")

    def __repr__(self) -> str:
        return "Pseudonyms(key=...)"

    @classmethod
    def from_file(cls, path: Path) -> "Pseudonyms":
        """Read the key from the file ``path``, or create a file that only its owner can read. Raises ``UserError``."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _create_key(path)
            key = path.read_bytes()
        except OSError as error:
            raise UserError(f"key_file={path} cannot be used ({error.strerror}): give another file") from error
        if len(key) < _MIN_KEY_BYTES:
            raise UserError(f"key_file={path} holds {len(key)} bytes: give a key of at least {_MIN_KEY_BYTES} bytes")
        return cls(key)

    def hash_identifier(self, kind: str, identifier: str) -> str:
        """Compute the pseudonym of the identifier of a "patient", "study" (one visit of a patient) or "recording"."""
        message = f"{kind}\0{identifier}".encode("utf-8", "surrogateescape")
        return kind[0] + hmac.new(self.key, message, hashlib.sha256).hexdigest()[:16]

    hash_patient = partialmethod(hash_identifier, "patient")
    hash_study = partialmethod(hash_identifier, "study")
    hash_recording = partialmethod(hash_identifier, "recording")


def _create_key(path: Path) -> None:
    """Create ``path`` with a random key unless the file exists; concurrent processes get the same key."""
    if path.exists():
        return
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    with open(temporary, "wb", opener=_owner_opener) as file:
        file.write(os.urandom(_NEW_KEY_BYTES))
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()


def write_file_list(key_file: Path, rows: Iterable[tuple[str, Path, str]]) -> Path | None:
    """Write ``rows``, (FileName, raw file, reason for rejection), to ``<key_file>.files.csv`` next to the key.

    Only the owner can read the file. Returns the path of the file, or None if the file cannot be written.
    """
    path = key_file.with_name(f"{key_file.name}.files.csv")
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="", opener=_owner_opener) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["FileName", "File", "Reason"])
            writer.writerows((name, raw.absolute(), reason) for name, raw, reason in rows)
        temporary.replace(path)
    except OSError:
        return None
    return path


def _owner_opener(path: str, flags: int) -> int:
    """Open a file that only its owner can read."""
    return os.open(path, flags, 0o600)
