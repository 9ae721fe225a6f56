"""``stage=decode``: decode a Store of latents with the VAE, and write a Store of videos."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from torch import Tensor

from echodream import validation
from echodream.callbacks.store_writer import StoreWriterCallback
from echodream.config.stage_signature import InputPath, OutputPath
from echodream.datamodules.frame_budget_batches import FrameBudgetBatches
from echodream.errors import UserError
from echodream.evaluation.feature_extraction import select_recordings
from echodream.evaluation.plausibility import EJECTION_FRACTION, TrainingRanges, shortest_duration, training_ranges
from echodream.modules.vae import VaeDecoder, load_vae
from echodream.networks.autoencoder import downsampling_factor
from echodream.runs.predict import PredictionData, run_prediction
from echodream.runs.summary import Summary
from echodream.runs.trainer import BF16_WEIGHTS, choose_precision, trainer_precision
from echodream.store import Dataset, Store
from echodream.store.schema import REJECTED, REJECTED_COLUMNS
from echodream.store.table import read_text_table
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
    plausibility: float | None,
    workers: int,
    trainer: Callable[..., pl.Trainer],
    command: str,
    code_version: str,
) -> Summary:
    """Decode the posterior means of the latent store ``src`` with the VAE at ``artifact``, ``budget`` frames per batch.

    Writes gray videos if ``grey``, else videos with the channels of the VAE. If the video store ``reference`` exists
    and ``dst`` is new, the summary has the PSNR between recordings of ``dst`` and ``reference`` with the same name.
    ``plausibility`` is the share of the TRAIN recordings of ``reference`` inside each range, such as that of the heart
    rate. Recordings outside a range are rejected and listed in rejected.csv. With None, no recording is rejected.
    """
    if plausibility is not None:
        validation.number("plausibility", plausibility, above=0, below=1)
    network, trainer = load_vae(artifact), choose_precision(trainer, BF16_WEIGHTS)
    store, scale = Store(src, kind="latent", encoder=fingerprint(network)), downsampling_factor(network)
    height, width, precision = store.dataset.height, store.dataset.width, trainer_precision(trainer)
    training_ranges = None if plausibility is None else _training_ranges(store, reference, plausibility)
    settings: dict[str, Any] = {"source": store.checksum, "decoder": fingerprint(network), "precision": precision}
    if training_ranges is not None:
        settings["plausibility"] = {"coverage": plausibility, "reference": Store(str(reference)).checksum}
    dataset = Dataset(
        kind="video",
        channels=1 if grey else network.config.out_channels,
        height=height and height * scale,
        width=width and width * scale,
        synthetic=store.dataset.synthetic,
        settings=settings,
        command=command,
        code_version=code_version,
    )
    rows = store.rows()

    def save_video(path: Path, pixels: Tensor) -> dict[str, Any]:
        fps = float(rows[path.stem]["FPS"])
        if training_ranges is not None:
            training_ranges.require_plausible(pixels.numpy().mean(axis=-1) / 127.5 - 1, fps)
        write_video(path, pixels.numpy(), fps)
        return {"FrameHeight": pixels.shape[1], "FrameWidth": pixels.shape[2]}

    writer = StoreWriterCallback(dst, dataset, rows, save_video)
    module = VaeDecoder(network, budget, grey and network.config.out_channels > 1)
    data = PredictionData(lambda: FrameBudgetBatches(store, budget, writer.done), workers)
    run_prediction(trainer, module, data, writer, [network])
    facts: dict[str, object] = {"recordings": len(rows), "frames": int(store.table["NumberOfFrames"].sum())}
    if training_ranges is not None:
        facts |= _rejection_lines(Store(dst), training_ranges)
    if not writer.already_complete and reference is not None and (Path(reference) / "dataset.json").is_file():
        facts["PSNR to source"] = _mean_psnr(Store(dst), Store(reference, kind="video"))
    if training_ranges is not None and not len(Store(dst)):
        raise UserError(
            f"{dst} is empty, because every sample is outside the training range: remove it, and decode with "
            "plausibility=null to look at the samples"
        )
    return Summary(f"decode: {dst} {writer.state}", facts)


def _training_ranges(store: Store, reference: str | None, coverage: float) -> TrainingRanges:
    """Ranges of TRAIN recordings of ``reference``, measured over the shortest duration of a recording in ``store``."""
    if not store.dataset.synthetic:
        raise UserError(f"src={store.root} is not synthetic: give plausibility=null, which rejects no recording")
    if reference is None or not Path(reference).is_dir():
        raise UserError(f"reference={reference} does not exist: plausibility= needs the videos of the study")
    train = select_recordings(Store(reference, kind="video"), f"reference={reference}", "TRAIN")
    return training_ranges(train, coverage, shortest_duration(store.table))


def _rejection_lines(store: Store, ranges: TrainingRanges) -> dict[str, object]:
    """Lines of the summary: number of rejected recordings by quantity, and the quantities without a range."""
    reasons = read_text_table(store.root / REJECTED, REJECTED_COLUMNS)["Reason"].tolist()
    counts = {name: sum(name in reason for reason in reasons) for name in ranges.ranges}
    parts = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
    facts: dict[str, object] = {"implausible": f"{len(reasons)} rejected" + (f": {parts}" if parts else "")}
    missing = {**ranges.not_computed, EJECTION_FRACTION: "it needs a regression model (stage=evaluate regressor=)"}
    return {**facts, "not computed": "; ".join(f"{name}: {reason}" for name, reason in missing.items())}


def _mean_psnr(decoded: Store, source: Store) -> str:
    """Mean PSNR in dB of the recordings that have the same name and size in both stores."""
    source_names, values = set(source.table["FileName"]), []
    for name in (name for name in decoded.table["FileName"] if name in source_names):
        frames, source_frames = (store.frames(name).astype(np.float32).mean(axis=-1) for store in (decoded, source))
        if frames.shape == source_frames.shape:
            error = np.mean((frames - source_frames) ** 2)
            values.append(10 * np.log10(255**2 / max(error, 1e-4)))
    return f"{np.mean(values):.2f} dB over {len(values)} recordings" if values else "no recording in common"
