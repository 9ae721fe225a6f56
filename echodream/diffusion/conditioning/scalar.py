"""A number, such as the ejection fraction: a learned function of its position in the training range."""

import math

import pandas as pd
import torch
from torch import Tensor, nn

from echodream.diffusion.conditioning.base import NumericCondition, Raw, parse_numbers
from echodream.errors import UserError


class Scalar(NumericCondition):
    """A numeric ``column``, in the unit of the store; empty cells are missing.

    ``low`` and ``high`` limit the values that can be requested; None: minimum and maximum of the training rows. Sine
    and cosine features of (value - low) / (high - low), the shortest period a quarter of the range, go through two
    linear layers, so that similar values have similar tokens.
    """

    kind = "scalar"
    clamps = True
    range_keys = ("least", "greatest")
    frequencies = 8

    def __init__(self, column: str, low: float | None = None, high: float | None = None, dropout: float = 0.1) -> None:
        super().__init__(column, dropout)
        if low is not None and high is not None and not low < high:
            raise UserError(f"conditioning: the range of {column} is {low} to {high}: give low below high, or null")
        self.low, self.high = low, high

    def fit(self, table: pd.DataFrame) -> None:
        """Metadata: the range ``low`` to ``high``; minimum, maximum and ``count`` of the training rows."""
        values = [value for value in parse_numbers(self.column, table[self.column].tolist()) if math.isfinite(value)]
        if not values or min(values) == max(values):
            only = f"{values[0]:g}" if values else "empty"
            raise UserError(f"{self.column} is {only} in all TRAIN rows: leave {self.column} out of conditioning=")
        low = min(values) if self.low is None else self.low
        high = max(values) if self.high is None else self.high
        if min(values) < low or max(values) > high:
            values_text = f"{self.column} is {min(values):g} to {max(values):g} in TRAIN"
            limits = f"beyond the range {low:g} to {high:g} of conditioning="
            raise UserError(f"{values_text}, {limits}: widen low and high, or set them to null")
        training = {"least": min(values), "greatest": max(values), "count": len(values)}
        self.metadata = {"low": low, "high": high, **training}

    def build(self, width: int) -> None:
        self.layers = nn.Sequential(nn.Linear(2 * self.frequencies, width), nn.SiLU(), nn.Linear(width, width))
        self.null = nn.Parameter(torch.randn(width))

    def check(self, raw: Raw) -> None:
        low, high, minimum = (float(self.metadata[name]) for name in ("low", "high", "least"))
        tolerance = 1e-6 * (high - low)
        for value in parse_numbers(self.column, raw):
            is_fraction = 0 <= value <= 1 < minimum
            if not math.isnan(value) and (is_fraction or not low - tolerance <= value <= high + tolerance):
                advice = "give percent" if is_fraction and high <= 100 else "give it in the same unit and range"
                problem = f"{self.column}={value:g} is not what the model was trained on"
                raise UserError(f"{problem}, {low:g} to {high:g}: {advice}")

    def forward(self, value: Tensor, keep: Tensor) -> Tensor:
        missing = value.isnan()
        low, high = float(self.metadata["low"]), float(self.metadata["high"])
        position = ((value.float().masked_fill(missing, low) - low) / (high - low)).clamp(0, 1)
        angles = math.pi * position[:, None] * torch.arange(1, self.frequencies + 1, device=value.device)
        tokens = self.layers(torch.cat([angles.sin(), angles.cos()], dim=1).to(self.null.dtype))
        return torch.where((keep & ~missing)[:, None], tokens, self.null.to(tokens.dtype))[:, None]
