"""Keyed pseudonyms: reproducible with the key, and not computable without it."""

import csv
import hashlib
import hmac
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from echodream.errors import UserError

_MIN_KEY_BYTES = 16
_NEW_KEY_BYTES = 32


@dataclass(frozen=True)
class Pseudonyms:
    """The first 16 hexadecimal digits of the HMAC-SHA256 of an identifier, after a letter for its kind (p, s, r)."""

    key: bytes

    def __post_init__(self) -> None:
        if len(self.key) < _MIN_KEY_BYTES:
            raise UserError(f"the key has {len(self.key)} bytes, at least {_MIN_KEY_BYTES} are needed")

    def __repr__(self) -> str:
        return "Pseudonyms(key=...)"

    @classmethod
    def from_file(cls, path: Path) -> "Pseudonyms":
        """Read the key, or create a key file that only its owner can read. Raises ``UserError``."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _create_key(path)
            key = path.read_bytes()
        except OSError as error:
            raise UserError(f"key_file={path} cannot be read or created: {error.strerror}") from error
        if len(key) < _MIN_KEY_BYTES:
            raise UserError(f"key_file={path} holds {len(key)} bytes, at least {_MIN_KEY_BYTES} are needed")
        return cls(key)

    def hash_patient(self, identifier: str) -> str:
        """The pseudonym of a patient."""
        return "p" + self._hmac_digits("patient", identifier)

    def hash_study(self, identifier: str) -> str:
        """The pseudonym of a study, which is one visit of a patient."""
        return "s" + self._hmac_digits("study", identifier)

    def hash_recording(self, identifier: str) -> str:
        """The pseudonym of a recording."""
        return "r" + self._hmac_digits("recording", identifier)

    def _hmac_digits(self, kind: str, identifier: str) -> str:
        message = f"{kind}\0{identifier}".encode("utf-8", "surrogateescape")
        return hmac.new(self.key, message, hashlib.sha256).hexdigest()[:16]


def _create_key(path: Path) -> None:
    """Create ``path`` with a random key unless the file exists; safe if two commands do so at the same time."""
    if path.exists():
        return
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    with open(temporary, "wb", opener=_open_private) as file:
        file.write(os.urandom(_NEW_KEY_BYTES))
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()


def write_file_list(key_file: Path, rows: Iterable[tuple[str, Path, str]]) -> Path | None:
    """Write the file of each pseudonym, (FileName, raw file, reason of rejection), next to the key: key.files.csv.

    Only the owner can read it. Returns its path, or None if the folder of the key is read-only.
    """
    path = key_file.with_name(f"{key_file.name}.files.csv")
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="", opener=_open_private) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["FileName", "File", "Reason"])
            writer.writerows((name, raw.absolute(), reason) for name, raw, reason in rows)
        temporary.replace(path)
    except OSError:
        return None
    return path


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
