"""``stage=encode``: a Store of videos becomes a Store of latents."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from echodream.artifact import read_artifact
from echodream.callbacks.store_writer import WriteStore
from echodream.datamodules.packs import PackData
from echodream.errors import UserError
from echodream.modules.vae import Encoder
from echodream.networks.autoencoder import check_frames, factor, load_folder
from echodream.stages.summary import Summary
from echodream.store import Dataset, Statistics, Store
from echodream.store.latents import read_latents, write_latents
from echodream.store.schema import CHECKSUMS
from echodream.store.verify import digest
from echodream.trainers import make_trainer
from echodream.weights import fingerprint


def encode(
    *,
    src: str,
    dst: str,
    vae: str,
    budget: int,
    workers: int,
    trainer: Callable[..., pl.Trainer],
    command: str,
    code_version: str,
) -> Summary:
    """Encode every frame of the video store ``src`` with the artifact ``vae``, ``budget`` frames at a time.

    Stores the posterior's unscaled mean and std in float16, and their statistics over the TRAIN patients.
    """
    store, network = Store(src, kind="video"), load_vae(vae)
    scale = factor(network)
    check_frames(store, network.config.in_channels, scale)
    names = store.table["FileName"].tolist()
    sizes = (store.dataset.height, store.dataset.width)
    dataset = Dataset(
        kind="latent",
        layout="F,C,H,W",
        channels=network.config.latent_channels,
        height=sizes[0] and sizes[0] // scale,
        width=sizes[1] and sizes[1] // scale,
        fidelity="float16",
        encoder=fingerprint(network),
        synthetic=store.dataset.synthetic,
        settings={"source": digest(store.root / CHECKSUMS)},
        command=command,
        code_version=code_version,
    )
    train = set(store.table.loc[store.table["Split"] == "TRAIN", "FileName"])
    writing = WriteStore(dst, dataset, rows_of(store), _save, lambda folder, all_: _statistics(folder, all_, train))
    run_prediction(trainer, Encoder(network, budget), store, writing, budget, workers)
    return Summary(
        f"encode: {dst} done" if set(names) - writing.done else f"encode: {dst} already complete, nothing to do",
        {"recordings": len(names), "frames": int(store.table["NumberOfFrames"].sum()), "encoder": dataset.encoder},
    )


def load_vae(folder: str) -> Any:
    """The network of the VAE artifact at ``folder``. Raises ``UserError`` when its weights are not the trained ones."""
    artifact, network = read_artifact(folder, "vae"), load_folder(folder)
    if fingerprint(network) != artifact.fingerprint:
        raise UserError(f"{folder}: the weights have changed since training: train the vae again")
    return network.requires_grad_(False).to(memory_format=torch.channels_last)


def rows_of(store: Store) -> dict[str, dict[str, Any]]:
    """FileList.csv as a row for each name, without empty cells."""
    records = store.table.to_dict("records")
    return {row["FileName"]: {str(key): value for key, value in row.items() if value not in ("", None)} for row in records}


def run_prediction(
    trainer: Callable[..., pl.Trainer],
    module: pl.LightningModule,
    store: Store,
    writing: WriteStore,
    budget: int,
    workers: int,
) -> None:
    """Send ``store`` through ``module`` on the devices of ``trainer``, each prediction written as it comes."""
    data = PackData(store, budget, workers, writing.done)
    made = make_trainer(trainer, [writing], logger=False, enable_checkpointing=False)
    made.predict(module.eval(), data, return_predictions=False)


def _save(path: Path, posterior: tuple[Tensor, Tensor]) -> dict[str, Any]:
    mean, std = posterior
    write_latents(path, mean.numpy(), std.numpy())
    return {"FrameHeight": mean.shape[2], "FrameWidth": mean.shape[3]}


def _statistics(folder: Path, names: Sequence[str], train: set[str]) -> Statistics | None:
    """Mean and std per channel of draws from the posteriors of the TRAIN recordings; None where there are none."""
    count, total, square = 0, np.zeros(1), np.zeros(1)
    for name in names:
        if name in train:
            mean, std = (part.double().numpy() for part in read_latents(folder / f"{name}.safetensors"))
            count += mean.size // mean.shape[1]
            total = total + mean.sum(axis=(0, 2, 3))
            square = square + (mean**2 + std**2).sum(axis=(0, 2, 3))
    if not count:
        return None
    mean = total / count
    return Statistics(tuple(mean), tuple(np.sqrt(np.maximum(square / count - mean**2, 1e-12))))
