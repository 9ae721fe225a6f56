"""Conditions of the published checkpoints, in which the null value 0 is also class 0."""

import math
from collections import Counter
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from echodream import validation
from echodream.diffusion.conditioning.base import (
    Cells,
    NumericCondition,
    ReferenceCondition,
    parse_numbers,
    parse_texts,
)
from echodream.errors import UserError

_MAX_DISCRETE_VALUES = 64
"""Maximum number of different values of a discrete column."""


class PublishedToken(NumericCondition):
    """Condition with one token, (B, 1, 1): the number in ``column`` divided by ``scale``. The null value is 0."""

    kind = "published_token"
    fixed_width = 1
    range_keys = ("low", "high")

    def __init__(self, column: str, scale: float = 1.0, dropout: float = 0.1) -> None:
        super().__init__(column, dropout)
        self.scale = validation.positive_number(f"conditioning: the scale of {column}", scale)

    def fit(self, table: pd.DataFrame) -> None:
        """Store range, ``values`` (of a discrete column) and class ``names`` of the training rows as metadata."""
        cells = table[self.column].tolist()
        values = sorted({value for value in parse_numbers(self.column, cells) if math.isfinite(value)})
        if not values:
            raise UserError(f"{self.column} is empty in all TRAIN rows: fill it, or remove it from conditioning=")
        discrete_values = values if len(values) <= _MAX_DISCRETE_VALUES else None
        self.metadata = {"low": values[0], "high": values[-1], "values": discrete_values}
        if self.column == "class_id" and "class_name" in table:
            pairs = zip(parse_texts(cells), parse_texts(table["class_name"].tolist()), strict=True)
            common = Counter(pair for pair in pairs if all(pair)).most_common()
            self.metadata["names"] = dict(sorted(dict(pair for pair, _ in reversed(common)).items()))

    def build(self, width: int) -> None:
        return

    def check_cells(self, cells: Cells) -> None:
        """Raise ``UserError`` if a value was not in training. Without metadata, all values are valid."""
        if not self.metadata:
            return
        low, high, values = self.metadata["low"], self.metadata["high"], self.metadata["values"]
        discrete = values is not None and all(float(value).is_integer() for value in values)
        for value in parse_numbers(self.column, cells):
            if not math.isnan(value) and (not low <= value <= high or (discrete and value not in values)):
                known = ", ".join(f"{item:g}" for item in values) if discrete else f"{low:g} to {high:g}"
                problem = f"{self.column}={value:g} was not in the training data of the model"
                raise UserError(f"{problem}: give {known}")

    def choices(self) -> list[Any] | None:
        return self.metadata.get("values")

    def filelist_columns(self, cell: Any) -> dict[str, Any]:
        """Cells of ``column`` and, if known, of class_name, by column; empty if the value is missing."""
        number = parse_numbers(self.column, [cell])[0]
        if math.isnan(number):
            return {}
        name = self.metadata.get("names", {}).get(f"{number:g}")
        return {self.column: int(number) if number.is_integer() else number, **({"class_name": name} if name else {})}

    def forward(self, value: Tensor, keep: Tensor) -> Tensor:
        present = keep & ~value.isnan()
        return torch.where(present, value / self.scale, torch.zeros_like(value))[:, None, None]


class PublishedReference(ReferenceCondition):
    """Condition on one reference frame, repeated over the clip, without its time. The null embedding is 0."""

    kind = "published_reference"
    interpolates_in_time = False

    def build(self, channels: int) -> None:
        self._channels = channels

    @property
    def extra_channels(self) -> int:
        return self._channels

    def forward(self, reference: Tensor, time: Tensor, keep: Tensor, size: torch.Size) -> Tensor:
        if (count := reference.shape[2]) != 1:
            raise UserError(f"the published conditioning takes one reference frame, not {count}: set view.references=1")
        repeated = reference.expand(-1, -1, size[0], -1, -1)
        return torch.where(keep[:, None, None, None, None], repeated, torch.zeros_like(repeated))
