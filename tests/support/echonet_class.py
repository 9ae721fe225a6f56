"""A stand-in for the dataset class of EchoNet-Dynamic, written from a description of its input files."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

TRACED = "FileName,X1,Y1,X2,Y2,Frame"


@dataclass(frozen=True)
class Item:
    """A recording: file name, targets, index of end systole (first traced frame) and end diastole (last one)."""

    file: str
    targets: dict[str, object]
    small: int
    large: int
    lines: dict[int, int]
    """Index of a traced frame -> number of lines in the tracing."""


def items(root: Path, split: str) -> Iterator[Item]:
    """The recordings of ``split`` that the class keeps.

    The class reads FileList.csv by pandas without types, keeps names without suffix, adds .avi, requires every video
    and the header of VolumeTracings.csv, and leaves out videos with fewer than two traced frames.
    """
    with (root / "FileList.csv").open() as file:
        table = pd.read_csv(file)
    table = table[table["Split"] == split.upper()] if split != "all" else table
    names = table["FileName"].tolist()
    files = [f"{name}.avi" for name in names if not os.path.splitext(name)[1]]  # noqa: PTH122 - as the class has it
    missing = set(files) - {path.name for path in (root / "Videos").iterdir()}
    if missing:
        raise FileNotFoundError(min(missing))
    lines = (root / "VolumeTracings.csv").read_text().splitlines()
    assert lines[0].strip() == TRACED
    traced: dict[str, dict[int, int]] = {}
    for line in lines[1:]:
        name, *corners, frame = line.strip().split(",")
        assert len([float(corner) for corner in corners]) == 4
        frames = traced.setdefault(name, {})
        frames[int(frame)] = frames.get(int(frame), 0) + 1
    for file_name, targets in zip(files, table.to_dict("records"), strict=False):
        frames = traced.get(file_name, {})
        if len(frames) >= 2:
            yield Item(
                file_name, {str(key): cell for key, cell in targets.items()}, next(iter(frames)), [*frames][-1], frames
            )


def video(path: Path) -> np.ndarray:
    """Pixels, uint8 (3, F, H, W), decoded by OpenCV; the number of frames is read from the container."""
    import cv2

    capture = cv2.VideoCapture(str(path))
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    frames = [capture.read() for _ in range(count)]
    assert all(read for read, _ in frames)
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) for _, frame in frames]).transpose(3, 0, 1, 2)


def target(item: Item, name: str) -> float:
    """The target ``name`` as the class converts it: float32."""
    value = float(np.float32(item.targets[name]))  # type: ignore[arg-type]
    return math.nan if math.isnan(value) else value
