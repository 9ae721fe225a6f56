"""``stage=anonymise``: a version of each real image that shows less of the patient, paired with it: a baseline."""

from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl

from echodream import validation
from echodream.anonymization.image_pairs import ORIGINAL_FRAMES, images, opened
from echodream.anonymization.methods import Anonymiser, Blur, Groups, Redraw
from echodream.callbacks.store_writer import StoreWriterCallback
from echodream.datamodules.recordings import Recordings, select_recordings
from echodream.diffusion.conditioning.base import texts
from echodream.diffusion.model import DiffusionModel, load_diffusion
from echodream.errors import UserError
from echodream.filtering.copy_generation import CopyGenerator
from echodream.runs.predict import PredictData, run_prediction
from echodream.runs.summary import Summary
from echodream.sampling.sample_store import checked_precision, recipe_of, save, settings_of
from echodream.sampling.sampling_module import SamplingConfig
from echodream.store import Dataset, Store
from echodream.store.schema import SPLITS

PRIVATE = (
    "versions of patients' images, paired with them by FileName and PatientID: as private as the originals; nothing of "
    "it is for sharing as it is"
)
_MARKS = ("ED", "ES")
"""Columns that number frames of the whole recording."""


def anonymise(
    *,
    src: str,
    dst: str,
    method: str,
    strength: float,
    blur: float,
    frames: int,
    generator: str,
    autoencoder: str,
    sampling: Mapping[str, Any],
    batch: int,
    trainer: Callable[..., pl.Trainer],
    command: str,
    code_version: str,
) -> Summary:
    """Anonymise ``frames`` frames of each recording of the latent store ``src``: a store of latents with its names.

    By ``method``: "redraw" noises to ``strength`` and draws from there with the LIDM ``generator``, told the
    recording's own conditions; "blur" blurs by ``blur`` pixels between decoding and encoding. ``sampling`` has "seed",
    "steps", "sampler" and "guidance". Raises ``UserError`` for models that are not of these latents.
    """
    validation.one_of("method", method, ("redraw", "blur"))
    way: Redraw | Blur = Redraw(strength) if method == "redraw" else Blur(blur)
    precision = checked_precision(trainer)
    store = opened(src, "src")
    if store.dataset.kind != "latent":
        raise UserError(f"src={src} holds {store.dataset.kind}s, and latents are anonymised: run stage=encode first")
    rows = select_recordings(store, SPLITS, "src")
    shown = images(rows, frames)
    validation.whole_number("batch", batch)
    settings: dict[str, Any] = {"source": store.checksum, "private": PRIVATE, "precision": precision}
    settings |= {"method": method, "frames": frames}
    if isinstance(way, Redraw):
        model = load_diffusion(generator, "lidm")
        recipe = _recipe(sampling, model, rows)
        if way.strength:
            _check_conditions(model, rows)
        settings |= {"strength": float(strength), **settings_of(recipe, model, None)}
        shop = CopyGenerator(rows, autoencoder, model, recipe.guidance, recipe.steps, recipe.seed)
    else:
        settings |= {"blur": float(blur)}
        shop = CopyGenerator(rows, autoencoder)
    written = _rows(store, dict(zip(rows.names, shown.place.reshape(len(rows), frames), strict=True)))
    facts = _dataset(store.dataset, settings, command, code_version)
    writing = StoreWriterCallback(dst, facts, written, save, lambda folder, names: store.dataset.statistics)
    data = PredictData(lambda: Groups(rows, frames, batch, writing.done), 0)
    run_prediction(trainer, Anonymiser(shop, way, frames), data, writing)
    state = "already complete, nothing to do" if writing.already_complete else "done"
    told = {"images": len(shown), "recordings": len(rows), "patients": rows.table["PatientID"].nunique()}
    amount = f"strength {strength:g}" if method == "redraw" else f"{blur:g} pixels"
    return Summary(f"anonymise: {dst} {state}", {**told, "method": f"{method}, {amount}", "private": PRIVATE})


def _recipe(sampling: Mapping[str, Any], model: DiffusionModel, rows: Recordings) -> SamplingConfig:
    """How to draw. Raises ``UserError`` for a weak model, and for frames of another size than the model draws."""
    auto = sampling["guidance"]["auto"]
    if not isinstance(auto, Mapping) or auto["artifact"] is not None or auto["scale"] != 1:
        raise UserError(f"guidance.auto={auto} is not for stage=anonymise: leave it out")
    facts = model.facts
    for name, height, width in rows.table[["FileName", "FrameHeight", "FrameWidth"]].itertuples(index=False):
        if (height, width) != (facts.height, facts.width):
            raise UserError(
                f"{name} of {rows.store.root} is {width}x{height}, and generator= draws {facts.width}x{facts.height}: "
                "give the one that was trained on these latents"
            )
    return recipe_of(sampling, model)


def _check_conditions(model: DiffusionModel, rows: Recordings) -> None:
    """Raise ``UserError`` where a recording's own condition is none that ``model`` was trained on, as another class."""
    for column in (name for name in model.conditioner.columns if name in rows.table):
        for cell, names in rows.table.groupby(column)["FileName"]:
            try:
                model.conditioner.request({column: [cell]}, own=True)
            except UserError as error:
                raise UserError(
                    f"{names.iloc[0]} of {rows.store.root} has {column}={texts([cell])[0]}, which generator= was not "
                    "trained on: give one whose TRAIN patients have it, or method=blur"
                ) from error


def _rows(store: Store, places: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What FileList.csv says of each, as of its original; and of which of its frames the images are."""
    found = store.rows()
    return {
        name: {key: value for key, value in row.items() if key not in _MARKS}
        | {ORIGINAL_FRAMES: " ".join(map(str, places[name]))}
        for name, row in found.items()
    }


def _dataset(of: Dataset, settings: dict[str, Any], command: str, code_version: str) -> Dataset:
    return Dataset(
        kind="latent",
        layout="F,C,H,W",
        channels=of.channels,
        height=of.height,
        width=of.width,
        fidelity="float16",
        encoder=of.encoder,
        synthetic=of.synthetic,
        settings=settings,
        command=command,
        code_version=code_version,
    )
