"""Prediction: each batch passes through a network once, in order, on any number of devices."""

from collections.abc import Callable, Iterator, Sized
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from echodream import validation
from echodream.callbacks.store_writer import StoreWriterCallback
from echodream.runs.trainer import interruptible, make_trainer


class DistributedBatches(DistributedSampler[int]):
    """Sampler of every ``world``-th batch, starting at ``rank``: no batch is repeated, and a process may have none."""

    def __init__(self, batches: Sized, rank: int, world: int) -> None:
        super().__init__(batches, num_replicas=world, rank=rank, shuffle=False)  # type: ignore[arg-type]
        self.indices = range(rank, len(batches), world)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)


class PredictData(pl.LightningDataModule):
    """Loads a dataset whose items are whole batches with a method ``to(device)``, distributed over the devices.

    ``make_dataset`` is called with the loader, when it is known which rows the store already has.
    """

    def __init__(self, make_dataset: Callable[[], Dataset[Any]], workers: int) -> None:
        super().__init__()
        validation.whole_number("workers", workers, 0)
        self.make_dataset, self.workers = make_dataset, workers
        self.allow_zero_length_dataloader_with_multiple_devices = True  # fewer batches than devices

    def predict_dataloader(self) -> DataLoader[Any]:
        """Loader of one batch at a time."""
        batches: Any = self.make_dataset()
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)
        return DataLoader(
            batches,
            batch_size=1,
            sampler=DistributedBatches(batches, rank, world),
            collate_fn=_only_batch,
            num_workers=self.workers,
            prefetch_factor=2 if self.workers else None,
        )

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move the tensors of the batch."""
        return batch.to(device)


def _only_batch(batches: list[Any]) -> Any:
    return batches[0]


def run_prediction(
    trainer: Callable[..., pl.Trainer],
    module: pl.LightningModule,
    data: PredictData,
    writer: StoreWriterCallback,
) -> None:
    """Run ``module`` on ``data`` with the partial ``trainer``; ``writer`` writes each prediction to a store."""
    predictor = make_trainer(trainer, [writer], logger=False, enable_checkpointing=False)
    try:
        with interruptible(predictor):
            predictor.predict(module.eval(), data, return_predictions=False)
        writer.complete(predictor)
    finally:
        writer.close()
