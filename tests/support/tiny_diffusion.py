"""Smallest diffusion models and latent stores, and configurations for training and sampling."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import Tensor, nn

from echodream.artifact import Artifact, write_artifact
from echodream.config.paths import CONF_DIR
from echodream.diffusion.conditioning.category import Category
from echodream.diffusion.conditioning.class_id import ClassId
from echodream.diffusion.conditioning.conditioner import Conditioner
from echodream.diffusion.conditioning.published_checkpoints import PublishedReference, PublishedToken
from echodream.diffusion.conditioning.reference import Reference
from echodream.diffusion.conditioning.scalar import Scalar
from echodream.diffusion.model import DiffusionModel, ModelMetadata
from echodream.diffusion.processes.base import Process
from echodream.diffusion.processes.ddpm import DDPM
from echodream.networks.denoisers.unet import build_unet
from echodream.store import Dataset, Statistics, Store, StoreWriter
from echodream.store.latents import write_latents

C, H, W, WINDOW = 3, 4, 6, 8
ENCODER = "cd" * 32
STATISTICS = Statistics((1.0, -2.0, 0.5), (2.0, 0.5, 4.0))
SPLITS = ("TRAIN", "TRAIN", "TRAIN", "VAL", "TEST", "TRAIN", "TRAIN", "VAL")
LENGTHS = (9, 12, 5, 10, 11, 8, 14, 6)
"""Number of frames of each recording; one recording is shorter than a window."""
NAMES = {0: "sick", 1: "well", 3: "other"}
CLASSES = (0, 1, 3, 0, 1, 0, 1, 3)
IMAGE_NET = {"video": False, "widths": [8], "layers": 1, "attention": ["cross"], "heads": 2, "groups": 4}
VIDEO_NET = {"video": True, "widths": [32], "layers": 1, "attention": ["cross"], "heads": 2}


def latents_of(number: int, frames: int) -> np.ndarray:
    """float16 (F, C, H, W): a periodic pattern that differs between frames, channels and recordings."""
    rng = np.random.default_rng(number)
    beat = np.sin(np.arange(frames) * 0.8 + number)[:, None, None, None]
    found = rng.normal(size=(1, C, H, W)) + beat * rng.normal(size=(1, C, H, W))
    return (found * np.reshape(STATISTICS.std, (C, 1, 1)) + np.reshape(STATISTICS.mean, (C, 1, 1))).astype(np.float16)


def latent_store(
    root: Path,
    lengths: Sequence[int] = LENGTHS,
    encoder: str = ENCODER,
    synthetic: bool = False,
    settings: Mapping[str, Any] | None = None,
    **columns: Any,
) -> Store:
    """Write a latent store: recording k is of patient k; columns are Split, class_id, class_name, EF, View, ED, ES."""
    dataset = Dataset(
        kind="latent",
        channels=C,
        height=H,
        width=W,
        layout="F,C,H,W",
        fidelity="float16",
        encoder=encoder,
        synthetic=synthetic,
        settings=dict(settings or {}),
    )
    names = [f"r{number}" for number in range(len(lengths))]
    with StoreWriter(root, dataset) as writer:
        for number, frames in enumerate(lengths):
            mean = latents_of(number, frames)
            write_latents(writer.scratch_path(names[number]), mean, np.full_like(mean, 0.125))
            class_id = CLASSES[number % len(CLASSES)]
            row = {
                "FileName": names[number],
                "Split": SPLITS[number % len(SPLITS)],
                "PatientID": f"secret{number}",
                "NumberOfFrames": frames,
                "FPS": 25.0,
                "FrameHeight": H,
                "FrameWidth": W,
                "class_id": class_id,
                "class_name": NAMES[class_id],
                "EF": 40.0 + 3 * number,
                "View": ("A4C", "A2C")[number % 2],
                "ED": f"0 {frames - 1}",
                "ES": "2",
            }
            row |= {name: values[number] for name, values in columns.items()}
            writer.commit(
                {key: value for key, value in row.items() if value is not None}, writer.scratch_path(names[number])
            )
        return writer.finish(names, STATISTICS)


def conditioner(names: Sequence[str], width: int = 8) -> Conditioner:
    """Conditioner fitted to the classes 0, 1 and 3, EF from 40 to 61 percent, and two views."""
    builders: dict[str, Any] = {
        "reference": Reference,
        "class_id": ClassId,
        "EF": lambda: Scalar("EF"),
        "view": lambda: Category("View"),
    }
    fitted = Conditioner({name: builders[name]() for name in names}, width)
    ids = [0, 1, 3]
    rows = {
        "class_id": ids,
        "class_name": [NAMES[i] for i in ids],
        "EF": [40.0, 61.0, 50.0],
        "View": ["A2C", "A4C", ""],
    }
    fitted.fit(pd.DataFrame(rows), C)
    return fitted


def model(
    kind: str,
    conditions: Sequence[str] = ("class_id",),
    process: Process | None = None,
    seed: int = 0,
    frames: int | None = None,
    width: int = 8,
    **metadata: Any,
) -> DiffusionModel:
    """A ``lidm`` or ``lvdm`` with random nonzero parameters; the clips of a ``lvdm`` have ``WINDOW`` frames."""
    torch.manual_seed(seed)
    conditioning = conditioner(conditions, width)
    frames = frames or (WINDOW if kind == "lvdm" else 1)
    inputs = {"extra_channels": conditioning.extra_channels, "token_width": conditioning.width}
    network: Any = (
        build_unet(C, **inputs, **VIDEO_NET)  # type: ignore[arg-type]
        if kind == "lvdm"
        else build_unet(C * frames, **inputs, **IMAGE_NET)  # type: ignore[arg-type]
    )
    made = DiffusionModel(
        network,
        conditioning,
        process or DDPM(),
        ModelMetadata(C, H, W, frames, 25.0, STATISTICS, **{"encoder": ENCODER, **metadata}),
    )
    for part, std in ((network, 0.15), (conditioning, 3.0)):  # large weights give conditions a visible effect
        for parameter in part.parameters():
            nn.init.normal_(parameter, std=std)
    return made.requires_grad_(False).eval()


def published() -> DiffusionModel:
    """A random lvdm with the conditions of the published code."""
    conditioning = Conditioner({"class_id": PublishedToken("class_id"), "reference": PublishedReference()}, 64)
    conditioning.fit(pd.DataFrame({"class_id": [0, 1, 3]}), C)
    torch.manual_seed(0)
    network = build_unet(C, extra_channels=C, token_width=1, **VIDEO_NET)  # type: ignore[arg-type]
    metadata = ModelMetadata(C, H, W, WINDOW, 25.0, STATISTICS, ENCODER)
    return DiffusionModel(network, conditioning, DDPM(), metadata).requires_grad_(False).eval()


def artifact(root: Path, made: DiffusionModel, name: str) -> Path:
    """Write ``made`` as an artifact, as training does."""
    write_artifact(root, Artifact(name, "blobs", made.fingerprint(), "0" * 64), "seed: 0\n", made.save)
    return root


def small_net(kind: str) -> list[str]:
    """Overrides for the smallest network."""
    net = VIDEO_NET if kind == "lvdm" else IMAGE_NET
    return [f"denoiser.{key}={value}".replace(" ", "").replace("'", "") for key, value in net.items()]


def train_cfg(folder: Path, kind: str, *overrides: str, net: bool = True) -> DictConfig:
    """``train.py model=<kind>`` on the store at ``folder``/latents, two epochs of three batches.

    With ``net``, the smallest network is configured.
    """
    fixed = [
        f"model={kind}",
        "preset=tiny",
        f"src={folder}/latents",
        f"dst={folder}/{kind}",
        f"work={folder}/runs",
        f"model.vae={folder}/vae",
        f"callbacks.pictures.folder={folder}/pictures",
        "callbacks.pictures.steps=2",
        f"logger.csv.save_dir={folder}/logs",
        "+data.name=blobs",
        *(small_net(kind) if net else []),
        "model.width=8",
        "model.warmup=1",
        "model.lr=0.001",
        "datamodule.workers=0",
        "datamodule.batch_size=4",
        "trainer.max_epochs=2",
        "trainer.limit_train_batches=3",
        "trainer.accelerator=cpu",
        "trainer.log_every_n_steps=1",
        *([f"view.frames={WINDOW}", "view.per_recording=2"] if kind == "lvdm" else []),
    ]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("train", [*fixed, *overrides])


def sample_cfg(folder: Path, stage: str, *overrides: str) -> DictConfig:
    """``sample.py stage=image`` to ``folder``/images, ``stage=video`` from there to ``folder``/videos."""
    kind, src, dst = {"image": ("lidm", None, "images"), "video": ("lvdm", "images", "videos")}[stage]
    fixed = [
        f"stage={stage}",
        f"dst={folder}/{dst}",
        f"artifact={folder}/{kind}",
        "workers=0",
        "steps=3",
        "+data.name=x",
        "notes=null",
    ]
    fixed += [f"src={folder}/{src}", "frames=8"] if src else ["n=5", f"training={folder}/latents"]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("sample", [*fixed, "trainer.accelerator=cpu", *overrides])


class Gaussian:
    """Replaces ``DiffusionModel.forward`` by the exact prediction for whitened Gaussian data with ``mean`` and ``std``.

    ``mean(x_t, values, keep)`` is broadcast to x_t. ``rows`` records the batch size of each call.
    """

    def __init__(self, mean: Any, std: float) -> None:
        self.mean, self.std, self.rows = mean, std, list[int]()

    def __call__(
        self, own: DiffusionModel, x_t: Tensor, t: Tensor, values: Mapping[str, Tensor], keep: Mapping[str, Tensor]
    ) -> Tensor:
        self.rows.append(len(x_t))
        level = t.view(-1, *[1] * (x_t.ndim - 1)).double()
        if isinstance(own.process, DDPM):
            share = own.process.alphas_cumprod.double()[level.long()]
            a, s = share.sqrt(), (1 - share).sqrt()
        else:
            s = level / 1000
            a = 1 - s
        x, mean = x_t.double(), torch.as_tensor(self.mean(x_t, values, keep)).double()
        x_0 = mean + a * self.std**2 * (x - a * mean) / (a**2 * self.std**2 + s**2)
        noise = (x - a * x_0) / s
        return (a * noise - s * x_0 if isinstance(own.process, DDPM) else noise - x_0).to(x_t.dtype)
