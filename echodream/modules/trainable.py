"""What ``train.py`` asks of every model."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler

from echodream import validation
from echodream.artifact import Artifact
from echodream.datamodules.datamodule import StoreData
from echodream.errors import UserError

_INTERVALS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("lr", {"above": 0}),
    ("weight_decay", {"minimum": 0}),
    ("momentum", {"minimum": 0, "below": 1}),
    ("power", {"above": 0}),
)
"""Settings of optimizers and schedules that are numbers, and their intervals."""


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
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        (made,), follows = self.optimizers_of(optimizer, schedule, [trained])
        if not follows:
            return {"optimizer": made}
        return {"optimizer": made, "lr_scheduler": {"scheduler": follows[0], "interval": "step"}}

    def optimizers_of(
        self,
        optimizer: Callable[..., torch.optim.Optimizer],
        schedule: Callable[..., torch.optim.lr_scheduler.LRScheduler] | None,
        groups: Iterable[Iterable[torch.nn.Parameter]],
    ) -> tuple[list[torch.optim.Optimizer], list[torch.optim.lr_scheduler.LRScheduler]]:
        """An optimiser for each of ``groups``, and its schedule, if there is one.

        Raises ``UserError`` for settings that they cannot have.
        """
        check_rates(optimizer, schedule)
        if getattr(optimizer, "keywords", {}).get("fused") and "mixed" in str(self.trainer.precision):
            optimizer = partial(optimizer, fused=False)  # Lightning clips no gradients for one that is
        with _refusing("model.module.optimizer"):
            made = [optimizer(parameters) for parameters in groups]
        if schedule is None:
            return made, []
        steps = int(self.trainer.estimated_stepping_batches)
        with _refusing("model.module.schedule"):
            return made, [schedule(optimizer=item, num_training_steps=steps) for item in made]

    def refuse(self, what: str, recordings: Sequence[str]) -> NoReturn:
        """Raise ``UserError``: ``what``, the loss or the gradient, is not finite on a batch of ``recordings``."""
        names = list(dict.fromkeys(recordings))
        more = f" and {len(names) - 16} more" if len(names) > 16 else ""
        raise UserError(
            f"the {what} is not finite on a batch of {', '.join(names[:16])}{more}: look at these recordings, or "
            "lower model.lr; the last good checkpoint is kept, and the same command goes on from it"
        )


@contextmanager
def _refusing(key: str) -> Iterator[None]:
    """What torch refuses of the settings at ``key`` is a ``UserError``."""
    try:
        yield
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"{key}: {reason}; change that setting, or model.lr") from error


def check_rates(optimizer: Callable[..., Any], schedule: Callable[..., Any] | None) -> None:
    """Raise ``UserError`` when the partials of an optimiser and its schedule were given what these cannot take."""
    asked = {**getattr(optimizer, "keywords", {}), **getattr(schedule, "keywords", {})}
    for key, interval in _INTERVALS:
        if key in asked:
            validation.number(f"model.{key}", asked[key], **interval)
    validation.whole_number("model.warmup", asked.get("num_warmup_steps", 0), 0)
    if "name" in asked:
        from diffusers.optimization import SchedulerType

        known = [kind.value for kind in SchedulerType if kind.value != "piecewise_constant" or "step_rules" in asked]
        validation.one_of("model.schedule", asked["name"], known)
