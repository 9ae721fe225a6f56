"""What ``train.py`` asks of every model."""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler

from echodream.artifact import Artifact
from echodream.datamodules.datamodule import StoreData
from echodream.errors import UserError


class Trainable(pl.LightningModule):
    """A LightningModule that takes its shape from the data and leaves an artifact."""

    undefined: ClassVar[tuple[str, ...]] = ()
    """Test metrics that may have no value."""
    some_unused: bool = False
    """Whether not every parameter has a gradient in every backward pass."""
    columns: tuple[str, ...] = ()
    """Columns of FileList.csv that go along with each sample."""

    @abstractmethod
    def adapt(self, data: StoreData) -> None:
        """Take shape from the data, before training. Raises ``UserError`` when the data do not fit."""

    @abstractmethod
    def export(self, root: Path, data: StoreData, artifact: Artifact, config: str) -> None:
        """Write what other stages load to the folder ``root``."""

    def optimize(
        self,
        optimizer: Callable[..., torch.optim.Optimizer],
        schedule: Callable[..., torch.optim.lr_scheduler.LRScheduler] | None,
    ) -> OptimizerLRScheduler:
        """One optimiser for all that is trained, its rate changed at every step; for ``configure_optimizers``.

        Raises ``UserError`` for settings that they cannot have.
        """
        check_rates(optimizer, schedule)
        made = optimizer([parameter for parameter in self.parameters() if parameter.requires_grad])
        if schedule is None:
            return {"optimizer": made}
        steps = int(self.trainer.estimated_stepping_batches)
        follows = schedule(optimizer=made, num_training_steps=steps)
        return {"optimizer": made, "lr_scheduler": {"scheduler": follows, "interval": "step"}}

    def refuse(self, what: str, recordings: Sequence[str]) -> NoReturn:
        """Raise ``UserError``: ``what``, the loss or the gradient, is not finite on a batch of ``recordings``."""
        names = list(dict.fromkeys(recordings))
        more = f" and {len(names) - 16} more" if len(names) > 16 else ""
        raise UserError(
            f"the {what} is not finite on a batch of {', '.join(names[:16])}{more}: look at these recordings, or "
            "lower model.lr; the last good checkpoint is kept, and the same command goes on from it"
        )


def check_rates(optimizer: Callable[..., Any], schedule: Callable[..., Any] | None) -> None:
    """Raise ``UserError`` when the partials of an optimiser and its schedule were given what these cannot take."""
    asked = {**getattr(optimizer, "keywords", {}), **getattr(schedule, "keywords", {})}
    decay, warmup = asked.get("weight_decay", 0), asked.get("num_warmup_steps", 0)
    if isinstance(decay, bool) or not isinstance(decay, int | float) or not 0 <= decay < math.inf:
        raise UserError(f"model.weight_decay is {decay!r}: give a number, 0 or more")
    if isinstance(warmup, bool) or not isinstance(warmup, int) or warmup < 0:
        raise UserError(f"model.warmup is {warmup!r}: give a whole number of steps, 0 or more")
    if "name" in asked:
        from diffusers.optimization import SchedulerType

        known = [kind.value for kind in SchedulerType if kind.value != "piecewise_constant" or "step_rules" in asked]
        if asked["name"] not in known:
            raise UserError(f"model.schedule is {asked['name']!r}: choose one of {', '.join(known)}")
