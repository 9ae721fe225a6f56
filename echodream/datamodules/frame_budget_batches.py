"""Whole recordings batched by a budget of frames: how a store goes through a network once, in order."""

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
    """Some whole recordings, their frames one after another."""

    names: tuple[str, ...]
    lengths: tuple[int, ...]
    frames: Tensor
    """uint8 pixels (N, C, H, W), or float32 latent means (N, C, H, W)."""

    def to(self, device: torch.device) -> Self:
        """With the frames on ``device``."""
        return replace(self, frames=self.frames.to(device, non_blocking=True))


def plan_batches(lengths: Sequence[int], shapes: Sequence[tuple[int, int]], budget: int) -> list[list[int]]:
    """Consecutive recordings of one shape whose frames add up to at most ``budget``; a longer one stands alone.

    A function of the whole store and the budget alone, so that a resumed run meets the same batches.
    """
    validation.whole_number("budget", budget, note=", the frames of a batch")
    packs: list[list[int]] = []
    room = 0
    for index, length in enumerate(lengths):
        if packs and length <= room and shapes[index] == shapes[packs[-1][0]]:
            packs[-1].append(index)
            room -= length
        else:
            packs.append([index])
            room = budget - length
    return packs


class FrameBudgetBatches(Dataset[FrameBatch]):
    """The packs of ``store`` that hold at least one recording whose name is not in ``done``."""

    def __init__(self, store: Store, budget: int, done: Collection[str] = ()) -> None:
        table = store.table
        self.store = store
        self.names = table["FileName"].tolist()
        self.lengths = table["NumberOfFrames"].tolist()
        shapes = list(zip(table["FrameHeight"], table["FrameWidth"], strict=True))
        packs = plan_batches(self.lengths, shapes, budget)
        self.packs = [pack for pack in packs if any(self.names[index] not in done for index in pack)]

    def __len__(self) -> int:
        return len(self.packs)

    def __getitem__(self, number: int) -> FrameBatch:
        pack = self.packs[number]
        names = tuple(self.names[index] for index in pack)
        return FrameBatch(
            names, tuple(self.lengths[index] for index in pack), torch.cat([self._read(name) for name in names])
        )

    def _read(self, name: str) -> Tensor:
        if self.store.dataset.kind == "latent":
            return self.store.latents(name)[0].float()
        return torch.from_numpy(self.store.frames(name)).permute(0, 3, 1, 2).contiguous()
