"""Batches of complete recordings with a maximum number of frames, for inference on a store."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.utils.data import Dataset

from echodream import validation
from echodream.store import Store


@dataclass(frozen=True)
class FrameBatch:
    """Concatenated frames of complete recordings, with their ``names`` and ``lengths`` (numbers of frames)."""

    names: tuple[str, ...]
    lengths: tuple[int, ...]
    frames: Tensor
    """uint8 pixels (N, C, H, W), or float32 latent means (N, C, H, W)."""

    def to(self, device: torch.device) -> Self:
        """Copy of the batch with frames on ``device``."""
        return replace(self, frames=self.frames.to(device, non_blocking=True))


def plan_batches(lengths: Sequence[int], shapes: Sequence[tuple[int, int]], budget: int) -> list[list[int]]:
    """Row numbers of each batch: recordings of one shape with at most ``budget`` frames in total, or one longer one."""
    validation.whole_number("budget", budget, note=", the frames of a batch")
    batches: list[list[int]] = []
    remaining = 0
    for index, length in enumerate(lengths):
        if batches and length <= remaining and shapes[index] == shapes[batches[-1][0]]:
            batches[-1].append(index)
            remaining -= length
        else:
            batches.append([index])
            remaining = budget - length
    return batches


class FrameBudgetBatches(Dataset[FrameBatch]):
    """Dataset of batches of all recordings of ``store``, without batches whose recordings are all in ``done``."""

    def __init__(self, store: Store, budget: int, done: Collection[str] = ()) -> None:
        table = store.table
        self.store = store
        self.names = table["FileName"].tolist()
        self.lengths = table["NumberOfFrames"].tolist()
        shapes = list(zip(table["FrameHeight"], table["FrameWidth"], strict=True))
        batches = plan_batches(self.lengths, shapes, budget)
        self.batches = [batch for batch in batches if any(self.names[index] not in done for index in batch)]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> FrameBatch:
        batch = self.batches[number]
        names, lengths = (tuple(values[index] for index in batch) for values in (self.names, self.lengths))
        if self.store.dataset.kind == "latent":
            return FrameBatch(names, lengths, torch.cat([self.store.latents(name)[0].float() for name in names]))
        pixels = torch.cat([torch.from_numpy(self.store.frames(name)) for name in names])
        return FrameBatch(names, lengths, pixels.permute(0, 3, 1, 2).contiguous())
