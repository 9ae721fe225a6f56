"""Lightning's Trainer with atomic checkpoints, a progress bar on stderr, and short error messages."""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
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

from echodream.config.launchers import is_sweep_run
from echodream.errors import UserError
from echodream.progress import shows_progress


class AtomicCheckpointIO(TorchCheckpointIO):
    """Replaces checkpoints atomically: after a kill, the file is the complete old or the complete new checkpoint."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a temporary file, flush it to the disk, and rename it to ``path``."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".new")
        with temporary.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


def _on_stderr(make_bar: Callable[[TQDMProgressBar], Tqdm]) -> Callable[[TQDMProgressBar], Tqdm]:
    def make_bar_on_stderr(bar: TQDMProgressBar) -> Tqdm:
        with redirect_stdout(sys.stderr):
            return make_bar(bar)

    return make_bar_on_stderr


class StderrProgressBar(TQDMProgressBar):
    """Lightning's progress bar on stderr, because scripts read the summary of a stage from stdout."""

    init_sanity_tqdm = _on_stderr(TQDMProgressBar.init_sanity_tqdm)
    init_train_tqdm = _on_stderr(TQDMProgressBar.init_train_tqdm)
    init_validation_tqdm = _on_stderr(TQDMProgressBar.init_validation_tqdm)
    init_test_tqdm = _on_stderr(TQDMProgressBar.init_test_tqdm)
    init_predict_tqdm = _on_stderr(TQDMProgressBar.init_predict_tqdm)


IGNORED_WARNINGS = (
    ".*isinstance.treespec, LeafSpec.*",
    "Total length of `.*` across ranks is zero.*",
    "Using .DistributedSampler. with the dataloaders.*",
    "The number of training batches .* is smaller than the logging interval.*",
    ".*does not have many workers.*",
    "Detected call of `lr_scheduler.step.*",  # a discriminator that starts after some epochs
    "Checkpoint directory .* exists and is not empty.*",
    "Experiment logs directory .* exists and is not empty.*",
    "Found .* in eval mode at the start of training.*",  # students have no dropout
    "It is recommended to use .self.log.*sync_dist=True.*",
    "The `srun` command is available on your system but is not used.*",
)
"""Regular expressions of warnings of Lightning and torch that do not apply to echodream."""


def make_trainer(
    settings: Callable[..., pl.Trainer], callbacks: Sequence[Callback], *, unused_parameters: bool = False, **more: Any
) -> pl.Trainer:
    """Create the Trainer from ``settings``, a ``functools.partial``, with ``callbacks`` and ``more`` arguments.

    With ``unused_parameters``, DDP accepts parameters without a gradient. Raises ``UserError`` for settings that
    Lightning refuses, or that this machine cannot run.
    """
    for name in ("pytorch_lightning.utilities.rank_zero", "pytorch_lightning.accelerators.cuda", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    try:
        bars = [StderrProgressBar()] if shows_progress() else []
        more |= {"callbacks": [*callbacks, *bars], "plugins": [AtomicCheckpointIO(), *_slurm_environment()]}
        getattr(settings, "keywords", {}).pop("privacy", None)  # of training/private.py, and no setting of Lightning
        trainer = settings(enable_progress_bar=bool(bars), **more)
    except (MisconfigurationException, ValueError, TypeError, ImportError, RuntimeError) as error:
        reason = " ".join(str(error).split()).rstrip(".!")
        raise UserError(f"trainer: {reason}; change this trainer setting") from error
    _check_process_count(trainer)
    if unused_parameters and isinstance(trainer.strategy, DDPStrategy):
        trainer.strategy._ddp_kwargs.setdefault("find_unused_parameters", True)
    return trainer


def _slurm_environment() -> list[SLURMEnvironment]:
    """SLURM environment without requeueing, which would resume within an epoch; an empty list outside SLURM jobs."""
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []


def _check_process_count(trainer: pl.Trainer) -> None:
    """Raise ``UserError`` if several processes would repeat the same run.

    In a sweep on several devices, Lightning would start the whole sweep once per device. In a SLURM job with more tasks
    than ``trainer`` has processes, the additional tasks would repeat the work in the same folders.
    """
    environment, processes = trainer._accelerator_connector.cluster_environment, trainer.num_devices * trainer.num_nodes
    if isinstance(environment, SLURMEnvironment):
        if (tasks := environment.world_size()) != processes:
            problem = f"this SLURM job has {tasks} tasks and trainer= is for {processes}"
            raise UserError(f"{problem}: use trainer=ddp, or request one task")
    elif trainer.num_devices > 1 and is_sweep_run():
        problem = f"trainer.devices={trainer.num_devices} is not possible in a sweep on this machine"
        raise UserError(f"{problem}: use launcher=slurm, or a separate command for each run")


def is_sharded(trainer: pl.Trainer) -> bool:
    """Whether each process has only a shard of the weights (FSDP); checkpoints contain all weights."""
    return isinstance(trainer.strategy, FSDPStrategy)


BF16_WEIGHTS = "bf16-true"
"""Precision with the weights of the networks in bf16, and all other computations in float32."""


def choose_precision(
    settings: Callable[..., pl.Trainer], on_gpu: str, on_cpu: str = "32-true"
) -> Callable[..., pl.Trainer]:
    """Resolve ``precision="auto"`` in ``settings``, a ``functools.partial`` of ``pl.Trainer``.

    It becomes ``on_gpu`` if the trainer uses a GPU that computes in bf16, ``on_cpu`` if it uses a CPU that has
    instructions for bf16, and "32-true" otherwise. Another precision does not change.
    """
    keywords = getattr(settings, "keywords", {})
    if keywords.get("precision") != "auto":
        return settings
    accelerator = keywords.get("accelerator", "auto")
    precision = on_gpu if _uses_bf16_gpu(accelerator) else on_cpu if _uses_bf16_cpu(accelerator) else "32-true"
    return partial(settings.func, *settings.args, **keywords | {"precision": precision})  # type: ignore[attr-defined]


def _uses_bf16_gpu(accelerator: str) -> bool:
    uses_cuda = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return uses_cuda and torch.cuda.is_bf16_supported(including_emulation=False)


def _uses_bf16_cpu(accelerator: str) -> bool:
    uses_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())
    if not uses_cpu or not hasattr(torch.cpu, "get_capabilities"):  # torch before 2.11
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def trainer_precision(settings: Callable[..., pl.Trainer]) -> str:
    """Precision in ``settings``, a ``functools.partial`` of ``pl.Trainer``; by default "32-true"."""
    return str(getattr(settings, "keywords", {}).get("precision", "32-true"))


@contextmanager
def interruptible(trainer: pl.Trainer) -> Iterator[None]:
    """Raise ``KeyboardInterrupt`` after Ctrl-C, because Lightning would exit without an error message."""
    try:
        yield
    except SystemExit as error:
        if not trainer.interrupted:
            raise
        raise KeyboardInterrupt from error
