"""A study, samples that include copies, and networks in closed form, for tests of the privacy filter."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from echodream.artifact import Artifact, write_artifact
from echodream.config.paths import CONF_DIR
from echodream.filtering import copy_generation, embedding
from echodream.networks.siamese import IdentityEncoder, InputSpec
from echodream.store import Dataset, Statistics, Store, StoreWriter
from echodream.store.latents import write_latents

C, H, W = 3, 4, 6
ENCODER = hashlib.sha256(b"").hexdigest()
"""Fingerprint of a network without weights."""
GENERATOR = "ab" * 32
"""Fingerprint of the generator, as recorded in the samples."""
STATISTICS = Statistics((1.0, -2.0, 0.5), (2.0, 0.5, 4.0))
MEAN, STD = (np.reshape(part, (C, 1, 1)) for part in (STATISTICS.mean, STATISTICS.std))
TRAIN, TEST, VAL = 14, 5, 3
TWICE = (0, 3, 15)
"""Numbers of the patients with two recordings."""


def pattern(*seed: int) -> np.ndarray:
    """A random frame in whitened units, (C, H, W); different seeds give almost orthogonal frames."""
    return np.random.default_rng(seed).normal(size=(C, H, W))


def recording(patient: int, number: int, frames: int) -> np.ndarray:
    """float16 (F, C, H, W): the sum of a pattern of the patient, one of the recording, and one of each frame."""
    steady = pattern(1, patient) + 0.6 * pattern(2, patient, number)
    moving = np.stack([0.5 * pattern(3, patient, number, frame) for frame in range(frames)])
    return ((steady + moving) * STD + MEAN).astype(np.float16)


def recordings() -> dict[str, tuple[int, str, np.ndarray]]:
    """FileName -> (patient, split, frames). Consecutive patients have different numbers of frames."""
    found = {}
    for patient in range(TRAIN + TEST + VAL):
        split = "TRAIN" if patient < TRAIN else "TEST" if patient < TRAIN + TEST else "VAL"
        for number in range(2 if patient in TWICE else 1):
            found[f"clip-{patient:02}-{number}"] = (patient, split, recording(patient, number, 7 + patient % 3))
    return found


def study(root: Path, std: float = 0.0, marks: bool = False, **changes: Any) -> Store:
    """Write the store of ``recordings`` with the posterior std ``std``; ``marks`` adds the columns ED and ES."""
    rows = []
    for name, (patient, split, frames) in recordings().items():
        row = {"FileName": name, "Split": split, "PatientID": f"secret{patient:02}"}
        rows.append((row | ({"ED": "1 5", "ES": "3"} if marks else {}), frames))
    return store(root, rows, std, **changes)


def samples(root: Path, frames: Mapping[str, np.ndarray], order: Sequence[str] | None = None, **changes: Any) -> Store:
    """Write a store of samples of ``GENERATOR``. ``frames``: name -> (F, C, H, W); ``order``: names in row order."""
    rows = [
        ({"FileName": name, "Split": "TRAIN", "PatientID": f"S{number:06}", "Seed": 7}, frames[name])
        for number, name in enumerate(order or frames)
    ]
    return store(root, rows, 0.0, **{"synthetic": True, "settings": {"model": GENERATOR}, **changes})


def store(root: Path, rows: Sequence[tuple[Mapping[str, Any], np.ndarray]], std: float, **changes: Any) -> Store:
    """Write a latent store. ``rows``: (columns, frames) of each recording; ``std``: posterior std."""
    facts = {"layout": "F,C,H,W", "fidelity": "float16", "encoder": ENCODER, "height": H, "width": W, **changes}
    with StoreWriter(root, Dataset(kind="latent", channels=C, **facts)) as writer:
        for row, frames in rows:
            media = writer.scratch_path(row["FileName"])
            write_latents(media, frames, np.full_like(frames, std))
            size = {"NumberOfFrames": len(frames), "FPS": 25.0, "FrameHeight": H, "FrameWidth": W}
            writer.commit({**row, **size}, media)
        return writer.finish([row["FileName"] for row, _ in rows], STATISTICS)


def drawn(frames: int = 1) -> dict[str, np.ndarray]:
    """Samples by name: nine new people, and copies of three training frames that are neither first nor last frames."""
    found = {}
    for number in range(9):
        found[f"new-{number}"] = np.concatenate([recording(100 + number, 0, frames)])
    of = recordings()
    for name, frame in COPIES.values():
        source = of[name][2]
        found[f"copy-{len(found) - 9}"] = np.stack(
            [source[min(frame + place, len(source) - 1)] for place in range(frames)]
        )
    return found


COPIES = {"copy-0": ("clip-02-0", 3), "copy-1": ("clip-03-1", 4), "copy-2": ("clip-13-0", 2)}
"""Name of a copied sample -> recording and frame index at which the copy starts."""


class Pair(nn.Module):
    """An autoencoder without weights: pixels = latents / 10; the posterior has the standard deviation ``std``."""

    std = 0.0

    def decode(self, latents: Tensor) -> Any:
        return SimpleNamespace(sample=latents / 10)

    def encode(self, pixels: Tensor) -> Any:
        mean = pixels * 10
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=mean, std=torch.full_like(mean, self.std)))


class Flat(nn.Module):
    """An identity network without weights: the embedding is the flattened whitened frame."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def plant(
    patch: pytest.MonkeyPatch, folder: Path, similarity: str = "cosine", encoder: str = ENCODER, on: str = "latents"
) -> None:
    """Replace identity network and autoencoder by networks in closed form; write an empty artifact ``folder``/reid."""
    sees = InputSpec(on, C, H, W, STATISTICS.mean, STATISTICS.std, encoder, similarity)
    if not (folder / "reid").exists():
        write_artifact(folder / "reid", Artifact("reid", "x", "ef" * 32, "0" * 64), "seed: 0\n", lambda _: None)
    patch.setattr(embedding, "load_reid", lambda _: IdentityEncoder(Flat(), sees).eval())  # type: ignore[arg-type]
    for module in (copy_generation, embedding):
        patch.setattr(module, "load_frozen_autoencoder", lambda _: Pair())


def cfg(folder: Path, *overrides: str) -> DictConfig:
    """``sample.py stage=filter`` from ``folder``/images to ``folder``/private, with few patients and two controls."""
    fixed = [
        *("stage=filter", "+data.name=x", f"src={folder}/images", f"dst={folder}/private", f"real={folder}/latents"),
        *(
            f"artifact={folder}/reid",
            f"autoencoder={folder}/vae",
            f"generator={folder}/lidm",
            f"private={folder}/report",
        ),
        "device=cpu",
        "views=[]",
        "notes=null",
    ]
    if not any(override.startswith("rule=percentile") for override in overrides):
        fixed += ["rule.alpha=0.2", "rule.alpha_max=0.4", "rule.beta=0.3", "rule.delta=0.1", "rule.choose=0"]
    declared = OmegaConf.load(CONF_DIR / "controls" / "declared.yaml")
    fixed += [f"controls.{name}=null" for name in map(str, declared) if name not in ("exact", "other_frame")]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("sample", [*fixed, *overrides])


def unit(frames: np.ndarray, similarity: str = "cosine") -> np.ndarray:
    """Normalized embeddings, float64 (n, D), of stored frames, (n, C, H, W), as the stand-in identity network gives."""
    flat = ((frames.astype(np.float64) - MEAN) / STD).reshape(len(frames), -1)
    flat = flat - flat.mean(axis=1, keepdims=True) if similarity == "pearson" else flat
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)
