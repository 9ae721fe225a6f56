"""Batches of condition values for sampling from a diffusion model."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.utils.data import Dataset

References = Callable[[int], tuple[Tensor, Tensor]]
"""Function from a row number to whitened reference frames, (C, R, H, W), and their times, (R,)."""


@dataclass(frozen=True)
class SamplingRequest:
    """Batch of samples to generate: names, row numbers and condition values."""

    names: tuple[str, ...]
    rows: list[int]
    values: dict[str, Tensor]
    """Values (B, ...) of each condition, by name."""

    def to(self, device: torch.device) -> Self:
        """Copy of the batch with condition values on ``device``."""
        return replace(self, values={name: value.to(device) for name, value in self.values.items()})


class SamplingRequests(Dataset[SamplingRequest]):
    """Dataset of batches of ``batch`` rows of ``values``, (N, ...), without batches whose names are all in ``done``."""

    def __init__(
        self,
        names: Sequence[str],
        values: Mapping[str, Tensor],
        batch: int,
        done: Collection[str] = (),
        references: References | None = None,
    ) -> None:
        self.names, self.values, self.references = list(names), values, references
        rows = list(range(len(self.names)))
        batches = [rows[start : start + batch] for start in range(0, len(self.names), batch)]
        self.batches = [batch_rows for batch_rows in batches if any(self.names[row] not in done for row in batch_rows)]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> SamplingRequest:
        rows = self.batches[number]
        values = {name: value[rows] for name, value in self.values.items()}
        if self.references is not None:
            frames, times = zip(*(self.references(row) for row in rows), strict=True)
            values |= {"reference": torch.stack(frames), "reference_time": torch.stack(times)}
        return SamplingRequest(tuple(self.names[row] for row in rows), rows, values)
