"""What every condition can do, and how cells of a column are read."""

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
"""A column: numbers as a tensor (B,), or any sequence of cells. None, NaN and "" are missing."""


class ConditionModule(nn.Module, ABC):
    """One condition. In training it is dropped in a share ``dropout`` of the rows, each row by itself.

    A condition has no parameters until it has learnt its ``facts`` from the training rows, or was given them.
    """

    kind: ClassVar[str]
    """Its name in ``settings``."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = validation.number(f"conditioning: the dropout of {self.kind}", dropout, 0, below=1)
        self.facts: dict[str, Any] = {}

    @abstractmethod
    def arguments(self) -> dict[str, Any]:
        """What it was made with, as plain JSON."""


class TokenCondition(ConditionModule):
    """A condition that is a column of FileList.csv, and becomes tokens for cross-attention."""

    fixed_width: ClassVar[int | None] = None
    """The only width of tokens that it makes."""

    def __init__(self, column: str, dropout: float) -> None:
        super().__init__(dropout)
        self.column = column

    @abstractmethod
    def learn(self, table: "pd.DataFrame") -> None:
        """Take the facts from the training rows ``table``, which has the column. Raises ``UserError``."""

    @abstractmethod
    def build(self, width: int) -> None:
        """Make the parameters for tokens of ``width`` from the facts."""

    @abstractmethod
    def encode(self, raw: Raw, device: torch.device | None = None) -> Tensor:
        """The column's cells as a tensor, (B,) or (B, L). What training has not seen counts as missing."""

    @abstractmethod
    def check(self, raw: Raw) -> None:
        """Raise ``UserError`` when one of the cells asks for what training has not seen."""

    @abstractmethod
    def options(self) -> list[Any] | None:
        """What can be asked for, if that can be listed."""

    def at(self, share: float) -> Any:
        """What lies at a ``share``, in [0, 1], of the way from the least to the greatest that training has seen."""
        raise UserError(f"{self.column} cannot be made up: give labels=training, or the path of a csv")

    def describe(self, cell: Any) -> dict[str, Any]:
        """The columns of FileList.csv that a row has for ``cell``: none where it is missing."""
        return {self.column: cell} if texts([cell])[0] else {}

    @abstractmethod
    def forward(self, value: Tensor, keep: Tensor) -> Tensor:
        """The tokens, (B, L, D), of what ``encode`` gave; the null where ``keep``, bool (B,), is false or it misses."""


class ReferenceCondition(ConditionModule):
    """A condition that is reference frames, and becomes channels beside the noisy clip."""

    @abstractmethod
    def build(self, channels: int) -> None:
        """Make the parameters for frames of ``channels``."""

    @property
    @abstractmethod
    def extra(self) -> int:
        """Channels that it adds, E."""

    @abstractmethod
    def forward(self, reference: Tensor, time: Tensor, keep: Tensor, rest: torch.Size) -> Tensor:
        """The channels, (B, E, F, H, W), for clips of ``rest`` = (F, H, W).

        ``reference`` is (B, C, R, H, W), its ``time`` (B, R) in frames from the clip's start, ``keep`` bool (B,).
        """


def numbers(column: str, raw: Raw) -> list[float]:
    """The cells as numbers, NaN where they are missing. Raises ``UserError`` for a text."""
    cells = raw.tolist() if isinstance(raw, Tensor) else raw
    try:
        return [math.nan if cell is None or cell == "" else float(cell) for cell in cells]
    except (TypeError, ValueError) as error:
        bad = next(cell for cell in cells if cell not in (None, "") and not _is_number(cell))
        raise UserError(
            f"{column} is {str(bad)[:40]!r}, not a number: correct it in FileList.csv or the csv"
        ) from error


def between(low: float, high: float, share: float) -> float:
    """The number at a ``share`` of the way from ``low`` to ``high``, as a cell shows it."""
    return min(max(round(low + share * (high - low), 6), low), high)


def texts(raw: Raw) -> list[str]:
    """The cells as text, "" where they are missing; whole numbers without a point."""
    cells = raw.tolist() if isinstance(raw, Tensor) else raw
    return ["" if cell is None or cell != cell else _text(cell) for cell in cells]


def _text(cell: Any) -> str:
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def _is_number(cell: Any) -> bool:
    try:
        float(cell)
    except (TypeError, ValueError):
        return False
    return True
