"""Exponential moving average (EMA) of the weights; the averaged weights are validated, saved and exported."""

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from echodream import validation


class EMA(WeightAveraging):
    """EMA with the decay min(``decay``, (1 + n) / (10 + n)) after n updates, a warm-up for short trainings."""

    def __init__(self, decay: float = 0.9999) -> None:
        self.decay = validation.number("callbacks.ema.decay", decay, 0, below=1)
        super().__init__(use_buffers=False)
        self._tensors: _TensorPairs | None = None

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the average after each optimizer step."""
        if trainer.global_step <= self._latest_update_step:
            return
        self._latest_update_step = trainer.global_step
        average = self._average_model
        assert average is not None
        if self._tensors is None or self._tensors.average is not average:
            self._tensors = _TensorPairs(average, pl_module)
        tensors = self._tensors
        if tensors.count == 0:
            torch._foreach_copy_(tensors.averaged, tensors.current)
        else:
            decay = min(self.decay, (1 + tensors.count) / (10 + tensors.count))
            torch._foreach_lerp_(tensors.averaged, tensors.current, 1 - decay)
        for averaged_buffer, buffer in tensors.buffers:
            averaged_buffer.copy_(buffer)
        average.n_averaged += 1
        tensors.count += 1

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Copy the averaged weights into the module, also after resuming a finished training."""
        if self._average_model is not None:
            self._copy_average_to_current(pl_module)
            self._average_model = self._tensors = None  # finish_training may change the module before its validation


class _TensorPairs:
    """Parameters and buffers of the averaged and the trained module, listed once because the listing is slow."""

    def __init__(self, average: AveragedModel, module: pl.LightningModule) -> None:
        self.average = average
        parameters = zip(average.module.parameters(), module.parameters(), strict=True)
        pairs = [pair for pair in parameters if pair[0].is_floating_point()]
        self.averaged: list[Tensor] = [averaged for averaged, _ in pairs]
        self.current: list[Tensor] = [current for _, current in pairs]
        self.buffers = list(zip(average.module.buffers(), module.buffers(), strict=True))
        self.count = int(average.n_averaged)  # on the CPU: reading a GPU tensor would wait for the training step
