"""What decides the figures of ``stage=evaluate``, as a file: written beside them, and replayed by ``protocol=``."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from echodream import validation
from echodream.errors import UserError

VERSION = 2
FILE = "protocol.json"
_KEYS = {"version", "seed", "most", "neighbours", "count", "extractors", "real"}


@dataclass(frozen=True)
class Protocol:
    """The rules of a comparison."""

    seed: int
    most: int
    """Samples of a side that are looked at, at most."""
    neighbours: int
    extractors: Mapping[str, Any]
    """By name: SHA-256 of the weights, what happens to pixels first, and the clips that are shown."""
    real: Mapping[str, Any]
    """The recordings that all is compared with."""
    count: Mapping[str, int]
    """N, the samples of each side: of "images", "videos", "frames of videos"; none before they have been looked at."""

    def record(self) -> dict[str, Any]:
        """As json has it."""
        given = {"seed": self.seed, "most": self.most, "neighbours": self.neighbours}
        both = {"extractors": dict(self.extractors), "real": dict(self.real), "count": dict(self.count)}
        return {"version": VERSION, **given, **both}


def read_protocol(path: str) -> dict[str, Any]:
    """The rules in ``path``, a protocol.json or an evaluation.json. Raises ``UserError``."""
    try:
        found: Any = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"protocol={path} cannot be read: give a {FILE} that stage=evaluate wrote") from error
    found = found.get("protocol", found) if isinstance(found, dict) else found
    if not isinstance(found, dict) or set(found) != _KEYS or found["version"] != VERSION or not _shaped(found):
        raise UserError(f"protocol={path} is no protocol of version {VERSION}: give a {FILE} that stage=evaluate wrote")
    return found


def _shaped(found: Mapping[str, Any]) -> bool:
    """Whether the parts of a protocol are what they should be."""
    if not all(isinstance(found[key], dict) for key in ("extractors", "count", "real")):
        return False
    return all(isinstance(one, dict) for one in found["extractors"].values()) and all(
        validation.is_whole(count, 2) for count in found["count"].values()
    )


def sample_counts(path: str, own: Protocol) -> dict[str, int]:
    """N of each section, as ``path`` has it, if all else is as in ``own``. Raises ``UserError`` naming what is not."""
    wanted, found = read_protocol(path), own.record()
    for name in sorted(wanted["extractors"].keys() | own.extractors.keys()):
        _same_extractor(path, name, wanted["extractors"].get(name), own.extractors.get(name))
    if wanted["real"] != found["real"]:
        raise UserError(f"protocol={path} compares with other real recordings than real=: give the same store")
    for key in ("seed", "most", "neighbours"):
        if wanted[key] != found[key]:
            raise UserError(
                f"protocol={path} has {key}={wanted[key]}, here it is {found[key]}: give {key}={wanted[key]}"
            )
    return {str(key): int(value) for key, value in wanted["count"].items()}


def _same_extractor(path: str, name: str, wanted: Any, own: Any) -> None:
    if own is None:
        raise UserError(f"protocol={path} uses the extractor {name}: add it to extractors=, with its file")
    if wanted is None:
        raise UserError(f"protocol={path} does not use the extractor {name}: leave it out of extractors=")
    for key in sorted(wanted.keys() | own.keys()):
        if wanted.get(key) != own.get(key):
            what = f"{name} with {key} {_short(wanted.get(key))}, here it is {_short(own.get(key))}"
            raise UserError(f"protocol={path} uses {what}: give the same")


def samples_per_set(path: str | None, counts: Mapping[str, int] | None, key: str, there: int, least: int) -> int:
    """N of the section ``key``, of whose smallest side ``there`` are: as in the protocol, or as many as there are."""
    if there < least:
        raise UserError(
            f"{key}: the smallest of synthetic, TEST and TRAIN has {there} samples, and a distance needs {least}: "
            "make more, or lower least="
        )
    if counts is None:
        return there
    if key not in counts:
        raise UserError(f"protocol={path} has no {key}: give {key}=null, or another protocol")
    if there < counts[key]:
        raise UserError(f"protocol={path} has {counts[key]} {key} on each side, here are {there}: make more")
    return counts[key]


def _short(value: Any) -> str:
    return value[:12] if isinstance(value, str) and len(value) == 64 else json.dumps(value)
