"""Whole recordings batched by a budget of frames: how a store goes through a network once, in order."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from echodream.errors import UserError
from echodream.store import Store


@dataclass(frozen=True)
class Pack:
    """Some whole recordings, their frames one after another."""

    names: tuple[str, ...]
    lengths: tuple[int, ...]
    frames: Tensor
    """uint8 pixels (N, C, H, W), or float32 latent means (N, C, H, W)."""


def plan(lengths: Sequence[int], shapes: Sequence[tuple[int, int]], budget: int) -> list[list[int]]:
    """Consecutive recordings of one shape whose frames add up to at most ``budget``; a longer one stands alone.

    A function of the whole store and the budget alone, so that a resumed run meets the same batches.
    """
    if budget < 1:
        raise UserError(f"budget is {budget}; give the number of frames that go through the network at once")
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


class Packs(Dataset[Pack]):
    """The packs of ``store`` that hold at least one recording whose name is not in ``done``."""

    def __init__(self, store: Store, budget: int, done: Collection[str] = ()) -> None:
        table = store.table
        self.store = store
        self.names = table["FileName"].tolist()
        self.lengths = table["NumberOfFrames"].tolist()
        shapes = list(zip(table["FrameHeight"], table["FrameWidth"], strict=True))
        packs = plan(self.lengths, shapes, budget)
        self.packs = [pack for pack in packs if any(self.names[index] not in done for index in pack)]

    def __len__(self) -> int:
        return len(self.packs)

    def __getitem__(self, number: int) -> Pack:
        pack = self.packs[number]
        names = tuple(self.names[index] for index in pack)
        return Pack(
            names, tuple(self.lengths[index] for index in pack), torch.cat([self._read(name) for name in names])
        )

    def _read(self, name: str) -> Tensor:
        if self.store.dataset.kind == "latent":
            return self.store.latents(name)[0].float()
        return torch.from_numpy(self.store.frames(name)).permute(0, 3, 1, 2).contiguous()


class Deal(DistributedSampler[int]):
    """Every ``world``-th pack, from ``rank`` on: each pack once, and none for a process where there are too few."""

    def __init__(self, packs: Packs, rank: int, world: int) -> None:
        super().__init__(packs, num_replicas=world, rank=rank, shuffle=False)
        self.mine = range(rank, len(packs), world)

    def __len__(self) -> int:
        return len(self.mine)

    def __iter__(self) -> Iterator[int]:
        return iter(self.mine)


class PackData(pl.LightningDataModule):
    """Serves the packs of a store for prediction. ``done`` is asked when the loader is made, after resuming."""

    def __init__(self, store: Store, budget: int, workers: int, done: Collection[str]) -> None:
        super().__init__()
        if not _whole(workers) or workers < 0:
            raise UserError(f"workers is {workers!r}; give the number of processes that read, 0 or more")
        if not _whole(budget) or budget < 1:
            raise UserError(f"budget is {budget!r}; give the number of frames that go through the network at once")
        self.store, self.budget, self.workers, self.done = store, budget, workers, done
        self.allow_zero_length_dataloader_with_multiple_devices = True  # fewer packs than devices

    def predict_dataloader(self) -> DataLoader[Pack]:
        """One pack at a time, dealt to the devices."""
        packs = Packs(self.store, self.budget, self.done)
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)
        return DataLoader(
            packs,
            batch_size=1,
            sampler=Deal(packs, rank, world),
            collate_fn=_only,
            num_workers=self.workers,
            prefetch_factor=2 if self.workers else None,
        )

    def transfer_batch_to_device(self, batch: Pack, device: torch.device, dataloader_idx: int) -> Pack:
        """Move the frames alone."""
        return Pack(batch.names, batch.lengths, batch.frames.to(device, non_blocking=True))


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _only(packs: list[Pack]) -> Pack:
    return packs[0]
