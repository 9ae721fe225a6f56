"""Lightning callback that writes predictions to a Store, from one process or several."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback

from echodream.errors import Rejected
from echodream.store import Dataset, Statistics, StoreWriter


class StoreWriterCallback(Callback):
    """Writes each prediction as a recording of the store ``dst``; ``finish_store`` gives the store its final name.

    A thread writes the recordings of a batch, in their order, while the next batch is computed. Batch k + 2 is computed
    after batch k was written, so that at most two batches are in memory. An error of the thread ends the run after the
    next batch.

    ``rows`` maps FileName to row, in the order of FileList.csv. ``save(path, prediction)`` writes the media file of a
    recording and returns values that replace columns of its row; if it raises ``Rejected``, the recording is listed in
    rejected.csv. ``statistics(folder, names)`` computes the statistics of the store from its media files.
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
        """Names of the recordings that are already written; set in ``setup``."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store-writer")
        self._batch: Future[None] | None = None
        """The batch that is being written."""

    @property
    def already_complete(self) -> bool:
        """Whether the complete store existed before this run."""
        return self.writer is not None and self.writer.complete

    @property
    def state(self) -> str:
        """State of the store in the summary of a stage: "done" or "already complete, nothing to do"."""
        assert self.writer is not None
        return self.writer.state

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Open the store on rank 0, then on the other ranks."""
        for is_first_rank in (True, False):
            if (trainer.global_rank == 0) == is_first_rank:
                self.writer = StoreWriter(self.dst, self.dataset, shard=trainer.global_rank).__enter__()
                self.done |= set(self.rows) if self.writer.complete else self.writer.done
            trainer.strategy.barrier()

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Start to write ``outputs``, one for each of ``batch.names``, in a thread. After SIGTERM, the run stops."""
        self._wait_for_writer()
        self._batch = self._thread.submit(self._write_batch, list(zip(batch.names, outputs, strict=True)))
        if trainer.received_sigterm:
            self._wait_for_writer()
            raise KeyboardInterrupt

    def _write_batch(self, predictions: Sequence[tuple[str, Any]]) -> None:
        """Write ``predictions``, (FileName, prediction) each; recordings that are already written are skipped."""
        assert self.writer is not None
        for name, prediction in predictions:
            if name not in self.done:
                media = self.writer.scratch_path(name)
                try:
                    columns = self.save(media, prediction)
                except Rejected as error:
                    self.writer.reject(name, str(error))
                else:
                    self.writer.commit({**self.rows[name], **columns}, media)

    def _wait_for_writer(self) -> None:
        """Wait until the last batch is written. Raises the error of the writer thread."""
        batch, self._batch = self._batch, None
        if batch is not None:
            batch.result()

    def finish_store(self, trainer: Trainer) -> None:
        """Finish the store on rank 0. Called by all ranks, because Lightning skips hooks on ranks without batches."""
        self._wait_for_writer()
        trainer.strategy.barrier()
        if self.writer is not None and trainer.global_rank == 0 and not self.already_complete:
            self.writer.read_journals()
            names, media = list(self.rows), self.writer.media_folder
            self.writer.finish(names, self.statistics(media, names) if self.statistics else None)
        trainer.strategy.barrier()

    def close(self) -> None:
        """Finish the last batch and release the lock. The next run continues after the committed recordings."""
        self._thread.shutdown()
        if self.writer is not None:
            self.writer.__exit__(None, None, None)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.close()
