"""Lightning's Trainer as this project runs it: quiet, with a progress bar only where somebody is looking."""

import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback


def make_trainer(settings: Callable[..., pl.Trainer], callbacks: Sequence[Callback], **more: Any) -> pl.Trainer:
    """The trainer of the partial ``settings`` with ``callbacks``; ``more`` are further arguments of pl.Trainer."""
    for name in ("pytorch_lightning.utilities.rank_zero", "pytorch_lightning.accelerators.cuda", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message="Total length of `DataLoader` across ranks is zero.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", message="Experiment logs directory .* exists and is not empty.*")
    return settings(callbacks=list(callbacks), enable_progress_bar=sys.stderr.isatty(), **more)
