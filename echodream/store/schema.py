"""The Store's vocabulary: file names, columns, and ``dataset.json``. docs/format.md says the same in prose."""

import json
import math
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from echodream.errors import UserError

FORMAT_VERSION = 1
FILE_LIST = "FileList.csv"
DATASET = "dataset.json"
REJECTED = "rejected.csv"
CHECKSUMS = "SHA256SUMS"
KINDS = ("video", "latent")
SPLITS = ("TRAIN", "VAL", "TEST")
REQUIRED = ("FileName", "Split", "PatientID", "NumberOfFrames", "FPS", "FrameHeight", "FrameWidth")
REJECTED_COLUMNS = ("FileName", "Reason", "Counted")
MEDIA = {"video": ("Videos", ".mkv"), "latent": ("Latents", ".safetensors")}
MAX_JSON_BYTES = 16_000_000
MAX_SIDE = 16_384

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_COLUMN = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_HEX = re.compile(r"[0-9a-f]{64}")


class StoreError(UserError):
    """A folder is not a Store as docs/format.md has it. The message names the file, the row and the remedy."""


def valid_name(name: object) -> bool:
    """Whether ``name`` can be a FileName: one path component of plain characters, which cannot leave its folder."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None and not name.endswith(".")


def valid_column(name: object) -> bool:
    """Whether ``name`` can head a column of FileList.csv."""
    return isinstance(name, str) and _COLUMN.fullmatch(name) is not None


def media_path(root: Path, kind: str, name: str) -> Path:
    """Where the recording ``name`` lies below ``root``."""
    folder, suffix = MEDIA[kind]
    return root / folder / f"{name}{suffix}"


@dataclass(frozen=True)
class Statistics:
    """Per-channel mean and standard deviation over the TRAIN rows, in the units that are stored."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(float(value) for value in self.mean))
        object.__setattr__(self, "std", tuple(float(value) for value in self.std))
        if len(self.mean) != len(self.std) or not self.mean:
            raise ValueError(f"statistics need one mean and one std per channel, got {self.mean} and {self.std}")
        if not all(map(math.isfinite, self.mean + self.std)) or min(self.std) <= 0:
            raise ValueError(f"statistics must be finite with std > 0, got mean {self.mean}, std {self.std}")


@dataclass(frozen=True)
class Dataset:
    """``dataset.json``: what the files of a Store are, and how they came to be."""

    kind: str
    """"video" (uint8 pixels) or "latent" (float16 posterior mean and std)."""
    channels: int
    height: int | None = None
    """Pixels or latent cells; None where recordings differ in size."""
    width: int | None = None
    fidelity: str = "lossless"
    """What became of what was put in: "lossless" for FFV1, "float16" for latents."""
    statistics: Statistics | None = None
    encoder: str | None = None
    """Fingerprint (SHA-256) of the weights that made the latents; None for pixels."""
    synthetic: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    """Everything that decided the content, as resolved by the configuration."""
    command: str = ""
    code_version: str = ""
    format_version: int = FORMAT_VERSION
    layout: str = "F,H,W,C"
    """Order of the stored axes: pixels F,H,W,C; latents F,C,H,W."""

    def __post_init__(self) -> None:
        if self.format_version != FORMAT_VERSION:
            raise ValueError(f"format_version is {self.format_version!r}, this version reads {FORMAT_VERSION}")
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}, not one of {', '.join(KINDS)}")
        _check_int("channels", self.channels, 1, 4096)
        for name in ("height", "width"):
            if getattr(self, name) is not None:
                _check_int(name, getattr(self, name), 1, MAX_SIDE)
        if self.kind == "video" and self.channels not in (1, 3):
            raise ValueError(f"channels is {self.channels}, a video store has 1 (grey) or 3 (RGB)")
        expected = "F,H,W,C" if self.kind == "video" else "F,C,H,W"
        if self.layout != expected:
            raise ValueError(f"layout is {self.layout!r}, a {self.kind} store has {expected!r}")
        if (self.kind == "latent") != (self.encoder is not None):
            raise ValueError("a latent store names its encoder's fingerprint, a video store names none")
        if self.encoder is not None and not (isinstance(self.encoder, str) and _HEX.fullmatch(self.encoder)):
            raise ValueError(f"encoder is {self.encoder!r}, not a SHA-256 in hexadecimal")
        if self.statistics is not None and len(self.statistics.mean) != self.channels:
            raise ValueError(f"statistics have {len(self.statistics.mean)} channels, the store has {self.channels}")
        types = {"fidelity": str, "command": str, "code_version": str, "synthetic": bool, "settings": dict}
        for name, kind in types.items():
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"{name} is {getattr(self, name)!r}, not a {kind.__name__}")

    def to_json(self) -> str:
        """The file's text: sorted keys and fixed indentation, so that equal content means equal bytes."""
        return json.dumps(asdict(self), indent=2, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Dataset":
        """Parse and check. Raises ``ValueError`` with what is wrong."""
        try:
            raw = json.loads(text)
        except RecursionError as error:
            raise ValueError("it is nested too deeply") from error
        if not isinstance(raw, dict):
            raise ValueError("it is not a JSON object")
        known = {entry.name for entry in fields(cls)}
        if unknown := sorted(set(raw) - known):
            raise ValueError(f"unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}")
        if missing := sorted({"kind", "channels", "format_version"} - set(raw)):
            raise ValueError(f"key {missing[0]!r} is missing")
        statistics = raw.get("statistics")
        if statistics is not None:
            if not isinstance(statistics, dict) or set(statistics) != {"mean", "std"}:
                raise ValueError("statistics is not an object with mean and std")
            try:
                raw["statistics"] = Statistics(**statistics)
            except TypeError as error:
                raise ValueError("statistics.mean and statistics.std are not lists of numbers") from error
        return cls(**raw)


def _check_int(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}, not a whole number from {low} to {high}")


def read_dataset(root: Path) -> Dataset:
    """Read ``dataset.json`` of the store at ``root``. Raises ``StoreError``."""
    path = root / DATASET
    if not root.is_dir():
        hint = f"; {root.name}.partial is there: rerun the command that was making it" if partial(root).is_dir() else ""
        raise StoreError(f"{root} does not exist{hint or ': check src= or run the stage that makes it'}")
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise StoreError(f"{path} is larger than {MAX_JSON_BYTES} bytes: it is no dataset.json")
        return Dataset.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror}): {root} is not a store") from error
    except (ValueError, TypeError) as error:
        raise StoreError(f"{path} is not valid: {error}") from error


def partial(root: Path) -> Path:
    """Where a store is while it is being written."""
    return root.with_name(root.name + ".partial")
