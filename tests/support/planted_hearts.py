"""Simulated beating hearts in an ultrasound sector, and intentionally implausible hearts."""

from pathlib import Path
from typing import Any

import numpy as np

from echodream.store import Dataset, Store, StoreWriter
from echodream.store.video import write_video

HEIGHT, WIDTH, FRAMES, FPS = 40, 48, 64, 32.0
IMPLAUSIBLE: dict[str, dict[str, Any]] = {
    "frozen": {"swing": 0.0},
    "fast": {"rate": 170.0},
    "huge": {"radius": 11.5},
    "upside_down": {"upside_down": True},
    "no_sector": {"full": True},
}
"""Settings of implausible hearts, outside the range of normal simulated hearts."""
FOUND_BY = {
    "frozen": "area swing",
    "fast": "heart rate",
    "huge": "chamber area",
    "upside_down": "sector overlap",
    "no_sector": "sector area",
}
"""For each implausible heart, the measured quantity that must be out of range."""


def heart(
    seed: int,
    rate: float | None = None,
    swing: float | None = None,
    radius: float | None = None,
    upside_down: bool = False,
    full: bool = False,
    frames: int = FRAMES,
) -> np.ndarray:
    """uint8 (F, H, W): a dark disc of random rate, size and swing on speckle in a sector with its apex at the top."""
    rng = np.random.default_rng([7, seed])
    ordinary = 60 + 30 * rng.random(), 0.12 + 0.06 * rng.random(), 6.0 + 1.5 * rng.random(), 2 * np.pi * rng.random()
    given = (rate, swing, radius)
    rate, swing, radius = (usual if each is None else each for each, usual in zip(given, ordinary, strict=False))
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    opening = 0.55 + 0.05 * rng.random()
    sector = (np.abs(x - WIDTH / 2) < 3 + opening * y) & (y < HEIGHT - 3) & (y > 1)
    if full:
        sector[:] = True
    beat = radius * (1 + swing * np.cos(2 * np.pi * rate / 60 * np.arange(frames) / FPS + ordinary[3]))
    inside = np.hypot(y - 22, x - WIDTH / 2)[None] < beat[:, None, None]
    speckle = 110 + 25 * rng.standard_normal((HEIGHT, WIDTH))
    pixels = np.where(inside, 20, speckle) + 3 * rng.standard_normal((frames, HEIGHT, WIDTH))
    pixels = np.where(sector, np.clip(pixels, 12, 255), 0).astype(np.uint8)
    return pixels[:, ::-1] if upside_down else pixels


def heart_store(root: Path, hearts: dict[str, np.ndarray], splits: list[str], synthetic: bool = False) -> Store:
    """A video store with a patient for each of ``hearts``."""
    dataset = Dataset(kind="video", channels=1, height=HEIGHT, width=WIDTH, synthetic=synthetic)
    with StoreWriter(root, dataset) as writer:
        for number, (name, frames) in enumerate(hearts.items()):
            write_video(writer.scratch_path(name), np.ascontiguousarray(frames[..., None]), FPS)
            row = {"FileName": name, "Split": splits[number], "PatientID": f"{root.name}{number}", "FPS": FPS}
            row |= {"NumberOfFrames": len(frames), "FrameHeight": HEIGHT, "FrameWidth": WIDTH, "EF": 50 + number % 20}
            writer.commit(row, writer.scratch_path(name))
        return writer.finish(list(hearts))
