"""``stage=encode``: encode a Store of videos with the VAE, and write a Store of latents."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from echodream import validation
from echodream.callbacks.store_writer import StoreWriterCallback
from echodream.config.stage_signature import InputPath, OutputPath
from echodream.datamodules.frame_budget_batches import FrameBudgetBatches
from echodream.datamodules.normalization import PosteriorMoments
from echodream.modules.vae import VaeEncoder, load_vae
from echodream.networks.autoencoder import check_frame_size, downsampling_factor
from echodream.runs.predict import PredictionData, run_prediction
from echodream.runs.summary import Summary
from echodream.runs.trainer import choose_precision, trainer_precision
from echodream.store import Dataset, Statistics, Store
from echodream.store.latents import read_latents, write_latents
from echodream.weights import fingerprint


def encode(
    *,
    src: InputPath,
    dst: OutputPath,
    artifact: InputPath,
    scaling: float | None,
    budget: int,
    workers: int,
    trainer: Callable[..., pl.Trainer],
    command: str,
    code_version: str,
) -> Summary:
    """Encode every frame of the video store ``src`` with the VAE at ``artifact``, in batches of ``budget`` frames.

    Writes the unscaled posterior mean and std in float16 to ``dst``. The statistics in dataset.json, which normalize
    latents, are the mean and std of the TRAIN recordings, or 0 and 1 / ``scaling`` for published models.
    """
    if scaling is not None:
        validation.positive_number("scaling", scaling, note=", or null to whiten latents")
    store, network = Store(src, kind="video"), load_vae(artifact)
    trainer = choose_precision(trainer, "32-true")
    scale = downsampling_factor(network)
    check_frame_size(store, network.config.in_channels, scale)
    height, width = store.dataset.height, store.dataset.width
    settings = {"source": store.checksum, "precision": trainer_precision(trainer)}
    dataset = Dataset(
        kind="latent",
        layout="F,C,H,W",
        channels=network.config.latent_channels,
        height=height and height // scale,
        width=width and width // scale,
        fidelity="float16",
        encoder=fingerprint(network),
        synthetic=store.dataset.synthetic,
        settings=settings if scaling is None else {**settings, "scaling": scaling},
        command=command,
        code_version=code_version,
    )
    train = set(store.table.loc[store.table["Split"] == "TRAIN", "FileName"])

    def compute_statistics(folder: Path, names: Sequence[str]) -> Statistics | None:
        if scaling is not None:
            return Statistics((0.0,) * dataset.channels, (1 / scaling,) * dataset.channels)
        return latent_statistics(folder, [name for name in names if name in train])

    writer = StoreWriterCallback(dst, dataset, store.rows(), _save_posterior, compute_statistics)
    data = PredictionData(lambda: FrameBudgetBatches(store, budget, writer.done), workers)
    run_prediction(trainer, VaeEncoder(network, budget), data, writer, [network])
    frames = int(store.table["NumberOfFrames"].sum())
    facts = {"recordings": len(store), "frames": frames, "encoder": dataset.encoder}
    return Summary(f"encode: {dst} {writer.state}", facts)


def _save_posterior(path: Path, posterior: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """Write the posterior mean and std, each (F, C, H, W); returns the changed columns of FileList.csv."""
    mean, std = posterior
    write_latents(path, mean.numpy(), std.numpy())
    return {"FrameHeight": mean.shape[2], "FrameWidth": mean.shape[3]}


def latent_statistics(folder: Path, names: Sequence[str]) -> Statistics | None:
    """Mean and std per channel of posterior samples of the recordings ``names``; None if ``names`` is empty."""
    moments = PosteriorMoments()
    for name in names:
        moments.add(*read_latents(folder / f"{name}.safetensors"))
    return Statistics(tuple(moments.mean()), tuple(moments.std())) if moments.count else None
