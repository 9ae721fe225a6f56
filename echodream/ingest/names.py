"""Raw file names -> FileNames of a store: plain characters, unique, and the same on every run."""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

_LONGEST = 128
_OTHER = re.compile(r"[^A-Za-z0-9._-]+")


def file_name(text: str) -> str:
    """``text`` with accents taken off and every run of other characters made one ``-``; at most 128 characters.

    A text without a single plain letter or digit becomes ``recording-`` and a hash of it.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")
    plain = _OTHER.sub("-", plain).lstrip("._-").rstrip(".-")
    if not plain:
        return f"recording-{_hash(text)}"
    return plain if len(plain) <= _LONGEST else _hashed(plain, text)


def unique_names(texts: Sequence[str]) -> list[str]:
    """One FileName for each text, none twice (not even in other letter case, which some file systems ignore).

    Texts that would share a name each get a hash of the text behind it, so that none depends on their order;
    equal texts are numbered.
    """
    names = [file_name(text) for text in texts]
    count = Counter(name.casefold() for name in names)
    names = [
        name if count[name.casefold()] == 1 else _hashed(name, text) for name, text in zip(names, texts, strict=True)
    ]
    used: set[str] = set()
    for index, name in enumerate(names):
        number = 1
        while names[index].casefold() in used:
            number += 1
            names[index] = f"{name[: _LONGEST - 8]}-{number}"
        used.add(names[index].casefold())
    return names


def _hashed(name: str, text: str) -> str:
    return f"{name[: _LONGEST - 9]}-{_hash(text)}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
