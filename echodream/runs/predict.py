"""Prediction on any number of devices: each batch passes through a network once."""

from collections.abc import Callable, Iterator, Sized
from operator import itemgetter
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
    """Batches, with ``to(device)``, of ``make_dataset()``, called after the store is open; spread over the devices."""

    def __init__(self, make_dataset: Callable[[], Dataset[Any]], workers: int) -> None:
        super().__init__()
        validation.whole_number("workers", workers, 0)
        self.make_dataset, self.workers = make_dataset, workers
        self.allow_zero_length_dataloader_with_multiple_devices = True  # there may be fewer batches than devices

    def predict_dataloader(self) -> DataLoader[Any]:
        batches: Any = self.make_dataset()
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)
        sampler = DistributedBatches(batches, rank, world)
        return DataLoader(batches, batch_size=1, sampler=sampler, collate_fn=itemgetter(0), num_workers=self.workers)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch.to(device)


def run_prediction(
    trainer: Callable[..., pl.Trainer], module: pl.LightningModule, data: PredictData, writer: StoreWriterCallback
) -> None:
    """Run ``module`` on ``data`` with the partial ``trainer``; ``writer`` writes each prediction to a store."""
    predictor = make_trainer(trainer, [writer], logger=False, enable_checkpointing=False)
    try:
        with interruptible(predictor):
            predictor.predict(module.eval(), data, return_predictions=False)
        writer.complete(predictor)
    finally:
        writer.close()
