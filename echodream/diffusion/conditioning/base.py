"""Base classes of conditions, their registry by kind, and parsing of column cells."""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from echodream import validation
from echodream.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

Raw = Tensor | Sequence[Any]
"""Cells of a column: numbers as a tensor (B,), or any sequence. None, NaN and "" are missing."""
MISSING = -1
"""Encoded value of a missing class, category or text."""
MAX_CLASSES = 10_000
CONDITIONS: dict[str, type["ConditionModule"]] = {}
"""All imported conditions by kind; every subclass with a ``kind`` registers itself."""


class ConditionModule(nn.Module, ABC):
    """One condition of a denoiser. In training each row drops it with the probability ``dropout``.

    The module has no parameters until ``metadata`` was learnt from the training rows (``fit``) or loaded.
    """

    kind: ClassVar[str]
    """Name in ``diffusion.json`` of an artifact."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "kind" in cls.__dict__:
            CONDITIONS[cls.kind] = cls

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.dropout = validation.number(f"conditioning: the dropout of {self.kind}", dropout, 0, below=1)
        self.metadata: dict[str, Any] = {}

    def arguments(self) -> dict[str, Any]:
        """Arguments of the constructor, which are attributes of the same names, as JSON values."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}


class TokenCondition(ConditionModule):
    """A condition that is a column of FileList.csv and becomes tokens for cross-attention."""

    fixed_width: ClassVar[int | None] = None
    """Width D of the tokens, where the condition has only one; None: any width."""
    clamps: ClassVar[bool] = False
    """Whether values outside of the training range are encoded as the nearest bound."""

    def __init__(self, column: str, dropout: float = 0.1) -> None:
        super().__init__(dropout)
        self.column = column

    @abstractmethod
    def fit(self, table: "pd.DataFrame") -> None:
        """Learn ``metadata`` from the training rows ``table``, which has the column. Raises ``UserError``."""

    @abstractmethod
    def build(self, width: int) -> None:
        """Create the parameters for tokens of ``width`` from ``metadata``."""

    @abstractmethod
    def encode(self, raw: Raw, device: torch.device | None = None) -> Tensor:
        """Cells of the column as a tensor, (B,) or (B, L). Values that were not in training are encoded as missing."""

    @abstractmethod
    def check(self, raw: Raw) -> None:
        """Raise ``UserError`` if a requested value was not in training."""

    def choices(self) -> list[Any] | None:
        """All values that can be requested; None for a continuous condition."""
        return None

    def value_at(self, fraction: float) -> Any:
        """Value at a ``fraction``, in [0, 1], of the range in the training rows."""
        raise UserError(f"{self.column} has no default values: give labels=training, or the path of a csv")

    def table_columns(self, cell: Any) -> dict[str, Any]:
        """Columns of FileList.csv for a sample with the value ``cell``; empty if the value is missing."""
        return {self.column: cell} if parse_texts([cell])[0] else {}

    @abstractmethod
    def forward(self, value: Tensor, keep: Tensor) -> Tensor:
        """Tokens, (B, L, D), of the output of ``encode``; the null embedding where ``keep``, bool (B,), is false."""


class ReferenceCondition(ConditionModule):
    """Reference frames, which become channels concatenated to the noisy clip."""

    interpolates: ClassVar[bool]
    """Whether it takes any number of frames, and interpolates between them in time."""

    @abstractmethod
    def build(self, channels: int) -> None:
        """Create the parameters for frames of ``channels``."""

    @property
    @abstractmethod
    def extra_channels(self) -> int:
        """Number of concatenated channels, E."""

    @abstractmethod
    def forward(self, reference: Tensor, time: Tensor, keep: Tensor, rest: torch.Size) -> Tensor:
        """Channels, (B, E, F, H, W), for clips of ``rest`` = (F, H, W).

        ``reference`` is (B, C, R, H, W), its ``time`` (B, R) in frames from the start of the clip, ``keep`` bool (B,).
        """


def embed_or_null(embedding: nn.Embedding, null: Tensor, value: Tensor, keep: Tensor) -> Tensor:
    """Embedding of ``value``, int64 (B,), as (B, 1, D); ``null`` where it is missing or ``keep`` is false."""
    tokens = embedding(value.clamp(min=0))
    return torch.where((keep & (value != MISSING))[:, None], tokens, null)[:, None]


def parse_numbers(column: str, raw: Raw) -> list[float]:
    """Cells as numbers, NaN where they are missing. Raises ``UserError`` for text."""
    cells = raw.tolist() if isinstance(raw, Tensor) else raw
    try:
        return [math.nan if cell is None or cell == "" else float(cell) for cell in cells]
    except (TypeError, ValueError) as error:
        wrong = next(cell for cell in cells if cell not in (None, "") and not _is_number(cell))
        raise UserError(
            f"{column} is {str(wrong)[:40]!r}, not a number: correct it in FileList.csv or the csv"
        ) from error


def encode_numbers(column: str, raw: Raw, device: torch.device | None = None) -> Tensor:
    """Cells as float32, (B,), NaN where they are missing."""
    if isinstance(raw, Tensor):
        return raw.to(device, torch.float32)
    return torch.tensor(parse_numbers(column, raw), dtype=torch.float32, device=device)


def interpolate_range(low: float, high: float, fraction: float) -> float:
    """Number at a ``fraction`` of the range from ``low`` to ``high``, rounded to 6 decimals."""
    return min(max(round(low + fraction * (high - low), 6), low), high)


def parse_texts(raw: Raw) -> list[str]:
    """Cells as text, "" where they are missing; integral floats without a decimal point."""
    cells = raw.tolist() if isinstance(raw, Tensor) else raw
    return ["" if cell is None or cell != cell else _to_text(cell) for cell in cells]


def _to_text(cell: Any) -> str:
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def _is_number(cell: Any) -> bool:
    try:
        float(cell)
    except (TypeError, ValueError):
        return False
    return True
