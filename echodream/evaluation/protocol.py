"""Settings that determine the metrics of ``stage=evaluate``, saved as protocol.json and reused by ``protocol=``."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from echodream import validation
from echodream.errors import UserError

VERSION = 3
FILE = "protocol.json"
_KEYS = {"version", "seed", "most", "neighbours", "count", "extractors", "real"}


@dataclass(frozen=True)
class Protocol:
    """Settings of an evaluation."""

    seed: int
    most: int
    """Maximum number of samples of a set."""
    neighbours: int
    """Number of neighbors of precision, recall, density and coverage."""
    extractors: Mapping[str, Any]
    """Description of each extractor by name: SHA-256 of the weights, resizing, clips (``Extractor.as_json``)."""
    real: Mapping[str, Any]
    """Description of the real recordings (``RecordingSet.as_json``)."""
    count: Mapping[str, int]
    """Number of samples of each set by kind: "images", "videos", "frames of videos"; empty before the evaluation."""

    def as_json(self) -> dict[str, Any]:
        """The content of protocol.json."""
        return {"version": VERSION, **asdict(self)}


def read_protocol(path: str) -> dict[str, Any]:
    """The protocol in ``path``, a protocol.json or an evaluation.json. Raises ``UserError`` for another file."""
    try:
        record: Any = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"protocol={path} cannot be read: give a {FILE} that stage=evaluate wrote") from error
    record = record.get("protocol", record) if isinstance(record, dict) else record
    if not isinstance(record, dict) or not _is_valid(record):
        raise UserError(f"protocol={path} is not a protocol of version {VERSION}: give a {FILE} of stage=evaluate")
    return record


def _is_valid(record: Mapping[str, Any]) -> bool:
    """Whether ``record`` has the keys, the version and the types of entries of a protocol."""
    return (
        set(record) == _KEYS
        and record["version"] == VERSION
        and all(isinstance(record[key], dict) for key in ("extractors", "count", "real"))
        and all(isinstance(extractor, dict) for extractor in record["extractors"].values())
        and all(validation.is_whole(count, 2) for count in record["count"].values())
    )


def recorded_counts(path: str, current: Protocol) -> dict[str, int]:
    """Numbers of samples by kind in the protocol ``path``. Raises ``UserError`` if ``current`` has other settings."""
    recorded, record = read_protocol(path), current.as_json()
    for name in sorted(recorded["extractors"].keys() | current.extractors.keys()):
        _require_same_extractor(path, name, recorded["extractors"].get(name), current.extractors.get(name))
    if recorded["real"] != record["real"]:
        raise UserError(f"protocol={path} compares with other real recordings than real=: give the same store")
    for key in ("seed", "most", "neighbours"):
        if recorded[key] != record[key]:
            raise UserError(
                f"protocol={path} has {key}={recorded[key]}, here it is {record[key]}: give {key}={recorded[key]}"
            )
    return {str(key): int(value) for key, value in recorded["count"].items()}


def _require_same_extractor(path: str, name: str, recorded_entry: Any, current_entry: Any) -> None:
    if current_entry is None:
        raise UserError(f"protocol={path} uses the extractor {name}: add {name} and its file to extractors=")
    if recorded_entry is None:
        raise UserError(f"protocol={path} does not use the extractor {name}: remove {name} from extractors=")
    for key in sorted(recorded_entry.keys() | current_entry.keys()):
        if recorded_entry.get(key) != current_entry.get(key):
            values = f"{key} {_value_text(recorded_entry.get(key))}, here it is {_value_text(current_entry.get(key))}"
            raise UserError(f"protocol={path} uses {name} with {values}: set the same value")


def samples_per_set(path: str | None, counts: Mapping[str, int] | None, key: str, available: int, minimum: int) -> int:
    """Number of samples of the kind ``key`` in each set: from the ``counts`` of a protocol, else ``available``."""
    if available < minimum:
        raise UserError(
            f"{key}: the smallest of synthetic, TEST and TRAIN has {available} samples, and a distance needs "
            f"{minimum}: generate more samples, or lower least="
        )
    if counts is None:
        return available
    if key not in counts:
        raise UserError(f"protocol={path} has no {key}: give {key}=null, or another protocol")
    if available < counts[key]:
        raise UserError(
            f"protocol={path} has {counts[key]} {key} in each set, but only {available} are available: generate more"
        )
    return counts[key]


def _value_text(value: Any) -> str:
    """Text of a recorded ``value`` for an error message; of a SHA-256, the first 12 characters."""
    return value[:12] if isinstance(value, str) and len(value) == 64 else json.dumps(value)
