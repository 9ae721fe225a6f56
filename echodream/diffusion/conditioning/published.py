"""The conditions of the published code, reproduced exactly with their defects, for checkpoints trained with them.

A single number in a token of width 1 shifts the features along a line, and the null value, 0, is also class 0.
"""

import math
from collections import Counter
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from echodream import validation
from echodream.diffusion.conditioning.base import NumericCondition, Raw, ReferenceCondition, parse_numbers, parse_texts
from echodream.errors import UserError

_MAX_LISTED = 64
"""Columns with more different values than this are treated as continuous."""


class PublishedToken(NumericCondition):
    """The number divided by ``scale``, as the only token: (B, 1, 1). The null value is 0; there are no parameters."""

    kind = "published_token"
    fixed_width = 1
    range_keys = ("low", "high")

    def __init__(self, column: str, scale: float = 1.0, dropout: float = 0.1) -> None:
        super().__init__(column, dropout)
        self.scale = validation.positive_number(f"conditioning: the scale of {column}", scale)

    def fit(self, table: pd.DataFrame) -> None:
        """Metadata: ``low`` and ``high`` of the training rows; their ``values``, if few; the ``names`` of classes."""
        cells = table[self.column].tolist()
        values = sorted({value for value in parse_numbers(self.column, cells) if math.isfinite(value)})
        if not values:
            raise UserError(f"{self.column} is empty in all TRAIN rows: fill it, or leave it out of conditioning=")
        listed = values if len(values) <= _MAX_LISTED else None
        self.metadata = {"low": values[0], "high": values[-1], "values": listed}
        if self.column == "class_id" and "class_name" in table:
            pairs = zip(parse_texts(cells), parse_texts(table["class_name"].tolist()), strict=True)
            common = Counter(pair for pair in pairs if all(pair)).most_common()
            self.metadata["names"] = dict(sorted(dict(pair for pair, _ in reversed(common)).items()))

    def build(self, width: int) -> None:
        return

    def check(self, raw: Raw) -> None:
        """Accepts everything if the training rows are unknown (imported weights)."""
        if not self.metadata:
            return
        low, high, values = self.metadata["low"], self.metadata["high"], self.metadata["values"]
        discrete = values is not None and all(float(value).is_integer() for value in values)
        for value in parse_numbers(self.column, raw):
            if not math.isnan(value) and (not low <= value <= high or (discrete and value not in values)):
                known = ", ".join(f"{item:g}" for item in values) if discrete else f"{low:g} to {high:g}"
                raise UserError(f"{self.column}={value:g} is not what the model was trained on: it knows {known}")

    def choices(self) -> list[Any] | None:
        return self.metadata.get("values")

    def filelist_columns(self, cell: Any) -> dict[str, Any]:
        """The column, whole numbers without a decimal point; and class_name where it is known."""
        number = parse_numbers(self.column, [cell])[0]
        if math.isnan(number):
            return {}
        name = self.metadata.get("names", {}).get(f"{number:g}")
        shown = int(number) if number.is_integer() else number
        return {self.column: shown, **({"class_name": name} if name else {})}

    def forward(self, value: Tensor, keep: Tensor) -> Tensor:
        present = keep & ~value.isnan()
        return torch.where(present, value / self.scale, torch.zeros_like(value))[:, None, None]


class PublishedReference(ReferenceCondition):
    """One reference frame, repeated over all frames of the clip; zeros where it is dropped. Its time is not encoded."""

    kind = "published_reference"
    interpolates = False

    def build(self, channels: int) -> None:
        self._channels = channels

    @property
    def extra_channels(self) -> int:
        return self._channels

    def forward(self, reference: Tensor, time: Tensor, keep: Tensor, rest: torch.Size) -> Tensor:
        if reference.shape[2] != 1:
            count = reference.shape[2]
            raise UserError(f"the published conditioning takes one reference frame, not {count}: set view.references=1")
        repeated = reference.expand(-1, -1, rest[0], -1, -1)
        return torch.where(keep[:, None, None, None, None], repeated, torch.zeros_like(repeated))
