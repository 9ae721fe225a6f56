"""Base classes and registry of conditions, and parsers of column cells."""

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

Cells = Tensor | Sequence[Any]
"""Cells of a column: a tensor of numbers (B,), or a sequence. None, NaN and "" are missing values."""
MISSING = -1
"""Code of a missing class, category or text."""
MAX_CLASSES = 10_000
CONDITION_CLASSES: dict[str, type["ConditionModule"]] = {}
"""Class of each condition, by ``kind``. Subclasses of ``ConditionModule`` register themselves."""


class ConditionModule(nn.Module, ABC):
    """Condition of a denoiser. ``dropout`` is the probability of the null embedding in training."""

    kind: ClassVar[str]
    """Name of the class in diffusion.json of an artifact."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "kind" in cls.__dict__:
            CONDITION_CLASSES[cls.kind] = cls

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.dropout = validation.number(f"conditioning: the dropout of {self.kind}", dropout, 0, below=1)
        self.metadata: dict[str, Any] = {}

    def constructor_arguments(self) -> dict[str, Any]:
        """Arguments of the constructor, as JSON values; each argument is an attribute of the module."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}


class TokenCondition(ConditionModule):
    """Condition that encodes a column of FileList.csv as tokens for cross-attention."""

    fixed_width: ClassVar[int | None] = None
    """Fixed width D of the tokens; None if the width is configurable."""
    clamps_to_range: ClassVar[bool] = False
    """Whether values outside of the training range are replaced by the nearest bound."""

    def __init__(self, column: str, dropout: float = 0.1) -> None:
        super().__init__(dropout)
        self.column = column

    @abstractmethod
    def fit(self, table: pd.DataFrame) -> None:
        """Derive ``metadata`` from the training rows ``table``. Raises ``UserError`` for an unsuitable column."""

    @abstractmethod
    def build(self, width: int) -> None:
        """Create the parameters for tokens of ``width``, from ``metadata``."""

    @abstractmethod
    def encode(self, cells: Cells, device: torch.device | None = None) -> Tensor:
        """Encode cells as a tensor, (B,) or (B, L). Values that were not in training are encoded as missing."""

    @abstractmethod
    def check_cells(self, cells: Cells) -> None:
        """Raise ``UserError`` if one of ``cells`` was not in training."""

    def choices(self) -> list[Any] | None:
        """All valid values; None for a continuous condition."""
        return None

    def range_value(self, fraction: float) -> Any:
        """Value at ``fraction``, in [0, 1], of the range of the training rows."""
        raise UserError(f"{self.column} has no default values: give labels=training, or the path of a csv")

    def filelist_columns(self, cell: Any) -> dict[str, Any]:
        """Cells of FileList.csv for a sample with the value ``cell``, by column; empty if the value is missing."""
        return {self.column: cell} if parse_texts([cell])[0] else {}

    def precompute(self, value: Tensor) -> Tensor:
        """Run the computations on an encoded value that are equal at every sampling step, before ``forward``."""
        return value

    @abstractmethod
    def forward(self, value: Tensor, keep: Tensor) -> Tensor:
        """Tokens (B, L, D) of encoded values; null embeddings in rows where ``keep``, bool (B,), is false."""


class LookupCondition(TokenCondition):
    """Condition with a learned embedding for each value; values are numbered from 0."""

    def create_embedding(self, count: int, width: int) -> None:
        """Create the embeddings, (``count``, ``width``), and the null embedding, (``width``,)."""
        self.embedding = nn.Embedding(count, width)
        self.null = nn.Parameter(torch.randn(width))

    def forward(self, value: Tensor, keep: Tensor) -> Tensor:
        tokens = self.embedding(value.clamp(min=0))
        return torch.where((keep & (value != MISSING))[:, None], tokens, self.null)[:, None]


class NumericCondition(TokenCondition):
    """Condition with numeric values; empty cells are missing values."""

    range_keys: ClassVar[tuple[str, str]]
    """Keys in ``metadata`` of the minimum and the maximum of the training rows."""

    def encode(self, cells: Cells, device: torch.device | None = None) -> Tensor:
        """Encode cells as float32, (B,), in the unit of the column; NaN for missing values."""
        if isinstance(cells, Tensor):
            return cells.to(device, torch.float32)
        return torch.tensor(parse_numbers(self.column, cells), dtype=torch.float32, device=device)

    def range_value(self, fraction: float) -> float:
        if not self.metadata:
            return float(super().range_value(fraction))
        low, high = (self.metadata[key] for key in self.range_keys)
        return min(max(round(low + fraction * (high - low), 6), low), high)


class ReferenceCondition(ConditionModule):
    """Condition that encodes reference frames as channels, which are concatenated to the noisy clip."""

    interpolates_in_time: ClassVar[bool]
    """Whether the condition interpolates in time between any number of reference frames."""

    @abstractmethod
    def build(self, channels: int) -> None:
        """Create the parameters for frames with ``channels`` channels."""

    @property
    @abstractmethod
    def extra_channels(self) -> int:
        """Number E of concatenated channels."""

    @abstractmethod
    def forward(self, reference: Tensor, time: Tensor, keep: Tensor, size: torch.Size) -> Tensor:
        """Channels (B, E, F, H, W) for clips of ``size`` (F, H, W); null embeddings where ``keep``, (B,), is false.

        ``reference`` is (B, C, R, H, W). ``time`` (B, R) of the reference frames is in frames from the start of a clip.
        """


def parse_numbers(column: str, cells: Cells) -> list[float]:
    """Numbers in ``cells``, NaN for missing values. Raises ``UserError`` for text."""
    numbers = []
    for cell in cells.tolist() if isinstance(cells, Tensor) else cells:
        try:
            numbers.append(math.nan if cell is None or cell == "" else float(cell))
        except (TypeError, ValueError) as error:
            problem = f"{column} is {str(cell)[:40]!r}, not a number"
            raise UserError(f"{problem}: correct it in FileList.csv or the csv of labels=") from error
    return numbers


def parse_texts(cells: Cells) -> list[str]:
    """Texts of ``cells``, "" for missing values. The text of a whole number has no decimal point."""
    cells = cells.tolist() if isinstance(cells, Tensor) else cells
    values = (int(cell) if isinstance(cell, float) and cell.is_integer() else cell for cell in cells)
    return ["" if value is None or value != value else str(value) for value in values]
