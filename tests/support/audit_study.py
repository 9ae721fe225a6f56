"""Data for audit tests: distinguishable patients, samples with or without copies, generators with or without memory."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import Tensor

from echodream import engine
from echodream.artifact import Artifact, write_artifact
from echodream.config.paths import CONF_DIR
from echodream.diffusion.model import DiffusionModel
from echodream.diffusion.processes.ddpm import DDPM
from echodream.networks.siamese import IdentityEncoder, InputSpec, Siamese
from echodream.store import Dataset, Statistics, Store, StoreWriter
from echodream.store.latents import write_latents
from echodream.weights import fingerprint
from tests.support.tiny_diffusion import STATISTICS, C, H, W
from tests.support.tiny_vae import tiny_autoencoder
from tests.support.tiny_vae import write_vae_artifact as vae_artifact

MEAN, STD = np.reshape(STATISTICS.mean, (C, 1, 1)), np.reshape(STATISTICS.std, (C, 1, 1))
ENCODER = fingerprint(tiny_autoencoder())
TRAIN, HELD = 30, 24
"""Number of patients in TRAIN, and number of patients in VAL and TEST together."""


def person(number: int) -> np.ndarray:
    """The pattern that all frames of a patient share, whitened: (C, H, W)."""
    found: np.ndarray = np.random.default_rng([7, number]).normal(size=(C, H, W))
    return found


def heart(number: int, frames: int, recording: int = 0) -> np.ndarray:
    """Whitened frames of a patient, (F, C, H, W): the pattern of the patient, a small periodic change, and noise."""
    rng = np.random.default_rng([8, number, recording])
    beat = 0.2 * np.sin(np.arange(frames) * 0.9 + recording)[:, None, None, None] * np.roll(person(number), 1, axis=2)
    found: np.ndarray = person(number) + beat + 0.1 * rng.normal(size=(frames, C, H, W))
    return found


def write(
    root: Path, rows: Mapping[str, tuple[np.ndarray, dict[str, Any]]], synthetic: bool = False, **facts: Any
) -> Store:
    """Write a latent store. ``rows``: name -> (whitened frames (F, C, H, W), columns of the table)."""
    given = {"kind": "latent", "channels": C, "height": H, "width": W, "layout": "F,C,H,W", "fidelity": "float16"}
    dataset = Dataset(**{**given, "encoder": ENCODER, "synthetic": synthetic, **facts})
    with StoreWriter(root, dataset) as writer:
        for name, (frames, columns) in rows.items():
            write_latents(writer.scratch_path(name), frames * STD + MEAN, np.full(frames.shape, 0.01))
            row = {"FileName": name, "Split": "TRAIN", "NumberOfFrames": len(frames), "FPS": 25.0}
            row |= {"FrameHeight": H, "FrameWidth": W, **columns}
            writer.commit(row, writer.scratch_path(name))
        return writer.finish(list(rows), Statistics(STATISTICS.mean, STATISTICS.std))


def study(root: Path, train: int = TRAIN, held: int = HELD) -> Store:
    """Write the real patients: every third patient has two recordings, of 7 to 9 frames with one marked beat."""
    rows = {}
    for number in range(train + held):
        split = "TRAIN" if number < train else ("VAL", "TEST")[number % 2]
        for recording in range(1 + (number % 3 == 0)):
            frames = 7 + (number + recording) % 3
            columns = {"Split": split, "PatientID": f"secret{number:03}", "class_id": (0, 1, 3)[number % 3]}
            columns |= {"ED": f"1 {frames - 1}", "ES": "3"}
            rows[f"r{number:03}-{recording}"] = (heart(number, frames, recording), columns)
    return write(root, rows)


def samples(
    root: Path,
    whose: Callable[[int], int],
    count: int = 40,
    frames: int = 1,
    near: float = 0.02,
    order: int = 1,
    **facts: Any,
) -> Store:
    """Write a synthetic store: sample k has the frames of patient number ``whose(k)`` plus little noise."""
    rows = {}
    for number in range(count)[::order]:
        rng = np.random.default_rng([9, number])
        shown = heart(whose(number), 9)[[1, 3, 8]] if frames == 3 else heart(whose(number), frames)
        columns = {"PatientID": f"S{number:06}", "class_id": (0, 1, 3)[number % 3], "Seed": 0}
        rows[f"s{number:03}"] = (shown + near * rng.normal(size=shown.shape), columns)
    return write(root, rows, synthetic=True, **{"settings": {"model": "ab" * 32}, **facts})


def copies(number: int) -> int:
    """Patient of sample ``number`` for ``samples``: a training patient."""
    return number % TRAIN


def strangers(number: int) -> int:
    """Patient of sample ``number`` for ``samples``: a person who is in no split."""
    return 1000 + number


def reid(root: Path, **sees: Any) -> Path:
    """Write an identity network with random weights, which maps similar frames to similar embeddings."""
    torch.manual_seed(3)
    settings = {"channels": C, "block": "basic", "layers": [1, 1, 1, 1], "widths": [8, 8, 8, 8], "features": 16}
    network = Siamese(**settings).eval()  # type: ignore[arg-type]
    facts = {"on": "latents", "channels": C, "height": H, "width": W, "mean": STATISTICS.mean, "std": STATISTICS.std}
    encoder = IdentityEncoder(network, InputSpec(**{**facts, "encoder": ENCODER, "similarity": "cosine", **sees}))
    write_artifact(root, Artifact("reid", "people", fingerprint(network), "0" * 64), "seed: 0\n", encoder.save)
    return root


def networks(folder: Path) -> Path:
    """Write the autoencoder and the identity network to ``folder``."""
    vae_artifact(folder / "vae", tiny_autoencoder())
    reid(folder / "reid")
    return folder


def generator(root: Path, made: DiffusionModel, name: str, view: str) -> Path:
    """Write the diffusion model ``made`` as the artifact of a training with the view class ``view``."""
    config = f"seed: 0\nview: {{_target_: echodream.datamodules.views.{view}}}\n"
    write_artifact(root, Artifact(name, "people", made.fingerprint(), "0" * 64), config, made.save)
    return root


def audit_cfg(folder: Path, *overrides: str) -> DictConfig:
    """``sample.py stage=audit`` of ``folder``/samples, without a generator and without the picture of samples."""
    fixed = ["stage=audit", f"src={folder}/samples", f"real={folder}/real", f"artifact={folder}/reid", "notes=null"]
    fixed += [f"autoencoder={folder}/vae", "generator=null", f"dst={folder}/audit", "pairs=0", "+data.name=x"]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("sample", [*fixed, *overrides])


def audit(folder: Path, *overrides: str) -> str:
    """Run the audit of ``audit_cfg``; returns the printed summary."""
    return str(engine.sample(audit_cfg(folder, *overrides)))


class Restorer:
    """Replaces ``DiffusionModel.forward`` by a network that has memorized ``frames``, (M, C, H, W), whitened.

    The predicted x_0 of a frame is the nearest of ``frames``. With ``frames=None``, the prediction is optimal for
    standard normal data, so no patient is restored better than another. ``shown`` and ``told`` record the inputs.
    """

    def __init__(self, frames: Tensor | None) -> None:
        self.frames, self.shown = frames, list[tuple[Tensor, Tensor]]()
        self.told = list[Mapping[str, Tensor]]()

    def __call__(self, own: DiffusionModel, x_t: Tensor, t: Tensor, values: Any, keep: Mapping[str, Tensor]) -> Tensor:
        assert isinstance(own.process, DDPM)
        assert all(kept.all() for kept in keep.values())
        self.shown.append((x_t, t))
        self.told.append(values)
        share = own.process.alphas_cumprod.double()[t].view(-1, *[1] * (x_t.ndim - 1))
        a, s = share.sqrt(), (1 - share).sqrt()
        x = x_t.double()
        x_0 = a * x if self.frames is None else self._nearest(x / a)
        return (a * (x - a * x_0) / s - s * x_0).to(x_t.dtype)

    def _nearest(self, x: Tensor) -> Tensor:
        assert self.frames is not None
        frames = x.transpose(1, 2).flatten(0, 1) if x.ndim == 5 else x.unflatten(1, (-1, C)).flatten(0, 1)
        known = self.frames.double()
        found = known[torch.cdist(frames.flatten(1), known.flatten(1)).argmin(dim=1)].unflatten(0, (len(x), -1))
        return found.transpose(1, 2) if x.ndim == 5 else found.flatten(1, 2)
