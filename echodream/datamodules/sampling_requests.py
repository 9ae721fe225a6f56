"""Batches of condition values for sampling from a diffusion model."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.utils.data import Dataset

References = Callable[[int], tuple[Tensor, Tensor]]
"""Function from a row number to normalized reference frames, (C, R, H, W), and their times, (R,)."""


@dataclass(frozen=True)
class SamplingRequest:
    """A batch of samples to generate."""

    names: tuple[str, ...]
    rows: list[int]
    values: dict[str, Tensor]
    """Condition name -> values, (B, ...)."""

    def to(self, device: torch.device) -> Self:
        """This batch with its condition values on ``device``."""
        return replace(self, values={name: value.to(device) for name, value in self.values.items()})


class SamplingRequests(Dataset[SamplingRequest]):
    """Dataset of batches of ``batch`` consecutive rows, without the batches whose names are all in ``done``.

    The division into batches does not depend on ``done``, so that a resumed run has the same batches. ``values`` are
    the condition values of all rows, (N, ...).
    """

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
        groups = [rows[start : start + batch] for start in range(0, len(self.names), batch)]
        self.groups = [group for group in groups if any(self.names[row] not in done for row in group)]

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, number: int) -> SamplingRequest:
        rows = self.groups[number]
        values = {name: value[rows] for name, value in self.values.items()}
        if self.references is not None:
            frames, times = zip(*(self.references(row) for row in rows), strict=True)
            values |= {"reference": torch.stack(frames), "reference_time": torch.stack(times)}
        return SamplingRequest(tuple(self.names[row] for row in rows), rows, values)
