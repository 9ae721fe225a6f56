"""A latent store of distinguishable patients, for tests of re-identification."""

from pathlib import Path

import numpy as np

from echodream.store import Dataset, Statistics, Store, StoreWriter
from echodream.store.latents import write_latents

C, H, W = 3, 5, 7
STATISTICS = Statistics((1.0, -2.0, 3.0), (2.0, 0.25, 4.0))
SPLITS = ("TRAIN", "TRAIN", "TRAIN", "VAL", "TEST")


def latent_store(root: Path, encoder: str = "ab" * 32) -> Store:
    """Twenty patients with two recordings each; frames are a pattern of the patient plus noise."""
    dataset = Dataset(kind="latent", channels=C, layout="F,C,H,W", fidelity="float16", encoder=encoder)
    mean, std = (np.reshape(values, (C, 1, 1)) for values in (STATISTICS.mean, STATISTICS.std))
    names = [f"r{number:02}" for number in range(40)]
    with StoreWriter(root, dataset) as writer:
        for number, name in enumerate(names):
            rng, own = np.random.default_rng(100 + number), np.random.default_rng(number // 2)
            frames = 4 + number % 3
            x = own.normal(size=(C, H, W)) + 0.3 * rng.normal(size=(frames, C, H, W))
            path = writer.scratch_path(name)
            write_latents(path, x * std + mean, np.full(x.shape, 0.01))
            row = {"FileName": name, "Split": SPLITS[number // 2 % 5], "PatientID": f"p{number // 2}"}
            row |= {"NumberOfFrames": frames, "FPS": 32.0, "FrameHeight": H, "FrameWidth": W}
            writer.commit(row, path)
        return writer.finish(names, STATISTICS)
