"""Interruptions of stages and trainings, for tests of resuming."""

from collections.abc import Callable
from typing import Any

from pytorch_lightning import Callback


class Accident(Exception):
    pass


def failing_after(count: int, call: Callable[..., Any]) -> Callable[..., Any]:
    """``call``, which raises ``Accident`` after ``count`` calls."""
    left = [count]

    def wrapped(*args: Any, **more: Any) -> Any:
        if not left[0]:
            raise Accident
        left[0] -= 1
        return call(*args, **more)

    return wrapped


class StopTraining(Callback):
    """An accident at the end of a batch."""

    def __init__(self, epoch: int, batch: int) -> None:
        self.when = (epoch, batch)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == self.when:
            raise OSError("accident")
