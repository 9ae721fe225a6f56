"""``stage=decode``: decode a Store of latents with the VAE, and write a Store of videos."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from torch import Tensor

from echodream.callbacks.store_writer import StoreWriterCallback
from echodream.config.stage_signature import InputPath, OutputPath
from echodream.datamodules.frame_budget_batches import FrameBudgetBatches
from echodream.modules.vae import VaeDecoder, load_vae
from echodream.networks.autoencoder import downsampling_factor
from echodream.runs.predict import PredictionData, run_prediction
from echodream.runs.summary import Summary
from echodream.runs.trainer import trainer_precision
from echodream.store import Dataset, Store
from echodream.store.video import write_video
from echodream.weights import fingerprint


def decode(
    *,
    src: InputPath,
    dst: OutputPath,
    artifact: InputPath,
    reference: InputPath | None,
    grey: bool,
    budget: int,
    workers: int,
    trainer: Callable[..., pl.Trainer],
    command: str,
    code_version: str,
) -> Summary:
    """Decode the posterior means of the latent store ``src`` with the VAE at ``artifact``, ``budget`` frames per batch.

    Writes gray videos if ``grey``, else videos with the channels of the VAE. If the video store ``reference`` exists
    and ``dst`` is new, the summary has the PSNR between recordings of ``dst`` and ``reference`` with the same name.
    """
    network = load_vae(artifact)
    store, scale = Store(src, kind="latent", encoder=fingerprint(network)), downsampling_factor(network)
    height, width, precision = store.dataset.height, store.dataset.width, trainer_precision(trainer)
    dataset = Dataset(
        kind="video",
        channels=1 if grey else network.config.out_channels,
        height=height and height * scale,
        width=width and width * scale,
        synthetic=store.dataset.synthetic,
        settings={"source": store.checksum, "decoder": fingerprint(network), "precision": precision},
        command=command,
        code_version=code_version,
    )
    rows = store.rows()

    def save_video(path: Path, pixels: Tensor) -> dict[str, Any]:
        write_video(path, pixels.numpy(), float(rows[path.stem]["FPS"]))
        return {"FrameHeight": pixels.shape[1], "FrameWidth": pixels.shape[2]}

    writer = StoreWriterCallback(dst, dataset, rows, save_video)
    module = VaeDecoder(network, budget, grey and network.config.out_channels > 1)
    data = PredictionData(lambda: FrameBudgetBatches(store, budget, writer.done), workers)
    run_prediction(trainer, module, data, writer, [network])
    facts: dict[str, object] = {"recordings": len(rows), "frames": int(store.table["NumberOfFrames"].sum())}
    if not writer.already_complete and reference is not None and (Path(reference) / "dataset.json").is_file():
        facts["PSNR to source"] = _mean_psnr(Store(dst), Store(reference, kind="video"))
    return Summary(f"decode: {dst} {writer.state}", facts)


def _mean_psnr(decoded: Store, source: Store) -> str:
    """Mean PSNR in dB of the recordings that have the same name and size in both stores."""
    source_names, values = set(source.table["FileName"]), []
    for name in (name for name in decoded.table["FileName"] if name in source_names):
        frames, source_frames = (store.frames(name).astype(np.float32).mean(axis=-1) for store in (decoded, source))
        if frames.shape == source_frames.shape:
            error = np.mean((frames - source_frames) ** 2)
            values.append(10 * np.log10(255**2 / max(error, 1e-4)))
    return f"{np.mean(values):.2f} dB over {len(values)} recordings" if values else "no recording in common"
