"""``stage=decode``: a Store of latents becomes a Store of videos."""

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
from echodream.runs.predict import PredictData, run_prediction
from echodream.runs.summary import Summary
from echodream.runs.trainer import precision
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
    """Decode the posterior means of the latent store ``src`` with the VAE at ``artifact``, ``budget`` frames at a time.

    Where the video store ``reference`` is there and holds recordings of the same name and size, the summary has the
    PSNR to them; not where the store was complete before.
    """
    network = load_vae(artifact)
    store, scale = Store(src, kind="latent", encoder=fingerprint(network)), downsampling_factor(network)
    sizes = (store.dataset.height, store.dataset.width)
    dataset = Dataset(
        kind="video",
        channels=1 if grey else network.config.out_channels,
        height=sizes[0] and sizes[0] * scale,
        width=sizes[1] and sizes[1] * scale,
        synthetic=store.dataset.synthetic,
        settings={
            "source": store.checksum,
            "decoder": fingerprint(network),
            "precision": precision(trainer),
        },
        command=command,
        code_version=code_version,
    )
    rows = store.rows()

    def save(path: Path, pixels: Tensor) -> dict[str, Any]:
        write_video(path, pixels.numpy(), float(rows[path.stem]["FPS"]))
        return {"FrameHeight": pixels.shape[1], "FrameWidth": pixels.shape[2]}

    writing = StoreWriterCallback(dst, dataset, rows, save)
    module = VaeDecoder(network, budget, grey and network.config.out_channels > 1)
    data = PredictData(lambda: FrameBudgetBatches(store, budget, writing.done), workers)
    run_prediction(trainer, module, data, writing)
    facts: dict[str, object] = {"recordings": len(rows), "frames": int(store.table["NumberOfFrames"].sum())}
    if writing.already_complete:
        return Summary(f"decode: {dst} already complete, nothing to do", facts)
    if reference is not None and (Path(reference) / "dataset.json").is_file():
        facts["PSNR to source"] = _fidelity(Store(dst), Store(reference, kind="video"))
    return Summary(f"decode: {dst} done", facts)


def _fidelity(made: Store, source: Store) -> str:
    """Mean PSNR over recordings that both stores hold, each over all its pixels."""
    known = set(source.table["FileName"])
    values = []
    for name in made.table["FileName"]:
        if name in known:
            left, right = made.frames(name).astype(np.float32), source.frames(name).astype(np.float32)
            if left.shape[:3] == right.shape[:3]:
                error = np.mean((left.mean(axis=-1) - right.mean(axis=-1)) ** 2)
                values.append(10 * np.log10(255**2 / max(error, 1e-4)))
    return f"{np.mean(values):.2f} dB over {len(values)} recordings" if values else "no recording in common"
