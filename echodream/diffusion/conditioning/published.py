"""The conditions of the published code, bit for bit and with its faults, for checkpoints that were trained so.

One number in a token of width 1 shifts the features along a line, and the null, 0, is also class 0.
"""

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from echodream import validation
from echodream.diffusion.conditioning.base import Raw, ReferenceCondition, TokenCondition, between, numbers, texts
from echodream.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

_MOST_LISTED = 64


class PublishedToken(TokenCondition):
    """The number itself, over ``scale``, as the only token: (B, 1, 1). The null is 0; there are no parameters."""

    kind = "published_token"
    fixed_width = 1

    def __init__(self, column: str, scale: float = 1.0, dropout: float = 0.1) -> None:
        super().__init__(column, dropout)
        self.scale = validation.positive_number(f"conditioning: the scale of {column}", scale)

    def arguments(self) -> dict[str, Any]:
        return {"column": self.column, "scale": self.scale, "dropout": self.dropout}

    def learn(self, table: "pd.DataFrame") -> None:
        """Facts: ``low`` and ``high`` of the training rows; their values, where few; the ``names`` of classes."""
        seen = sorted({value for value in numbers(self.column, table[self.column].tolist()) if math.isfinite(value)})
        if not seen:
            raise UserError(f"{self.column} is empty in all TRAIN rows: fill it, or leave it out of conditioning=")
        self.facts = {"low": seen[0], "high": seen[-1], "values": seen if len(seen) <= _MOST_LISTED else None}
        if self.column == "class_id" and "class_name" in table:
            pairs = zip(texts(table["class_id"].tolist()), texts(table["class_name"].tolist()), strict=True)
            common = Counter(pair for pair in pairs if all(pair)).most_common()
            self.facts["names"] = dict(sorted(dict(pair for pair, _ in reversed(common)).items()))

    def build(self, width: int) -> None:
        return

    def encode(self, raw: Raw, device: torch.device | None = None) -> Tensor:
        """float32, (B,); NaN where it is missing."""
        if isinstance(raw, Tensor):
            return raw.to(device, torch.float32)
        return torch.tensor(numbers(self.column, raw), dtype=torch.float32, device=device)

    def check(self, raw: Raw) -> None:
        """Nothing is refused where the training rows are not known."""
        if not self.facts:
            return
        low, high, whole = self.facts["low"], self.facts["high"], self.facts["values"]
        listed = whole is not None and all(float(value).is_integer() for value in whole)
        for value in numbers(self.column, raw):
            if not math.isnan(value) and (not low <= value <= high or (listed and value not in whole)):
                have = ", ".join(f"{item:g}" for item in whole) if listed else f"{low:g} to {high:g}"
                raise UserError(f"{self.column}={value:g} is not what the model was trained on: it knows {have}")

    def options(self) -> list[Any] | None:
        return self.facts.get("values")

    def describe(self, cell: Any) -> dict[str, Any]:
        """Whole numbers without a point; with class_name, where training knew it."""
        number = numbers(self.column, [cell])[0]
        if math.isnan(number):
            return {}
        name = self.facts.get("names", {}).get(f"{number:g}")
        shown = int(number) if number.is_integer() else number
        return {self.column: shown, **({"class_name": name} if name else {})}

    def at(self, share: float) -> float:
        if not self.facts:
            return float(super().at(share))
        return between(self.facts["low"], self.facts["high"], share)

    def forward(self, value: Tensor, keep: Tensor) -> Tensor:
        present = keep & ~value.isnan()
        return torch.where(present, value / self.scale, torch.zeros_like(value))[:, None, None]


class PublishedReference(ReferenceCondition):
    """One reference frame, repeated over all frames of the clip; zeros where it is dropped. Its time is not told."""

    kind = "published_reference"

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__(dropout)

    def arguments(self) -> dict[str, Any]:
        return {"dropout": self.dropout}

    def build(self, channels: int) -> None:
        self._extra = channels

    @property
    def extra(self) -> int:
        return self._extra

    def forward(self, reference: Tensor, time: Tensor, keep: Tensor, rest: torch.Size) -> Tensor:
        if reference.shape[2] != 1:
            raise UserError(
                f"the published conditioning takes one reference frame, not {reference.shape[2]}: set view.references=1"
            )
        given = reference.expand(-1, -1, rest[0], -1, -1)
        return torch.where(keep[:, None, None, None, None], given, torch.zeros_like(given))
