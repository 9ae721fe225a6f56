"""Clips per second that are read from a latent store, compared with torch.load of one .pt file per recording.

    python benchmarks/clip_reads.py [--recordings 200] [--frames 192] [--clip 64] [--rounds 9]

A .pt file contains one float32 sample (F, 4, 14, 14) of the posterior, as in the published pipelines. The store
contains the float16 mean and std of the posterior, so that every read gives a new sample, from an equal number of
bytes. Store and .pt files are read in turns, from the page cache.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from echodream.store import Dataset, Store, StoreWriter
from echodream.store.latents import write_latents


def write_store_and_files(root: Path, recordings: int, frames: int) -> Store:
    """Write random latents to a store at ``root``/store and to .pt files in ``root``/pt."""
    rng = np.random.default_rng(0)
    dataset = Dataset(kind="latent", layout="F,C,H,W", channels=4, height=14, width=14, encoder="0" * 64)
    (root / "pt").mkdir()
    names = [f"r{number:04d}" for number in range(recordings)]
    sizes = {"NumberOfFrames": frames, "FPS": 32.0, "FrameHeight": 14, "FrameWidth": 14}
    with StoreWriter(root / "store", dataset) as writer:
        for name in names:
            mean = rng.standard_normal((frames, 4, 14, 14)).astype(np.float32)
            write_latents(writer.scratch_path(name), mean, np.abs(mean))
            row = {"FileName": name, "Split": "TRAIN", "PatientID": name, **sizes}
            writer.commit(row, writer.scratch_path(name))
            torch.save(torch.from_numpy(mean), root / "pt" / f"{name}.pt")
        return writer.finish(names)


def clips_per_second(read: Callable[[str, int], object], names: list[str], max_start: int) -> float:
    """Clips that ``read`` reads per second: one clip of each recording, with a random start of 0 to ``max_start``."""
    order = random.sample(names, len(names))
    start = time.perf_counter()
    for name in order:
        read(name, random.randint(0, max_start))
    return len(names) / (time.perf_counter() - start)


def main() -> None:
    """Print the median clips per second of the store and of torch.load, and the median ratio of both rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("recordings", 200), ("frames", 192), ("clip", 64), ("rounds", 9)):
        parser.add_argument(f"--{name}", type=int, default=value)
    arguments = parser.parse_args()
    clip = arguments.clip
    with tempfile.TemporaryDirectory() as folder:
        store = write_store_and_files(Path(folder), arguments.recordings, arguments.frames)
        names, max_start = store.table["FileName"].tolist(), arguments.frames - clip

        def read_from_store(name: str, start: int) -> object:
            return store.latents(name, start, start + clip)

        def read_from_files(name: str, start: int) -> object:
            return torch.load(Path(folder, "pt", f"{name}.pt"), weights_only=True)[start : start + clip]

        rates = [
            (clips_per_second(read_from_store, names, max_start), clips_per_second(read_from_files, names, max_start))
            for _ in range(arguments.rounds + 1)
        ][1:]
    store_rate, file_rate = (statistics.median(column) for column in zip(*rates, strict=True))
    ratio = statistics.median(a / b for a, b in rates)
    print(f"store slice {store_rate:8.0f} clips/s\ntorch.load  {file_rate:8.0f} clips/s\nratio       {ratio:8.2f}")


if __name__ == "__main__":
    main()
