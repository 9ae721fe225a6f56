"""Simulated hearts of two dark discs with known end diastoles and end systoles."""

from pathlib import Path
from typing import Any

import numpy as np

from echodream.phantom.render import render_labels
from echodream.phantom.scene import Scene
from echodream.store import Dataset, Store, StoreWriter
from echodream.store.video import write_video

SYSTOLE = 0.36
"""Share of the beat from end diastole to end systole."""


def contraction(phase: np.ndarray) -> np.ndarray:
    """0 at end diastole (phase 0), 1 at end systole; filling has an early and a late wave."""
    phase = phase % 1.0
    down = 0.5 - 0.5 * np.cos(np.pi * np.clip(phase / SYSTOLE, 0, 1))
    early = 0.5 + 0.5 * np.cos(np.pi * np.clip((phase - SYSTOLE - 0.04) / 0.22, 0, 1))
    late = 0.5 + 0.5 * np.cos(np.pi * np.clip((phase - 0.85) / 0.15, 0, 1))
    filled: np.ndarray = 0.4 * late + 0.6 * early
    return np.where(phase < SYSTOLE, down, filled)


def heart(
    frames: int, beat: float, start: float = 0.3, atrium: float = 0.05, slide: float = 0.0, seed: int = 0
) -> np.ndarray:
    """uint8 (F, H, W): a ventricle near the probe, and below it an atrium that grows by ``atrium`` during systole.

    ``beat`` is in frames, ``start`` the phase of the first frame, ``slide`` how far the probe slides, in pixels.
    """
    rng = np.random.default_rng(seed)
    height, width = 56, 48
    c = contraction(start + np.arange(frames) / beat)[:, None, None]
    y, x = np.mgrid[:height, :width].astype(float)
    x = x[None] - slide * np.arange(frames)[:, None, None] / frames
    ventricle = np.hypot((y - 17) / 1.3, x - 22) - 10 * (1 - 0.25 * c)
    atria = np.hypot(y - 43, x - 22) - 9 * (1 + atrium * c)
    tissue = 120 * np.clip(np.minimum(ventricle, atria) / 2 + 0.5, 0, 1)
    speckle = rng.rayleigh(1.0, (height, width)) * 0.5 + 0.4
    noise = rng.normal(0, 6, tissue.shape)
    lit: np.ndarray = np.clip(20 + tissue * speckle + noise, 0, 255).astype(np.uint8)
    return lit


def truth(frames: int, beat: float, start: float = 0.3) -> tuple[list[int], list[int]]:
    """Frame indices of ED and ES in ``heart`` with the same settings."""
    beats = np.arange(-1, int(frames / beat) + 3)
    found = [(beats + phase - start) * beat for phase in (0.0, SYSTOLE)]
    ed, es = ([int(np.floor(at + 0.5)) for at in kind if 0 <= at <= frames - 1] for kind in found)
    return ed, es


def heart_store(root: Path, clips: dict[str, np.ndarray], fps: float = 30.0, **columns: Any) -> Store:
    """A video store of ``clips``; each is a patient of the split TRAIN."""
    dataset = Dataset(kind="video", channels=1, height=56, width=48, settings={"source": "5" * 64})
    with StoreWriter(root, dataset) as writer:
        for number, (name, frames) in enumerate(clips.items()):
            path = writer.scratch_path(name)
            write_video(path, frames[..., None], fps)
            row = {"FileName": name, "Split": "TRAIN", "PatientID": f"p{number}", "NumberOfFrames": len(frames)}
            row |= {"FPS": fps, "FrameHeight": frames.shape[1], "FrameWidth": frames.shape[2]}
            writer.commit({**row, **{column: values[number] for column, values in columns.items()}}, path)
        return writer.finish(list(clips))


def label_areas(scene: Scene) -> np.ndarray:
    """Area of each label in each rendered frame in cm2, (F, 6), with foreshortening."""
    labels = render_labels(scene).reshape(scene.frame_count, -1)
    counts = np.stack([np.bincount(frame, minlength=6) for frame in labels])
    return counts * (scene.pixel_spacing / 10.0) ** 2
