"""Base classes of conditions, their registry by kind, and parsing of column cells."""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor, nn

from echodream import validation
from echodream.errors import UserError

Raw = Tensor | Sequence[Any]
"""Cells of a column: numbers as a tensor (B,), or any sequence. None, NaN and "" are missing."""
MISSING = -1
"""Encoded value of a missing class, category or text."""
MAX_CLASSES = 10_000
CONDITIONS: dict[str, type["ConditionModule"]] = {}
"""All imported conditions by kind; every subclass with a ``kind`` registers itself."""


class ConditionModule(nn.Module, ABC):
    """A condition of a denoiser, which is dropped in a training row with the probability ``dropout``.

    Parameters are created by ``build``, from ``metadata`` that was learned from training rows (``fit``) or loaded.
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
    """Width D of the tokens if the condition has a fixed one; None: any width."""
    clamps: ClassVar[bool] = False
    """Whether values outside of the training range are encoded as the nearest bound."""

    def __init__(self, column: str, dropout: float = 0.1) -> None:
        super().__init__(dropout)
        self.column = column

    @abstractmethod
    def fit(self, table: pd.DataFrame) -> None:
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

    def range_value(self, fraction: float) -> Any:
        """Value at a ``fraction``, in [0, 1], of the range in the training rows."""
        raise UserError(f"{self.column} has no default values: give labels=training, or the path of a csv")

    def filelist_columns(self, cell: Any) -> dict[str, Any]:
        """Columns of FileList.csv for a sample with the value ``cell``; empty if the value is missing."""
        return {self.column: cell} if parse_texts([cell])[0] else {}

    @abstractmethod
    def forward(self, value: Tensor, keep: Tensor) -> Tensor:
        """Tokens, (B, L, D), of the output of ``encode``; the null embedding where ``keep``, bool (B,), is false."""


class LookupCondition(TokenCondition):
    """A condition with a learned embedding for each of its values, which are numbered from 0."""

    def create_embedding(self, count: int, width: int) -> None:
        """Create the embeddings, (``count``, ``width``), and the null embedding, (``width``,)."""
        self.embedding = nn.Embedding(count, width)
        self.null = nn.Parameter(torch.randn(width))

    def forward(self, value: Tensor, keep: Tensor) -> Tensor:
        tokens = self.embedding(value.clamp(min=0))
        return torch.where((keep & (value != MISSING))[:, None], tokens, self.null)[:, None]


class NumericCondition(TokenCondition):
    """A condition that is a number; empty cells are missing."""

    range_keys: ClassVar[tuple[str, str]]
    """Entries of ``metadata`` with the minimum and the maximum of the training rows."""

    def encode(self, raw: Raw, device: torch.device | None = None) -> Tensor:
        """float32, (B,), in the unit of the column; NaN if missing."""
        if isinstance(raw, Tensor):
            return raw.to(device, torch.float32)
        return torch.tensor(parse_numbers(self.column, raw), dtype=torch.float32, device=device)

    def range_value(self, fraction: float) -> float:
        if not self.metadata:
            return float(super().range_value(fraction))
        low, high = (self.metadata[key] for key in self.range_keys)
        return min(max(round(low + fraction * (high - low), 6), low), high)


class ReferenceCondition(ConditionModule):
    """Reference frames, which become channels concatenated to the noisy clip."""

    interpolates: ClassVar[bool]
    """Whether the condition takes any number of frames, and interpolates between them in time."""

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


def parse_numbers(column: str, raw: Raw) -> list[float]:
    """Cells as numbers, NaN where they are missing. Raises ``UserError`` for text."""
    numbers = []
    for cell in raw.tolist() if isinstance(raw, Tensor) else raw:
        try:
            numbers.append(math.nan if cell is None or cell == "" else float(cell))
        except (TypeError, ValueError) as error:
            text = str(cell)[:40]
            raise UserError(f"{column} is {text!r}, not a number: correct it in FileList.csv or the csv") from error
    return numbers


def parse_texts(raw: Raw) -> list[str]:
    """Cells as text, "" where they are missing; integral floats without a decimal point."""
    cells = raw.tolist() if isinstance(raw, Tensor) else raw
    texts = (int(cell) if isinstance(cell, float) and cell.is_integer() else cell for cell in cells)
    return ["" if cell is None or cell != cell else str(cell) for cell in texts]
