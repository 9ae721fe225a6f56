"""Prediction with Lightning on one or several devices, without repeated batches."""

from collections.abc import Callable, Iterable, Iterator, Sized
from functools import partial
from operator import itemgetter
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from echodream import validation
from echodream.callbacks.store_writer import StoreWriterCallback
from echodream.runs.trainer import BF16_WEIGHTS, interruptible, make_trainer, trainer_precision


class DistributedBatchSampler(DistributedSampler[int]):
    """Samples every ``world``-th batch, starting at ``rank``. No batch is repeated; a process may get no batch."""

    def __init__(self, batches: Sized, rank: int, world: int) -> None:
        super().__init__(batches, num_replicas=world, rank=rank, shuffle=False)  # type: ignore[arg-type]
        self.indices = range(rank, len(batches), world)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)


class PredictionData(pl.LightningDataModule):
    """Batches of ``make_dataset()``, each with a method ``to(device)``, distributed over the devices."""

    def __init__(self, make_dataset: Callable[[], Dataset[Any]], workers: int) -> None:
        super().__init__()
        validation.whole_number("workers", workers, 0)
        self.make_dataset, self.workers = make_dataset, workers
        self.allow_zero_length_dataloader_with_multiple_devices = True  # there may be fewer batches than devices

    def predict_dataloader(self) -> DataLoader[Any]:
        batches: Any = self.make_dataset()
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)
        sampler = DistributedBatchSampler(batches, rank, world)
        return DataLoader(batches, batch_size=1, sampler=sampler, collate_fn=itemgetter(0), num_workers=self.workers)


def run_prediction(
    trainer: Callable[..., pl.Trainer],
    module: pl.LightningModule,
    data: PredictionData,
    writer: StoreWriterCallback,
    networks: Iterable[nn.Module] = (),
) -> None:
    """Predict ``data`` with ``module`` and write the predictions to a store; ``trainer`` is a ``functools.partial``.

    With the precision ``BF16_WEIGHTS``, only weights of ``networks`` become bf16; Lightning would also round the data.
    """
    if trainer_precision(trainer) == BF16_WEIGHTS:
        trainer = partial(trainer, precision="32-true")
        for network in networks:
            nn.Module.to(network, torch.bfloat16)  # the method ``to`` of diffusers prints a warning
    predictor = make_trainer(trainer, [writer], logger=False, enable_checkpointing=False)
    try:
        with interruptible(predictor):
            predictor.predict(module.eval(), data, return_predictions=False)
        writer.finish_store(predictor)
    finally:
        writer.close()
