"""A small autoencoder and stores with few recordings, and configurations for training and sampling."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from echodream.artifact import Artifact, write_artifact
from echodream.config.paths import CONF_DIR
from echodream.networks.autoencoder import build_autoencoder
from echodream.networks.decoder_noise import DecoderNoise, decoder_noise
from echodream.store import Dataset, Store, StoreWriter
from echodream.store.video import write_video
from echodream.weights import fingerprint

HEIGHT, WIDTH = 16, 24
SPLITS = ("TRAIN", "TRAIN", "TRAIN", "VAL", "TEST", "TRAIN", "VAL")


def moving_disc(frames: int, number: int, height: int = HEIGHT, width: int = WIDTH, channels: int = 1) -> np.ndarray:
    """A bright disc that moves over a ramp: uint8, (F, H, W, C)."""
    y, x = np.mgrid[:height, :width]
    centre = width / 2 + width / 4 * np.sin(np.arange(frames) * 0.7 + number)
    disc = np.hypot(y - height / 2, x[None] - centre[:, None, None]) < height / 4
    grey = np.where(disc, 200 + 5 * (number % 7), 40 + 2 * x[None] + number % 11)
    return (grey[..., None] - np.arange(channels) * 13).astype(np.uint8)


def moving_disc_store(
    root: Path, lengths: Sequence[int] = (5, 11, 3, 4, 6, 9, 7), channels: int = 1, **columns: Any
) -> Store:
    """Write a video store of ``moving_disc``; recording k is of patient k, with the split from ``SPLITS``."""
    with StoreWriter(root, Dataset(kind="video", channels=channels, height=HEIGHT, width=WIDTH)) as writer:
        for number, frames in enumerate(lengths):
            path = writer.scratch_path(f"r{number}")
            write_video(path, moving_disc(frames, number, channels=channels), 32.0)
            row = {
                "FileName": f"r{number}",
                "Split": SPLITS[number % len(SPLITS)],
                "PatientID": f"p{number}",
                "NumberOfFrames": frames,
                "FPS": 32.0,
                "FrameHeight": HEIGHT,
                "FrameWidth": WIDTH,
            }
            writer.commit({**row, **{name: values[number] for name, values in columns.items()}}, path)
        return writer.finish([f"r{number}" for number in range(len(lengths))])


def tiny_autoencoder(channels: int = 1, seed: int = 0) -> Any:
    """A random network that halves each side, (C, H, W) to (3, H / 2, W / 2)."""
    torch.manual_seed(seed)
    return build_autoencoder(channels, [8, 16], layers=1, latent=3, groups=4).eval()


def write_vae_artifact(root: Path, network: Any, model: str = "vae") -> Path:
    """Write ``network`` as an artifact, as training does."""
    facts = Artifact(model, "blobs", fingerprint(network), "0" * 64)
    write_artifact(root, facts, "seed: 0\n", network.save_pretrained)
    return root


def train_cfg(folder: Path, *overrides: str) -> DictConfig:
    """``train.py model=vae`` on the store at ``folder``/videos, two epochs of four batches."""
    fixed = [
        "model=vae",
        f"src={folder}/videos",
        f"dst={folder}/vae",
        f"work={folder}/runs",
        f"callbacks.pictures.folder={folder}/pictures",
        f"logger.csv.save_dir={folder}/logs",
        "+data.name=blobs",
        "vae.widths=[8,16]",
        "vae.layers=1",
        "vae.groups=4",
        "loss.lite0.weight=0",
        "datamodule.workers=0",
        "datamodule.batch_size=4",
        "trainer.max_epochs=2",
        "trainer.limit_train_batches=4",
        "trainer.accelerator=cpu",
        "trainer.log_every_n_steps=1",
    ]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("train", [*fixed, *overrides])


def sample_cfg(folder: Path, stage: str, *overrides: str) -> DictConfig:
    """``sample.py stage=...`` between the folders videos, latents and decoded below ``folder``."""
    ways = {"encode": ("videos", "latents"), "decode": ("latents", "decoded")}
    src, dst = ways[stage]
    fixed = [f"stage={stage}", f"src={folder}/{src}", f"dst={folder}/{dst}", f"artifact={folder}/vae"]
    fixed += ["workers=0", "notes=null"]
    fixed += [f"reference={folder}/videos"] if stage == "decode" else []
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("sample", [*fixed, "trainer.accelerator=cpu", *overrides])


def activate_noise(network: Any, *, active: bool = True) -> DecoderNoise:
    """Give the decoder noise of ``network`` random weights in the last layer, which are 0 before training."""
    noise = decoder_noise(network)
    assert noise is not None
    with torch.no_grad():
        noise.last.weight.normal_(generator=torch.Generator().manual_seed(0))
    noise.active.fill_(active)
    return noise
