"""Recordings are written by a thread while the next batch is computed: order, bytes, limits, errors, interruptions."""

import json
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from echodream.callbacks.store_writer import StoreWriterCallback
from echodream.runs.predict import PredictionData, run_prediction
from echodream.store import Dataset, Store, StoreError, StoreWriter
from echodream.store.video import write_video

ROWS = 7
BATCH = 2
WAIT = 60
"""Seconds until a test gives up."""


@dataclass(frozen=True)
class Numbers:
    """Batch of recordings: their names and numbers."""

    names: tuple[str, ...]
    numbers: tuple[int, ...]

    def to(self, device: torch.device) -> Self:
        return self


def batches(done: set[str]) -> list[Numbers]:
    numbers = [n for n in range(ROWS) if f"r{n}" not in done]
    parts = [tuple(numbers[start : start + BATCH]) for start in range(0, len(numbers), BATCH)]
    return [Numbers(tuple(f"r{n}" for n in part), part) for part in parts]


def frames(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (3 + number, 32, 40, 1), dtype=np.uint8)


class Frames(pl.LightningModule):
    """Module that predicts ``frames``; ``log`` lists the events of the run in order."""

    def __init__(self, log: list[str]) -> None:
        super().__init__()
        self.log_of_events = log

    def predict_step(self, batch: Numbers, batch_idx: int) -> list[Tensor]:
        self.log_of_events.append(f"computed {batch_idx}")
        return [torch.from_numpy(frames(number)) for number in batch.numbers]


ROW = {"Split": "TEST", "FPS": 25.0, "FrameHeight": 32, "FrameWidth": 40}


def row(number: int) -> dict[str, Any]:
    return {"FileName": f"r{number}", "PatientID": f"p{number}", "NumberOfFrames": 3 + number, **ROW}


def dataset() -> Dataset:
    return Dataset(kind="video", channels=1, height=32, width=40)


def save(path: Path, pixels: Tensor) -> dict[str, Any]:
    write_video(path, pixels.numpy(), 25.0)
    return {}


def run(folder: Path, save: Any = save, log: list[str] | None = None) -> Store:
    writer = StoreWriterCallback(str(folder), dataset(), {f"r{n}": row(n) for n in range(ROWS)}, save)
    data = PredictionData(lambda: batches(writer.done), 0)  # type: ignore[arg-type, return-value]
    trainer = partial(pl.Trainer, accelerator="cpu", enable_model_summary=False)
    run_prediction(trainer, Frames([] if log is None else log), data, writer)
    return Store(folder)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def committed(folder: Path) -> list[str]:
    lines = (folder.with_name(f"{folder.name}.partial") / "journal-0.jsonl").read_text().splitlines()
    return [json.loads(line)["row"]["FileName"] for line in lines]


def test_the_bytes_are_those_of_a_writer_without_a_thread(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "truth", dataset()) as writer:
        for number in range(ROWS):
            media = writer.scratch_path(f"r{number}")
            write_video(media, frames(number), 25.0)
            writer.commit(row(number), media)
        writer.finish([f"r{number}" for number in range(ROWS)])
    run(tmp_path / "store")
    assert bytes_of(tmp_path / "store") == bytes_of(tmp_path / "truth")


def test_a_batch_is_written_while_the_next_is_computed_and_the_one_after_it_waits(tmp_path: Path) -> None:
    log: list[str] = []

    def slow(path: Path, pixels: Tensor) -> dict[str, Any]:
        number = int(path.stem[1:])
        later, last = f"computed {number // BATCH + 1}", number // BATCH == (ROWS - 1) // BATCH
        # the loop ends early only if the next batch is computed while this batch is written
        for _ in range(WAIT * 100):
            if last or later in log:
                break
            threading.Event().wait(0.01)
        else:
            raise StoreError("the next batch was not computed")
        threading.Event().wait(0.05)  # enough time for a run without a limit on the queue to compute further batches
        log.append(f"wrote {number}")
        return save(path, pixels)

    run(tmp_path / "store", slow, log)
    assert [event for event in log if event.startswith("wrote")] == [f"wrote {number}" for number in range(ROWS)]
    for batch in range(2, (ROWS + 1) // BATCH):
        last_of_batch = min(ROWS, BATCH * (batch - 1)) - 1
        assert log.index(f"computed {batch}") > log.index(f"wrote {last_of_batch}")


def test_an_error_of_the_writer_is_the_error_of_the_run_and_the_run_can_be_continued(tmp_path: Path) -> None:
    log: list[str] = []

    def full(path: Path, pixels: Tensor) -> dict[str, Any]:
        if path.stem == "r3":
            raise OSError(28, "No space left on device")
        return save(path, pixels)

    with pytest.raises(OSError, match="No space left"):
        run(tmp_path / "store", full, log)
    assert len([event for event in log if event.startswith("computed")]) <= 3
    assert committed(tmp_path / "store") == ["r0", "r1", "r2"]
    assert not (tmp_path / "store").exists()
    run(tmp_path / "store")
    run(tmp_path / "undisturbed")
    assert bytes_of(tmp_path / "store") == bytes_of(tmp_path / "undisturbed")


def test_an_error_in_the_last_batch_is_noticed(tmp_path: Path) -> None:
    def wrong(path: Path, pixels: Tensor) -> dict[str, Any]:
        if path.stem == f"r{ROWS - 1}":
            raise StoreError("the pixels differ")
        return save(path, pixels)

    with pytest.raises(StoreError, match="the pixels differ"):
        run(tmp_path / "store", wrong)
    assert committed(tmp_path / "store") == [f"r{number}" for number in range(ROWS - 1)]


def test_an_error_of_the_network_leaves_the_batch_before_it_complete(tmp_path: Path) -> None:
    """If the network fails, the thread first finishes the earlier batch; then the lock is released."""

    def broken(own: Frames, batch: Numbers, batch_idx: int) -> list[Tensor]:
        if batch_idx == 1:
            raise RuntimeError("no memory")
        return original(own, batch, batch_idx)

    original, begun = Frames.predict_step, threading.Event()

    def slow(path: Path, pixels: Tensor) -> dict[str, Any]:
        begun.set()
        threading.Event().wait(0.05)
        return save(path, pixels)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Frames, "predict_step", broken)
        with pytest.raises(RuntimeError, match="no memory"):
            run(tmp_path / "store", slow)
    assert begun.is_set()
    assert committed(tmp_path / "store") == ["r0", "r1"]
    assert not list((tmp_path / "store.partial").glob("scratch-*"))
    assert len(run(tmp_path / "store")) == ROWS
