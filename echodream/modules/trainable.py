"""Base class of all models that ``train.py`` trains."""

import inspect
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import pytorch_lightning as pl
import torch
from torch import Tensor

from echodream import validation
from echodream.artifact import Artifact
from echodream.datamodules.datamodule import StoreData
from echodream.errors import UserError, shortened_list

_VALID_INTERVALS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("lr", {"above": 0}),
    ("weight_decay", {"minimum": 0}),
    ("momentum", {"minimum": 0, "below": 1}),
    ("power", {"above": 0}),
)
"""Valid interval of each numeric setting of optimizers and learning-rate schedules, by the name of the setting."""


@dataclass(frozen=True)
class OptimizerGroup:
    """Parameters and settings of one optimizer and its learning-rate schedule."""

    parameters: Iterable[torch.nn.Parameter]
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Keywords of the optimizer that replace the configured keywords."""
    schedule_steps: Callable[[int], int] = lambda steps: steps
    """Function from the number of training steps to the number of steps of the learning-rate schedule."""


class Trainable(pl.LightningModule):
    """LightningModule that builds its network for a data module, and writes an artifact after training."""

    make_optimizer: Callable[..., torch.optim.Optimizer]
    """``functools.partial`` of an optimizer, called with the parameters of the network."""
    make_schedule: Callable[..., torch.optim.lr_scheduler.LRScheduler] | None
    """``functools.partial`` of a schedule, called with ``optimizer`` and ``num_training_steps``; None: no schedule."""
    metrics_without_value: ClassVar[tuple[str, ...]] = ()
    """Names of test metrics that may be NaN."""
    has_unused_parameters: bool = False
    """Whether a backward pass may leave parameters without gradient (find_unused_parameters of DDP)."""
    auto_precision: ClassVar[str] = "32-true"
    """Precision of a training with ``trainer.precision=auto`` on a GPU that computes in bf16."""
    columns: tuple[str, ...] = ()
    """Columns of FileList.csv that each batch has to contain."""
    _unchecked_loss: tuple["_HostFlag", list[str]] | None = None
    """Whether the last training loss is finite, and the recordings of its batch; None after the check."""

    @property
    def cpu_precision(self) -> str:
        """Precision of a training with ``trainer.precision=auto`` on a CPU that computes in bf16.

        Called after ``configure_from_data``. In torch 2.13, weight gradients in bf16 on a CPU are not initialized for
        convolutions with stride 2 of a single pixel, and for 3-D convolutions of few pixels.
        """
        return "32-true"

    @abstractmethod
    def configure_from_data(self, data: StoreData) -> None:
        """Build the network for the shapes and labels of ``data``. Raises ``UserError`` if the data are unsuitable."""

    def finish_training(self, data: StoreData) -> None:
        """Change the network after training, before its test and export."""

    @abstractmethod
    def export(self, root: Path, data: StoreData, artifact: Artifact, config: str) -> None:
        """Write the artifact to the folder ``root``; ``config`` is the configuration as yaml."""

    def configure_optimizers(self) -> Any:
        """Build one optimizer for all trainable parameters. A learning-rate schedule advances in each step."""
        trainable = [parameter for parameter in self.parameters() if parameter.requires_grad]
        (optimizer,), schedulers = self.build_optimizers([OptimizerGroup(trainable)])
        if not schedulers:
            return {"optimizer": optimizer}
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedulers[0], "interval": "step"}}

    def build_optimizers(
        self, groups: Sequence["OptimizerGroup"]
    ) -> tuple[list[torch.optim.Optimizer], list[torch.optim.lr_scheduler.LRScheduler]]:
        """Build an optimizer and a scheduler for each group. Raises ``UserError`` for invalid settings."""
        schedule = self.make_schedule
        check_optimizer_settings(self.make_optimizer, schedule)
        precision = str(self.trainer.precision)
        optimizer = resolve_fused(self.make_optimizer, self.device, precision)
        with _torch_errors_as_user_errors("model.module.optimizer"):
            optimizers = [optimizer(group.parameters, **group.settings) for group in groups]
        if precision.startswith("bf16"):
            for item in optimizers:  # lets Lightning clip gradients of fused optimizers; bf16 has no gradient scaler
                item._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        if schedule is None:
            return optimizers, []
        steps = int(self.trainer.estimated_stepping_batches)
        with _torch_errors_as_user_errors("model.module.schedule"):
            return optimizers, [
                schedule(optimizer=item, num_training_steps=group.schedule_steps(steps))
                for item, group in zip(optimizers, groups, strict=True)
            ]

    def raise_not_finite(self, quantity: str, recordings: Sequence[str]) -> NoReturn:
        """Raise ``UserError`` because ``quantity`` (loss or gradient) is not finite on a batch of ``recordings``."""
        names = shortened_list(list(dict.fromkeys(recordings)), max_names=16)
        remedy = "look at these recordings, or lower model.lr; the same command resumes from the last good checkpoint"
        raise UserError(f"the {quantity} is not finite on a batch of {names}: {remedy}")

    def log_training_loss(self, loss: Tensor, recordings: Sequence[str], batch_size: int, **options: Any) -> Tensor:
        """Log ``loss`` as train/loss, and return ``loss``. Raises ``UserError`` if the loss is infinite or NaN.

        On a GPU, the loss is checked in the next step or before a checkpoint, so that no step waits for the GPU.
        """
        self.check_last_loss()
        self._unchecked_loss = _HostFlag(torch.isfinite(loss)), list(recordings)
        if not _HostFlag.is_asynchronous(loss.device):
            self.check_last_loss()
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=batch_size, **options)
        return loss

    def check_last_loss(self) -> None:
        """Raise ``UserError`` if the last training loss is not finite."""
        last, self._unchecked_loss = self._unchecked_loss, None
        if last is not None and not last[0].read():
            self.raise_not_finite("loss", last[1])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.check_last_loss()

    def on_train_end(self) -> None:
        self.check_last_loss()

    @property
    def logs_this_step(self) -> bool:
        """Whether Lightning passes the logged values of the current training step to the loggers."""
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return bool(every) and (self.trainer.global_step + 1) % every == 0


class _HostFlag:
    """Copy of a boolean tensor in CPU memory. Only the method ``read`` waits for the GPU."""

    def __init__(self, flag: Tensor) -> None:
        self.flag, self.copy_event = flag, None
        if flag.is_cuda:
            self.flag = torch.empty((), dtype=torch.bool, pin_memory=True).copy_(flag, non_blocking=True)
            self.copy_event = torch.cuda.Event()
            self.copy_event.record()

    @staticmethod
    def is_asynchronous(device: torch.device) -> bool:
        """Whether calls on ``device`` return before their result is computed."""
        return device.type == "cuda"

    def read(self) -> bool:
        """Wait for the copy from the GPU, and return the boolean."""
        if self.copy_event is not None:
            self.copy_event.synchronize()
        return bool(self.flag)


@contextmanager
def _torch_errors_as_user_errors(key: str) -> Iterator[None]:
    """Context that converts errors of torch about settings to ``UserError`` with the configuration key ``key``."""
    try:
        yield
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"{key}: {reason}; change this setting, or model.lr") from error


def resolve_fused(
    optimizer: Callable[..., torch.optim.Optimizer], device: torch.device, precision: str
) -> Callable[..., torch.optim.Optimizer]:
    """Set the keyword ``fused`` of the partial ``optimizer``: a fused optimizer updates all parameters in one kernel.

    "auto" is true on a GPU and on a CPU for an optimizer that has the keyword. With a gradient scaler (16-mixed), the
    keyword is false, because Lightning cannot clip the gradients of a fused optimizer then. Raises ``UserError``.
    """
    keywords = dict(getattr(optimizer, "keywords", {}))
    if (fused := keywords.pop("fused", None)) is None:
        return optimizer
    if fused != "auto" and not isinstance(fused, bool):
        validation.refuse("model.fused", fused, "give auto, true or false")
    function: Any = optimizer.func  # type: ignore[attr-defined]
    possible = "fused" in inspect.signature(function).parameters
    if fused is True and not possible:
        raise UserError(f"model.fused=true is not possible: {function.__name__} has no fused version; give auto")
    wanted = device.type in ("cuda", "cpu") if fused == "auto" else fused
    use = wanted and possible and precision != "16-mixed"
    return partial(function, *optimizer.args, **keywords, **({"fused": True} if use else {}))  # type: ignore[attr-defined]


def check_optimizer_settings(optimizer: Callable[..., Any], schedule: Callable[..., Any] | None) -> None:
    """Raise ``UserError`` if a keyword of the partials ``optimizer`` or ``schedule`` has an invalid value."""
    settings = {**getattr(optimizer, "keywords", {}), **getattr(schedule, "keywords", {})}
    for key, interval in _VALID_INTERVALS:
        if key in settings:
            validation.number(f"model.{key}", settings[key], **interval)
    validation.whole_number("model.warmup", settings.get("num_warmup_steps", 0), 0)
    if "name" in settings:
        from diffusers.optimization import SchedulerType

        names = [kind.value for kind in SchedulerType if kind.value != "piecewise_constant" or "step_rules" in settings]
        validation.one_of("model.schedule", settings["name"], names)
