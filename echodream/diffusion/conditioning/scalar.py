"""Numeric condition, such as the ejection fraction: a learned function of the relative position in a range."""

import math

import pandas as pd
import torch
from torch import Tensor, nn

from echodream.diffusion.conditioning.base import Cells, NumericCondition, parse_numbers
from echodream.errors import UserError


class Scalar(NumericCondition):
    """Condition on a numeric ``column``; empty cells are missing values.

    ``low`` and ``high`` limit the valid values; None: minimum and maximum of the training rows. Two linear layers map
    sine and cosine features of (value - low) / (high - low) to tokens.
    """

    kind = "scalar"
    clamps_to_range = True
    range_keys = ("least", "greatest")
    frequencies = 8

    def __init__(self, column: str, low: float | None = None, high: float | None = None, dropout: float = 0.1) -> None:
        super().__init__(column, dropout)
        if low is not None and high is not None and not low < high:
            raise UserError(f"conditioning: the range of {column} is {low} to {high}: give low below high, or null")
        self.low, self.high = low, high

    def fit(self, table: pd.DataFrame) -> None:
        """Store the range ``low`` to ``high``, and minimum, maximum and ``count`` of the training rows, as metadata."""
        values = [value for value in parse_numbers(self.column, table[self.column].tolist()) if math.isfinite(value)]
        if not values or min(values) == max(values):
            value = f"{values[0]:g}" if values else "empty"
            raise UserError(f"{self.column} is {value} in all TRAIN rows: remove it from conditioning=")
        low = min(values) if self.low is None else self.low
        high = max(values) if self.high is None else self.high
        if min(values) < low or max(values) > high:
            problem = f"{self.column} is {min(values):g} to {max(values):g} in TRAIN, not within {low:g} to {high:g}"
            raise UserError(f"{problem}: widen low and high of the condition, or set them to null")
        training_range = {"least": min(values), "greatest": max(values), "count": len(values)}
        self.metadata = {"low": low, "high": high, **training_range}

    def build(self, width: int) -> None:
        self.layers = nn.Sequential(nn.Linear(2 * self.frequencies, width), nn.SiLU(), nn.Linear(width, width))
        self.null = nn.Parameter(torch.randn(width))

    def check_cells(self, cells: Cells) -> None:
        low, high, minimum = (float(self.metadata[name]) for name in ("low", "high", "least"))
        tolerance = 1e-6 * (high - low)
        for value in parse_numbers(self.column, cells):
            is_fraction = 0 <= value <= 1 < minimum
            if not math.isnan(value) and (is_fraction or not low - tolerance <= value <= high + tolerance):
                remedy = "give percent" if is_fraction and high <= 100 else "give a value in this unit and range"
                problem = f"{self.column}={value:g} is outside of the training range {low:g} to {high:g}"
                raise UserError(f"{problem}: {remedy}")

    def forward(self, value: Tensor, keep: Tensor) -> Tensor:
        missing = value.isnan()
        low, high = float(self.metadata["low"]), float(self.metadata["high"])
        position = ((value.float().masked_fill(missing, low) - low) / (high - low)).clamp(0, 1)
        angles = math.pi * position[:, None] * torch.arange(1, self.frequencies + 1, device=value.device)
        tokens = self.layers(torch.cat([angles.sin(), angles.cos()], dim=1).to(self.null.dtype))
        return torch.where((keep & ~missing)[:, None], tokens, self.null.to(tokens.dtype))[:, None]
