"""``stage=anonymise``: an anonymized version of each real image, as a baseline for synthetic images."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytorch_lightning as pl

from echodream import validation
from echodream.anonymization.anonymizer import Anonymizer, RecordingBatches
from echodream.anonymization.image_pairs import ORIGINAL_FRAMES, ImageSet, open_complete_store, select_images
from echodream.anonymization.methods import create_method
from echodream.callbacks.store_writer import StoreWriterCallback
from echodream.config.stage_signature import InputPath, OutputPath
from echodream.diffusion.model import load_diffusion_model
from echodream.errors import UserError
from echodream.filtering.copy_generation import CopyGenerator
from echodream.runs.predict import PredictData, run_prediction
from echodream.runs.summary import Summary
from echodream.sampling.sample_store import check_precision, sampling_config, sampling_settings, write_sample

PRIVATE = (
    "versions of patients' images, paired with them by FileName and PatientID: as private as the originals; nothing of "
    "it is for sharing as it is"
)
_FRAME_COLUMNS = ("ED", "ES")
"""Columns with frame indices of the original recording, which an anonymized selection of frames does not have."""


def anonymise(
    *,
    src: InputPath,
    dst: OutputPath,
    method: str,
    methods: Mapping[str, Mapping[str, Any]],
    frames: int,
    generator: InputPath,
    autoencoder: InputPath,
    seed: int,
    steps: int,
    guidance: Mapping[str, Any],
    batch: int,
    trainer: Callable[..., pl.Trainer],
    command: str,
    code_version: str,
) -> Summary:
    """Anonymize ``frames`` frames of each recording of the latent store ``src``; write the latent store ``dst``.

    ``methods`` has the settings of each ``method``. ``seed``, ``steps`` and ``guidance`` are for methods that sample
    from the LIDM ``generator``. Raises ``UserError`` for models of other latents.
    """
    transform = create_method(method, methods)
    precision = check_precision(trainer)
    store = open_complete_store(src, "src")
    if store.dataset.kind != "latent":
        raise UserError(f"src={src} holds {store.dataset.kind}s, and latents are anonymized: run stage=encode first")
    images = select_images(store, None, frames, "src")
    recordings = images.recordings
    validation.whole_number("batch", batch)
    settings: dict[str, Any] = {"source": store.checksum, "private": PRIVATE, "precision": precision}
    settings |= {"method": method, "frames": frames, **transform.settings()}
    if transform.needs_generator:
        model = load_diffusion_model(generator, "lidm")
        auto = guidance["auto"]
        if not isinstance(auto, Mapping) or auto["artifact"] is not None or auto["scale"] != 1:
            raise UserError(f"guidance.auto={auto} is not for stage=anonymise: leave it out")
        config = sampling_config(model, seed, steps, None, guidance)
        transform.check_generator(model, recordings)
        settings |= sampling_settings(config, model, None)
        copies = CopyGenerator(recordings, autoencoder, model, config.guidance, config.steps, config.seed)
    else:
        copies = CopyGenerator(recordings, autoencoder)
    origin: dict[str, Any] = {"command": command, "code_version": code_version}
    dataset = replace(store.dataset, fidelity="float16", statistics=None, settings=settings, **origin)
    rows = _table_rows(images, frames)
    writer = StoreWriterCallback(dst, dataset, rows, write_sample, lambda folder, names: store.dataset.statistics)
    data = PredictData(lambda: RecordingBatches(recordings, frames, batch, writer.done), 0)
    run_prediction(trainer, Anonymizer(copies, transform, frames), data, writer)
    values = transform.settings().items()
    amount = ", ".join(f"{k} {v:g}" if validation.is_finite(v) else f"{k} {v}" for k, v in values)
    facts = {**images.sizes(), "method": f"{method} ({amount})", "private": PRIVATE}
    return Summary(f"anonymise: {dst} {writer.state}", facts)


def _table_rows(images: ImageSet, frames: int) -> dict[str, dict[str, Any]]:
    """The original's row of FileList.csv for each recording, with the column ``OriginalFrames``."""
    indices = images.frame.reshape(-1, frames)
    original_frames = dict(zip(images.recordings.names, indices, strict=True))
    return {
        name: {key: value for key, value in row.items() if key not in _FRAME_COLUMNS}
        | {ORIGINAL_FRAMES: " ".join(map(str, original_frames[name]))}
        for name, row in images.recordings.store.rows().items()
    }
