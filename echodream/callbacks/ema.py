"""Exponential moving average of the weights: what is validated, saved and exported."""

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from echodream import validation


class EMA(WeightAveraging):
    """Lightning's weight averaging with a decay that warms up: min(``decay``, (1 + n) / (10 + n)) after n updates.

    Without the warm-up a run of a few hundred steps would keep mostly its random start.
    """

    def __init__(self, decay: float = 0.9999) -> None:
        self.decay = validation.number("callbacks.ema.decay", decay, 0, below=1)
        super().__init__(use_buffers=False)
        self._tensors: _Tensors | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Make the average."""
        super().setup(trainer, pl_module, stage)
        self._tensors = None

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Follow the weights after each step of the optimiser.

        What follows what is looked up once: to walk through all modules at each step would take longer than to average.
        """
        if trainer.global_step <= self._latest_update_step:
            return
        self._latest_update_step = trainer.global_step
        average = self._average_model
        assert average is not None
        if self._tensors is None:
            self._tensors = _Tensors(average, pl_module)
        found = self._tensors
        if found.count == 0:
            torch._foreach_copy_(found.averaged, found.current)
        else:
            keep = min(self.decay, (1 + found.count) / (10 + found.count))
            torch._foreach_lerp_(found.averaged, found.current, 1 - keep)
        for copied, buffer in found.buffers:
            copied.copy_(buffer)
        average.n_averaged += 1
        found.count += 1

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the averaged weights in the module, also where the checkpoint was of a finished training."""
        if self._average_model is not None:
            self._copy_average_to_current(pl_module)


class _Tensors:
    """What is averaged of a module, what is copied, and after how many updates."""

    def __init__(self, average: AveragedModel, module: pl.LightningModule) -> None:
        parameters = zip(average.module.parameters(), module.parameters(), strict=True)
        pairs = [(averaged, current) for averaged, current in parameters if averaged.is_floating_point()]
        self.averaged: list[Tensor] = [averaged for averaged, _ in pairs]
        self.current: list[Tensor] = [current for _, current in pairs]
        self.buffers = list(zip(average.module.buffers(), module.buffers(), strict=True))
        self.count = int(average.n_averaged)  # kept here too: to ask a GPU for it would wait for the whole step
