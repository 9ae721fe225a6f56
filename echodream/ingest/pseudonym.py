"""Keyed pseudonyms: the same for the same key, and not to be computed without it."""

import hashlib
import hmac
import os
from dataclasses import dataclass
from pathlib import Path

from echodream.errors import UserError

_SHORTEST_KEY = 16
_NEW_KEY = 32


@dataclass(frozen=True)
class Pseudonyms:
    """HMAC-SHA256 of an identifier, its first 16 hexadecimal digits, with a letter in front for what it names."""

    key: bytes

    def __post_init__(self) -> None:
        if len(self.key) < _SHORTEST_KEY:
            raise UserError(f"the key has {len(self.key)} bytes, at least {_SHORTEST_KEY} are needed")

    def __repr__(self) -> str:
        return "Pseudonyms(key=...)"

    @classmethod
    def from_file(cls, path: Path) -> "Pseudonyms":
        """Read the key, or make one that only its owner can read. Raises ``UserError``."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _create(path)
            key = path.read_bytes()
        except OSError as error:
            raise UserError(f"key_file={path} cannot be read or made: {error.strerror}") from error
        if len(key) < _SHORTEST_KEY:
            raise UserError(f"key_file={path} holds {len(key)} bytes, at least {_SHORTEST_KEY} are needed")
        return cls(key)

    def patient(self, identifier: str) -> str:
        """The pseudonym of a patient."""
        return "p" + self._digits("patient", identifier)

    def study(self, identifier: str) -> str:
        """The pseudonym of a study: one visit of a patient."""
        return "s" + self._digits("study", identifier)

    def recording(self, identifier: str) -> str:
        """The pseudonym of a recording."""
        return "r" + self._digits("recording", identifier)

    def _digits(self, kind: str, identifier: str) -> str:
        message = f"{kind}\0{identifier}".encode("utf-8", "surrogateescape")
        return hmac.new(self.key, message, hashlib.sha256).hexdigest()[:16]


def _create(path: Path) -> None:
    """Make ``path`` with a random key unless it exists; whole or not at all, also when two commands do so at once."""
    if path.exists():
        return
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(os.urandom(_NEW_KEY))
    try:
        os.link(fresh, path)
    except FileExistsError:
        pass
    finally:
        fresh.unlink()
