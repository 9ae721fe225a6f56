"""Exponential moving average of the weights: what is validated, saved and exported."""

from collections.abc import Sequence

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor

from echodream.errors import UserError


class EMA(WeightAveraging):
    """Lightning's weight averaging with a decay that warms up: min(``decay``, (1 + n) / (10 + n)) after n updates.

    Without the warm-up a run of a few hundred steps would keep mostly its random start.
    """

    def __init__(self, decay: float = 0.9999) -> None:
        if not 0 <= decay < 1:
            raise UserError(f"callbacks.ema.decay is {decay}; give a number from 0 to below 1")
        self.decay = decay
        super().__init__(use_buffers=False, multi_avg_fn=self._average)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the averaged weights in the module, also where the checkpoint was of a finished training."""
        if self._average_model is not None:
            self._copy_average_to_current(pl_module)

    @torch.no_grad()
    def _average(self, averaged: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        number = float(count)
        keep = min(self.decay, (1 + number) / (10 + number))
        floating = [(a, c) for a, c in zip(averaged, current, strict=True) if a.is_floating_point()]
        torch._foreach_lerp_([a for a, _ in floating], [c for _, c in floating], 1 - keep)
