"""``stage=anonymise``: write an anonymized version of each real image, as a baseline for synthetic images."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytorch_lightning as pl

from echodream import validation
from echodream.anonymization.anonymizer import Anonymizer, RecordingBatches
from echodream.anonymization.image_pairs import ORIGINAL_FRAMES, select_images
from echodream.anonymization.methods import create_method
from echodream.callbacks.store_writer import StoreWriterCallback
from echodream.config.stage_signature import InputPath, OutputPath
from echodream.diffusion.model import load_diffusion_model
from echodream.errors import UserError
from echodream.filtering.copy_generation import CopyGenerator
from echodream.runs.predict import PredictionData, run_prediction
from echodream.runs.summary import Summary
from echodream.runs.trainer import choose_precision
from echodream.sampling.sample_store import check_precision, sampling_config, sampling_record, write_sample
from echodream.store import open_complete

PRIVACY_NOTE = (
    "versions of patients' images, paired with them by FileName and PatientID: as private as the originals; nothing of "
    "it is for sharing as it is"
)
_FRAME_COLUMNS = ("ED", "ES")
"""Columns with frame numbers of the original recording. A store of anonymized frames lacks these columns."""


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

    ``methods`` has the settings of each ``method``. Methods that sample with the LIDM ``generator`` use ``seed``,
    ``steps`` and ``guidance``. Raises ``UserError`` for models that were trained on other latents.
    """
    transform = create_method(method, methods)
    trainer = choose_precision(trainer, "32-true")
    precision = check_precision(trainer)
    store = open_complete(src, "src")
    if store.dataset.kind != "latent":
        raise UserError(f"src={src} holds {store.dataset.kind}s, but latents are needed: run stage=encode first")
    images = select_images(store, None, frames, "src")
    recordings = images.recordings
    validation.whole_number("batch", batch)
    settings: dict[str, Any] = {"source": store.checksum, "private": PRIVACY_NOTE, "precision": precision}
    settings |= {"method": method, "frames": frames, **transform.settings()}
    if transform.needs_generator:
        model = load_diffusion_model(generator, "lidm")
        autoguidance = guidance["auto"]
        if not isinstance(autoguidance, Mapping) or autoguidance["artifact"] is not None or autoguidance["scale"] != 1:
            raise UserError(f"guidance.auto={autoguidance} is not possible in stage=anonymise: leave it out")
        config = sampling_config(model, seed, steps, None, None, guidance)
        transform.check_generator(model, recordings)
        settings |= sampling_record(config, model, None)
        copy_generator = CopyGenerator(recordings, autoencoder, model, config.guidance, config.steps, config.seed)
    else:
        copy_generator = CopyGenerator(recordings, autoencoder)
    dataset = replace(store.dataset, fidelity="float16", statistics=None, settings=settings)
    dataset = replace(dataset, command=command, code_version=code_version)
    original_frames = dict(zip(recordings.names, images.frame.reshape(-1, frames), strict=True))
    rows = store.rows()
    for name, row in rows.items():
        cells = {column: cell for column, cell in row.items() if column not in _FRAME_COLUMNS}
        rows[name] = {**cells, ORIGINAL_FRAMES: " ".join(map(str, original_frames[name]))}
    writer = StoreWriterCallback(dst, dataset, rows, write_sample, lambda folder, names: store.dataset.statistics)
    data = PredictionData(lambda: RecordingBatches(recordings, frames, batch, writer.done), 0)
    run_prediction(trainer, Anonymizer(copy_generator, transform, frames), data, writer)
    fields = ", ".join(f"{name} {value}" for name, value in transform.settings().items())
    facts = {**images.sizes(), "method": f"{method} ({fields})", "private": PRIVACY_NOTE}
    return Summary(f"anonymise: {dst} {writer.state}", facts)
