"""Interruptions of stages and trainings, for tests of resuming."""

import os
import signal
from collections.abc import Callable
from typing import Any

from pytorch_lightning import Callback


class Accident(Exception):
    pass


def failing_after(count: int, call: Callable[..., Any]) -> Callable[..., Any]:
    """A wrapper of ``call`` that raises ``Accident`` after ``count`` calls."""
    left = [count]

    def wrapped(*args: Any, **more: Any) -> Any:
        if not left[0]:
            raise Accident
        left[0] -= 1
        return call(*args, **more)

    return wrapped


def run_until_killed(owner: Any, name: str, count: int, run: Callable[[], object]) -> None:
    """Call ``run`` in a child process, which is killed at call number ``count`` of ``owner.name``."""
    child = os.fork()
    if child == 0:
        original, left = getattr(owner, name), [count]

        def killing(*given: Any, **more: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*given, **more)

        setattr(owner, name, killing)
        try:
            run()
        finally:
            os._exit(7)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL


class StopTraining(Callback):
    """Callback that raises an error at the end of the given batch."""

    def __init__(self, epoch: int, batch: int) -> None:
        self.when = (epoch, batch)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == self.when:
            raise OSError("accident")
