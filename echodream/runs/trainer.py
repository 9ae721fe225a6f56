"""Lightning's Trainer as this project runs it: quiet, its checkpoints whole, a progress bar where somebody looks."""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, TQDMProgressBar
from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm
from pytorch_lightning.plugins import TorchCheckpointIO
from pytorch_lightning.plugins.environments import SLURMEnvironment
from pytorch_lightning.strategies import DDPStrategy, FSDPStrategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from echodream.config.launchers import in_sweep
from echodream.errors import UserError


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that are replaced by a rename: a kill leaves the old one or the new one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write beside ``path``, force to the disk, rename."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(path.name + ".new")
        with fresh.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)


class Bar(TQDMProgressBar):
    """Lightning's progress bar on stderr: stdout is what a stage says, which scripts keep."""

    def init_sanity_tqdm(self) -> Tqdm:
        """Before training."""
        with redirect_stdout(sys.stderr):
            return super().init_sanity_tqdm()

    def init_train_tqdm(self) -> Tqdm:
        """Of an epoch."""
        with redirect_stdout(sys.stderr):
            return super().init_train_tqdm()

    def init_validation_tqdm(self) -> Tqdm:
        """Of a validation."""
        with redirect_stdout(sys.stderr):
            return super().init_validation_tqdm()

    def init_test_tqdm(self) -> Tqdm:
        """Of a test."""
        with redirect_stdout(sys.stderr):
            return super().init_test_tqdm()

    def init_predict_tqdm(self) -> Tqdm:
        """Of a stage that sends a store through a network."""
        with redirect_stdout(sys.stderr):
            return super().init_predict_tqdm()


def make_trainer(
    settings: Callable[..., pl.Trainer], callbacks: Sequence[Callback], *, some_unused: bool = False, **more: Any
) -> pl.Trainer:
    """The trainer of the partial ``settings`` with ``callbacks``; ``more`` are further arguments of pl.Trainer.

    ``some_unused``: not every parameter has a gradient in every backward pass, which several devices must know.
    Raises ``UserError`` for settings that Lightning refuses, or that this machine cannot have.
    """
    for name in ("pytorch_lightning.utilities.rank_zero", "pytorch_lightning.accelerators.cuda", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message="Total length of `.*` across ranks is zero.*")
    warnings.filterwarnings("ignore", message="Using .DistributedSampler. with the dataloaders.*")
    warnings.filterwarnings(
        "ignore", message="The number of training batches .* is smaller than the logging interval.*"
    )
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings(
        "ignore", message="Detected call of `lr_scheduler.step.*"
    )  # a discriminator that begins late
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", message="Experiment logs directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", message="It is recommended to use .self.log.*sync_dist=True.*")
    warnings.filterwarnings("ignore", message="The `srun` command is available on your system but is not used.*")
    try:
        bars = [Bar()] if sys.stderr.isatty() else []
        more |= {"callbacks": [*callbacks, *bars], "plugins": [WholeCheckpoints(), *_slurm()]}
        trainer = settings(enable_progress_bar=bool(bars), **more)
    except (MisconfigurationException, ValueError, TypeError, ImportError, RuntimeError) as error:
        reason = " ".join(str(error).split()).rstrip(".!")
        raise UserError(f"trainer: {reason}; change that trainer. setting") from error
    _refuse_strays(trainer)
    if some_unused and isinstance(trainer.strategy, DDPStrategy):
        trainer.strategy._ddp_kwargs.setdefault("find_unused_parameters", True)
    return trainer


def _slurm() -> list[SLURMEnvironment]:
    """How Lightning finds the other processes in a job of SLURM; nothing elsewhere.

    It does not queue the job again: it would go on from the middle of an epoch, and any other run that is started in
    the same folder with it. Our own checkpoints hold all that a run needs that is started again, by whomever.
    """
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []


def _refuse_strays(trainer: pl.Trainer) -> None:
    """Raise ``UserError`` where there would be processes that do not belong together.

    In a sweep Lightning would start the whole sweep again for each device; in a job of SLURM each task that ``trainer``
    does not count would do all of the work, in the same folders.
    """
    environment, asked = trainer._accelerator_connector.cluster_environment, trainer.num_devices * trainer.num_nodes
    if isinstance(environment, SLURMEnvironment):
        if environment.world_size() != asked:
            raise UserError(
                f"this job of SLURM has {environment.world_size()} tasks and trainer= is for {asked}: take "
                "trainer=ddp, or ask for one task"
            )
    elif trainer.num_devices > 1 and in_sweep():
        raise UserError(
            f"trainer.devices={trainer.num_devices} is not for one run of a sweep on this machine: take "
            "launcher=slurm, or a command for each run"
        )


def sharded(trainer: pl.Trainer) -> bool:
    """Whether each process of ``trainer`` has but a part of the weights, and only checkpoints have all."""
    return isinstance(trainer.strategy, FSDPStrategy)


def precision(settings: Callable[..., pl.Trainer]) -> str:
    """The precision that the partial ``settings`` asks for."""
    return str(getattr(settings, "keywords", {}).get("precision", "32-true"))


@contextmanager
def interruptible(trainer: pl.Trainer) -> Iterator[None]:
    """Ctrl-C stays a KeyboardInterrupt, where Lightning would end the program without a word."""
    try:
        yield
    except SystemExit as error:
        if not trainer.interrupted:
            raise
        raise KeyboardInterrupt from error
