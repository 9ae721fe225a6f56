"""Format of a Store: file names, columns, and ``dataset.json``. docs/format.md describes the format in prose."""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from echodream import validation
from echodream.errors import UserError

FORMAT_VERSION = 1
FILE_LIST = "FileList.csv"
DATASET = "dataset.json"
REJECTED = "rejected.csv"
CHECKSUMS = "SHA256SUMS"
TEMPORARY_PREFIX = ".new-"
"""Name prefix of unfinished files and folders; a FileName never starts with it."""
KINDS = ("video", "latent")
SPLITS = ("TRAIN", "VAL", "TEST")
REQUIRED_COLUMNS = ("FileName", "Split", "PatientID", "NumberOfFrames", "FPS", "FrameHeight", "FrameWidth")
FILE_COLUMN = "RawFile"
"""Column with the path of the raw file of a sample of another program. The filter does not copy it to its output."""
REJECTED_COLUMNS = ("FileName", "Reason", "Counted")
MEDIA_FILES = {"video": ("Videos", ".mkv"), "latent": ("Latents", ".safetensors")}
"""Kind of store -> folder and suffix of its media files."""
MAX_JSON_BYTES = 16_000_000
MAX_SIDE = 16_384
MAX_FRAMES = 2**31 - 1
FPS_RANGE = (0.001, 1000.0)
"""Valid frames per second. Matroska cannot store a higher rate, because its time stamps are whole milliseconds."""
_MAX_JSON_DEPTH = 32

_VALID_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_VALID_COLUMN = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_VALID_SHA256 = re.compile(r"[0-9a-f]{64}")


class StoreError(UserError):
    """A folder is not a valid Store, or cannot be written. The message names the file, the row and the remedy."""


def is_valid_name(name: object) -> bool:
    """Whether ``name`` is a valid FileName: a path component of ASCII letters, digits, ".", "_" and "-"."""
    return isinstance(name, str) and _VALID_NAME.fullmatch(name) is not None and not name.endswith(".")


def is_valid_column(name: object) -> bool:
    """Whether ``name`` is a valid column name of FileList.csv."""
    return isinstance(name, str) and _VALID_COLUMN.fullmatch(name) is not None


def media_path(root: Path, kind: str, name: str) -> Path:
    """Path of the media file of the recording ``name`` in the store at ``root``."""
    folder, suffix = MEDIA_FILES[kind]
    return root / folder / f"{name}{suffix}"


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of each channel over the TRAIN recordings, in units of the stored latents."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(float(value) for value in self.mean))
        object.__setattr__(self, "std", tuple(float(value) for value in self.std))
        if len(self.mean) != len(self.std) or not self.mean:
            raise ValueError(f"statistics need a mean and a std per channel, got {len(self.mean)} and {len(self.std)}")
        if not all(map(math.isfinite, self.mean + self.std)) or min(self.std) <= 0:
            raise ValueError(f"statistics must be finite with std > 0, got {str((self.mean, self.std))[:200]}")


@dataclass(frozen=True)
class Dataset:
    """Content of ``dataset.json``: format, shape and origin of a Store."""

    kind: str
    """"video" (uint8 pixels) or "latent" (float16 posterior mean and std)."""
    channels: int
    height: int | None = None
    """Frame height in pixels or latent pixels; None if the recordings have different heights."""
    width: int | None = None
    """Frame width in pixels or latent pixels; None if the recordings have different widths."""
    fidelity: str = "lossless"
    """Precision of the storage: "lossless" for FFV1, "float16" for latents."""
    statistics: Statistics | None = None
    encoder: str | None = None
    """Fingerprint (SHA-256) of the weights of the VAE that encoded the latents; None for pixels."""
    synthetic: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    """All settings that determine the content, with resolved values."""
    command: str = ""
    code_version: str = ""
    format_version: int = FORMAT_VERSION
    layout: str = "F,H,W,C"
    """Order of the stored axes: pixels F,H,W,C; latents F,C,H,W."""

    def __post_init__(self) -> None:
        if type(self.format_version) is not int or self.format_version != FORMAT_VERSION:
            raise ValueError(f"format_version is {_quote(self.format_version)}, echodream reads {FORMAT_VERSION}")
        if self.kind not in KINDS:
            raise ValueError(f"kind is {_quote(self.kind)}, not one of {', '.join(KINDS)}")
        for name, high in (("channels", 4096), ("height", MAX_SIDE), ("width", MAX_SIDE)):
            value = getattr(self, name)
            if not validation.is_whole(value, 1, high) and (name == "channels" or value is not None):
                raise ValueError(f"{name} is {_quote(value)}, not a whole number from 1 to {high}")
        if self.kind == "video" and self.channels not in (1, 3):
            raise ValueError(f"channels is {self.channels}, a video store has 1 (gray) or 3 (RGB)")
        expected = "F,H,W,C" if self.kind == "video" else "F,C,H,W"
        if self.layout != expected:
            raise ValueError(f"layout is {_quote(self.layout)}, a {self.kind} store has {expected!r}")
        if (self.kind == "latent") != (self.encoder is not None):
            raise ValueError("encoder is needed for a latent store, and must be null for a video store")
        if self.encoder is not None and not (isinstance(self.encoder, str) and _VALID_SHA256.fullmatch(self.encoder)):
            raise ValueError(f"encoder is {_quote(self.encoder)}, not a SHA-256 in hexadecimal")
        if self.statistics is not None and len(self.statistics.mean) != self.channels:
            raise ValueError(f"statistics have {len(self.statistics.mean)} channels, the store has {self.channels}")
        types = {"fidelity": str, "command": str, "code_version": str, "synthetic": bool, "settings": dict}
        for name, kind in types.items():
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"{name} is {_quote(getattr(self, name))}, not a {kind.__name__}")

    @property
    def sampling_settings(self) -> Mapping[str, Any]:
        """Settings with which the samples of the store were generated, also for a store that the filter wrote."""
        settings: Mapping[str, Any] = self.settings
        while isinstance(settings.get("samples"), Mapping):  # a filtered store has the settings of its input
            settings = settings["samples"]
        return settings

    def to_json(self) -> str:
        """Text of dataset.json with sorted keys and fixed indentation, so that equal content gives equal bytes."""
        return json.dumps(asdict(self), indent=2, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Dataset":
        """Parse and check the text of dataset.json. Raises ``ValueError``."""
        raw = _parse_strict_json(text)
        known = {entry.name for entry in fields(cls)}
        if unknown := sorted(set(raw) - known):
            raise ValueError(f"unknown key {_quote(unknown[0])}; the known keys are {', '.join(sorted(known))}")
        if missing := sorted({"kind", "channels", "format_version"} - set(raw)):
            raise ValueError(f"key {missing[0]!r} is missing")
        statistics = raw.get("statistics")
        if statistics is not None:
            if not isinstance(statistics, dict) or set(statistics) != {"mean", "std"}:
                raise ValueError("statistics is not an object with mean and std")
            if not all(isinstance(values, list) and all(map(_is_number, values)) for values in statistics.values()):
                raise ValueError("statistics.mean and statistics.std are not lists of numbers")
            raw["statistics"] = Statistics(**statistics)
        return cls(**raw)


def _parse_strict_json(text: str) -> dict[str, Any]:
    """Parse a JSON object. Raises ``ValueError`` for duplicate keys, numbers that are not finite, and deep nesting."""
    try:
        raw = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_parse_finite, parse_float=_parse_finite)
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error
    if not isinstance(raw, dict):
        raise ValueError("the content is not a JSON object")
    if not _is_nested_at_most(raw, _MAX_JSON_DEPTH):
        raise ValueError("the JSON is nested too deeply")
    return raw


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if repeated := [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]:
        raise ValueError(f"the key {_quote(repeated[0])} occurs twice")
    return dict(pairs)


def _parse_finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:40]} is not a finite number")
    return value


def _is_nested_at_most(value: Any, depth: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth >= 0 and all(_is_nested_at_most(item, depth - 1) for item in inner)


def _is_number(value: object) -> bool:
    return isinstance(value, float) or (type(value) is int and abs(value) < 2**53)


def _quote(value: object) -> str:
    """Text of ``value`` for an error message, at most 80 characters."""
    text = repr(value) if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def read_dataset(root: Path) -> Dataset:
    """Read and check ``dataset.json`` of the store ``root``. Raises ``StoreError``."""
    if root.exists() and not root.is_dir():
        raise StoreError(f"{root} is a file: a store is a folder, check the path")
    if not root.is_dir():
        if partial_path(root).is_dir():
            raise StoreError(f"{root} does not exist; {root.name}.partial exists: rerun the command that wrote it")
        raise StoreError(f"{root} does not exist: check src= or run the stage that writes it")
    return parse_dataset(root / DATASET)


def parse_dataset(path: Path) -> Dataset:
    """Read and check ``path``, a file in the format of dataset.json. Raises ``StoreError``."""
    text = read_text(path, MAX_JSON_BYTES)
    try:
        return Dataset.from_json(text)
    except (ValueError, TypeError) as error:
        raise StoreError(f"{path} is not valid: {error}") from error


def read_text(path: Path, max_bytes: int) -> str:
    """Read a regular UTF-8 file of at most ``max_bytes`` bytes. Raises ``StoreError``."""
    try:
        if path.exists() and not path.is_file():
            raise StoreError(f"{path} is not a file: {path.parent} is not a store")
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror}): {path.parent} is not a store") from error
    if len(content) > max_bytes:
        raise StoreError(f"{path} is larger than {max_bytes} bytes: {path.parent} is not a store")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StoreError(f"{path} is not UTF-8 text: {path.parent} is not a store") from error


def write_atomically(write: Callable[[Path, Any], object], path: Path, content: Any) -> None:
    """Call ``write`` with a temporary path and ``content``, then rename the file to ``path``."""
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}")
    write(temporary, content)
    temporary.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically, and create the folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(lambda temporary, content: temporary.write_text(content, encoding="utf-8"), path, text)


def describe_difference(existing: Dataset, new: Dataset) -> str | None:
    """Describe the first difference between two stores, except command and statistics; None if there is none."""
    left, right = (json.loads(replace(store, command="", statistics=None).to_json()) for store in (existing, new))
    return _first_difference(left, right)


def _first_difference(left: Any, right: Any, key: str = "") -> str | None:
    if isinstance(left, dict) and isinstance(right, dict):
        for name in sorted(left.keys() | right.keys(), key=lambda name: (name == "listing", name)):
            if difference := _first_difference(left.get(name), right.get(name), f"{key}.{name}" if key else name):
                return difference
        return None
    if left != right and key == "settings.listing":
        return "the recordings, their files or their splits differ"
    return None if left == right else f"{key} was {str(left)[:60]!r}, now {str(right)[:60]!r}"


def partial_path(root: Path) -> Path:
    """Folder in which the store ``root`` is written until it is complete. Raises ``StoreError`` for an invalid name."""
    if root.name in ("", ".."):
        raise StoreError(f"{str(root)!r} cannot be a store: choose a folder with a name")
    return root.with_name(root.name + ".partial")
