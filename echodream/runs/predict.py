"""How a set of batches goes through a network once, in order, on any number of devices."""

from collections.abc import Callable, Iterator, Sized
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from echodream import validation
from echodream.callbacks.store_writer import StoreWriterCallback
from echodream.runs.trainer import interruptible, make_trainer


class Deal(DistributedSampler[int]):
    """Every ``world``-th batch, from ``rank`` on: each once, and none for a process where there are too few."""

    def __init__(self, batches: Sized, rank: int, world: int) -> None:
        super().__init__(batches, num_replicas=world, rank=rank, shuffle=False)  # type: ignore[arg-type]
        self.mine = range(rank, len(batches), world)

    def __len__(self) -> int:
        return len(self.mine)

    def __iter__(self) -> Iterator[int]:
        return iter(self.mine)


class PredictData(pl.LightningDataModule):
    """Serves the items of a dataset, each a whole batch that has ``to(device)``, dealt to the devices.

    ``make`` builds the dataset when the loader is made, after it is known what is done already.
    """

    def __init__(self, make: Callable[[], Dataset[Any]], workers: int) -> None:
        super().__init__()
        validation.whole_number("workers", workers, 0)
        self.make, self.workers = make, workers
        self.allow_zero_length_dataloader_with_multiple_devices = True  # fewer batches than devices

    def predict_dataloader(self) -> DataLoader[Any]:
        """One batch at a time."""
        batches: Any = self.make()
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)
        return DataLoader(
            batches,
            batch_size=1,
            sampler=Deal(batches, rank, world),
            collate_fn=_only,
            num_workers=self.workers,
            prefetch_factor=2 if self.workers else None,
        )

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move what the batch calls its tensors."""
        return batch.to(device)


def _only(batches: list[Any]) -> Any:
    return batches[0]


def run_prediction(
    trainer: Callable[..., pl.Trainer],
    module: pl.LightningModule,
    data: PredictData,
    writing: StoreWriterCallback,
) -> None:
    """Send ``data`` through ``module`` on the devices of ``trainer``, each prediction written as it comes."""
    made = make_trainer(trainer, [writing], logger=False, enable_checkpointing=False)
    try:
        with interruptible(made):
            made.predict(module.eval(), data, return_predictions=False)
        writing.complete(made)
    finally:
        writing.close()
