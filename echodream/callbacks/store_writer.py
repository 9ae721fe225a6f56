"""Predictions written to a Store as they come, from one process or many."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from echodream.store import Dataset, Statistics, StoreWriter


class StoreWriterCallback(Callback):
    """Write each prediction as a row of the store at ``dst``; ``complete`` gives the store its final name.

    ``save(path, prediction)`` writes the media file of one recording and returns what it adds to its row in ``rows``.
    The store's rows are in ``rows``' order, its statistics are what ``statistics(folder, names)`` returns.
    """

    def __init__(
        self,
        dst: str,
        dataset: Dataset,
        rows: Mapping[str, dict[str, Any]],
        save: Callable[[Path, Any], dict[str, Any]],
        statistics: Callable[[Path, Sequence[str]], Statistics | None] | None = None,
    ) -> None:
        self.dst, self.dataset, self.rows, self.save, self.statistics = dst, dataset, rows, save, statistics
        self.writer: StoreWriter | None = None
        self.done: set[str] = set()
        """Names that need no prediction; filled when prediction begins."""
        self.already_complete = False
        """Whether the store was there before; known when prediction begins."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Open the store: rank 0 alone, then the others."""
        for first in (True, False):
            if (trainer.global_rank == 0) == first:
                self.writer = StoreWriter(self.dst, self.dataset, shard=trainer.global_rank).__enter__()
                self.already_complete = self.writer.complete
                self.done |= set(self.rows) if self.writer.complete else self.writer.done
            trainer.strategy.barrier()

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write what is new; ``outputs`` holds one prediction for each of ``batch.names``.

        A process that was asked to end does so here: Lightning heeds SIGTERM in training only.
        """
        assert self.writer is not None
        for name, prediction in zip(batch.names, outputs, strict=True):
            if name not in self.done:
                media = self.writer.scratch_path(name)
                self.writer.commit({**self.rows[name], **self.save(media, prediction)}, media)
        if trainer.received_sigterm:
            raise KeyboardInterrupt

    def complete(self, trainer: pl.Trainer) -> None:
        """Complete the store on rank 0 when all processes have written theirs; every process calls this.

        Not a hook, because Lightning leaves out those of a prediction without batches: a process that had none, or a
        run in which only the completion was left to do.
        """
        trainer.strategy.barrier()
        if self.writer is not None and trainer.global_rank == 0 and not self.already_complete:
            self.writer.read_journals()
            names = list(self.rows)
            media = self.writer.media_folder
            self.writer.finish(names, self.statistics(media, names) if self.statistics else None)
        trainer.strategy.barrier()

    def close(self) -> None:
        """Let go of the store; what is committed stays for the next run."""
        if self.writer is not None:
            self.writer.__exit__(None, None, None)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Let go of the store."""
        self.close()
