"""Small stores whose pixel values identify recording and frame, for tests of code that reads stores."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from echodream.store import Dataset, Statistics, Store, StoreWriter
from echodream.store.latents import write_latents
from echodream.store.video import write_video

ENCODER = "ab" * 32
STATISTICS = Statistics((1.0, -2.0, 3.0, 0.5), (2.0, 4.0, 0.5, 8.0))
HEIGHT, WIDTH = 5, 7

Row = dict[str, Any]


def row(name: str, patient: str, frames: int, split: str = "TRAIN", **columns: Any) -> Row:
    """A row for ``make_video_store`` or ``make_latent_store``."""
    size = {"FrameHeight": HEIGHT, "FrameWidth": WIDTH}
    return {
        "FileName": name,
        "Split": split,
        "PatientID": patient,
        "NumberOfFrames": frames,
        "FPS": 32.0,
        **size,
        **columns,
    }


def study() -> list[Row]:
    """Seven recordings of five patients, all of different lengths, in three splits."""
    return [
        row("a1", "A", 11, class_id=0, EF=55.5, View="A4C"),
        row("a2", "A", 12, class_id=0, EF=54.5, View="A2C"),
        row("b1", "B", 13, class_id=1, EF=30.25, View="A4C"),
        row("c1", "C", 9, class_id=0, EF="", View="A4C"),
        row("v1", "V", 8, "VAL", class_id=0, EF=61.0, View="A4C"),
        row("w1", "W", 6, "VAL", class_id=1, EF=62.0, View="A4C"),
        row("t1", "T", 10, "TEST", class_id=1, EF=63.0, View="A4C"),
    ]


def video_frames(number: int, frames: int, height: int = HEIGHT, width: int = WIDTH, channels: int = 1) -> np.ndarray:
    """uint8 (F, H, W, C): a ramp; the first pixel is the frame index, the second pixel the index of the recording."""
    ramp = np.arange(height * width * channels).reshape(height, width, channels) * 3 % 200
    pixels = (ramp[None] + 2 * np.arange(frames)[:, None, None, None]).astype(np.uint8)
    pixels[:, 0, 0], pixels[:, 0, 1] = np.arange(frames)[:, None], number
    return pixels


def make_video_store(
    root: Path, rows: Sequence[Row] | None = None, channels: int = 1, *, synthetic: bool = False
) -> Store:
    """Write a video store with the frames ``video_frames`` for each row; ``number`` is the index of the row."""
    rows = study() if rows is None else rows
    with StoreWriter(root, Dataset(kind="video", channels=channels, synthetic=synthetic)) as writer:
        for number, entry in enumerate(rows):
            size = entry["NumberOfFrames"], entry["FrameHeight"], entry["FrameWidth"]
            path = writer.scratch_path(entry["FileName"])
            write_video(path, video_frames(number, *size, channels), entry["FPS"])
            writer.commit(entry, path)
        return writer.finish([entry["FileName"] for entry in rows])


def posterior_mean(number: int, frames: int) -> np.ndarray:
    """float16 (F, 4, H, W): channel 0 is the frame index, channel 1 is the index of the recording."""
    mean = np.zeros((frames, 4, HEIGHT, WIDTH), np.float16)
    mean[:, 0], mean[:, 1] = np.arange(frames)[:, None, None], number
    mean[:, 2], mean[:, 3] = np.arange(HEIGHT)[:, None] / 8, np.arange(WIDTH) / 4
    return mean


def make_latent_store(
    root: Path, rows: Sequence[Row] | None = None, std: float = 0.25, statistics: Statistics | None = STATISTICS
) -> Store:
    """Write a latent store with ``posterior_mean`` for each row, and the same ``std`` for all values."""
    rows = study() if rows is None else rows
    dataset = Dataset(kind="latent", channels=4, layout="F,C,H,W", fidelity="float16", encoder=ENCODER)
    with StoreWriter(root, dataset) as writer:
        for number, entry in enumerate(rows):
            path, mean = writer.scratch_path(entry["FileName"]), posterior_mean(number, entry["NumberOfFrames"])
            write_latents(path, mean, np.full_like(mean, std))
            writer.commit(entry, path)
        return writer.finish([entry["FileName"] for entry in rows], statistics)
