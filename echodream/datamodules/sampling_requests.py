"""What is to be drawn: rows with the values of their conditions, in batches."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.utils.data import Dataset

References = Callable[[int], tuple[Tensor, Tensor]]
"""Row number to its reference frames, whitened (C, R, H, W), and their times, (R,)."""


@dataclass(frozen=True)
class SamplingRequest:
    """Some rows that are drawn together."""

    names: tuple[str, ...]
    rows: list[int]
    values: dict[str, Tensor]
    """Of the conditions, each (B, ...)."""

    def to(self, device: torch.device) -> Self:
        """With the values on ``device``."""
        return replace(self, values={name: value.to(device) for name, value in self.values.items()})


class SamplingRequests(Dataset[SamplingRequest]):
    """Batches of ``batch`` consecutive rows; those of which every name is in ``done`` are left out.

    Which rows come together does not depend on what is done, so that a resumed run repeats the same batches.
    ``values`` are those of all rows, (N, ...).
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
        every = range(len(self.names))
        groups = [list(every[start : start + batch]) for start in range(0, len(self.names), batch)]
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
