"""Shared parts of ``stage=image`` and ``stage=video``: guidance, sampling settings, and the Store of samples."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from echodream import validation
from echodream.callbacks.store_writer import StoreWriterCallback
from echodream.datamodules.sampling_requests import References, SamplingRequests
from echodream.diffusion.conditioning.base import TokenCondition
from echodream.diffusion.guidance import Guidance
from echodream.diffusion.model import DiffusionModel, load_diffusion_model
from echodream.diffusion.samplers import SAMPLERS
from echodream.errors import UserError
from echodream.runs.predict import PredictData, run_prediction
from echodream.runs.trainer import trainer_precision
from echodream.sampling.sampling_module import SamplingConfig, SamplingModule
from echodream.store import Dataset
from echodream.store.latents import write_latents

_MAX_RESIDUAL_DIFFERENCE = 0.1
"""Maximum relative difference between the residual standard deviations of a model and its weak model."""
_GUIDANCE_SETTINGS = ("interval", "rescale", "auto")
"""Keys of guidance that are not the scale of a condition."""
_TRAINING_SETTINGS = ("min_snr", "least_weight", "spacing", "times", "shift")
"""Settings of a process that do not change the meaning of the network's prediction."""
_PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "32", "bf16", "16")
"""Precisions for sampling. All others would also round the noise and the timesteps."""


def build_guidance(settings: Mapping[str, Any], model: DiffusionModel) -> Guidance:
    """Guidance from the keys of ``guidance``. Raises ``UserError`` for the scale of a condition the model lacks."""
    scales = {name: scale for name, scale in settings.items() if name not in _GUIDANCE_SETTINGS}
    names, interval, auto = model.conditioner.names, settings["interval"], settings["auto"]
    if wrong := [name for name, scale in scales.items() if name not in names and scale != 1]:
        key, known = f"guidance.{wrong[0]}={scales[wrong[0]]}", ", ".join(names) or "none"
        raise UserError(f"{key} has nothing to guide: this model's conditions are {known}")
    if not isinstance(auto, Mapping):
        raise UserError(f"guidance.auto={auto}: give guidance.auto.artifact= and guidance.auto.scale=")
    return Guidance(
        scales={name: scales.get(name, 1.0) for name in (*scales, *names) if name in names},
        interval=tuple(interval) if isinstance(interval, Sequence) else (interval,),
        rescale=settings["rescale"],
        auto=auto["scale"],
    )


def load_weak_model(guidance: Mapping[str, Any], model: DiffusionModel, name: str) -> DiffusionModel | None:
    """The weak model for autoguidance, if any. Raises ``UserError`` if its settings differ from those of ``model``."""
    folder, scale = guidance["auto"]["artifact"], float(guidance["auto"]["scale"])
    if folder is None:
        if scale != 1:
            raise UserError("guidance.auto.scale needs guidance.auto.artifact=, the folder of a weaker model")
        return None
    weak = load_diffusion_model(str(folder), name)
    first, second = _comparable_settings(model), _comparable_settings(weak)
    keys = {**first, **second}
    wrong = [key for key in keys if key not in first or key not in second or first[key] != second[key]]
    stds = zip(model.metadata.residual or (), weak.metadata.residual or (), strict=False)
    if any(abs(std / weak_std - 1) > _MAX_RESIDUAL_DIFFERENCE for std, weak_std in stds):
        wrong.append("residual, by more than a tenth")  # the units of the predictions differ
    if wrong:
        remedy = "train the weak model as the model itself, but shorter or smaller"
        raise UserError(f"guidance.auto.artifact={folder} differs from the model in {wrong[0]}: {remedy}")
    return weak


def _comparable_settings(model: DiffusionModel) -> dict[str, Any]:
    """By name, the settings that a model and its weak model must share: not clip length, loss weights or statistics."""
    conditions, metadata = model.conditioner.settings()["conditions"], asdict(model.metadata)
    for name in ("fps", "reference_times", *(["frames"] if model.is_video else [])):
        del metadata[name]
    metadata |= {name: metadata[name] is not None for name in ("residual", "beat_spread")}
    process = {name: value for name, value in model.process.settings().items() if name not in _TRAINING_SETTINGS}
    conditioning = sorted((item["name"], item["kind"], str(item["facts"])) for item in conditions)
    return {**{f"process.{name}": value for name, value in process.items()}, **metadata, "conditioning": conditioning}


def sampling_config(
    model: DiffusionModel, seed: int, steps: int, sampler: str | None, guidance: Mapping[str, Any]
) -> SamplingConfig:
    """Sampling configuration, checked against ``model``. Raises ``UserError``."""
    sampler, entries = model.process.check_sampler(steps, sampler), SAMPLERS[model.process.name]
    if entries[sampler].stochastic and model.metadata.shared_noise:
        deterministic = ", ".join(name for name, entry in entries.items() if not entry.stochastic)
        raise UserError(
            f"sampler={sampler} adds independent noise to each frame, and this model was trained with "
            f"model.shared_noise={model.metadata.shared_noise:g}: choose one of {deterministic}"
        )
    return SamplingConfig(validation.whole_number("seed", seed, 0), steps, sampler, build_guidance(guidance, model))


def sampling_settings(config: SamplingConfig, model: DiffusionModel, weak: DiffusionModel | None) -> dict[str, Any]:
    """All settings on which a sample depends, for ``dataset.json``."""
    guidance = config.guidance
    recorded = {
        "scales": {name: float(scale) for name, scale in guidance.scales.items()},
        "interval": [float(bound) for bound in guidance.interval],
        "rescale": float(guidance.rescale),
        "auto": None if weak is None else {"model": weak.fingerprint(), "scale": float(guidance.auto)},
    }
    names = {"seed": config.seed, "steps": config.steps, "sampler": config.sampler}
    return {"model": model.fingerprint(), **names, "guidance": recorded}


def sampling_columns(config: SamplingConfig) -> dict[str, Any]:
    """Columns of FileList.csv that record how a row was sampled.

    Guidance is a cell like ``class_id=2 reference=1``, followed by ``auto=3 interval=0.2-0.7 rescale=0.5`` where these
    are not the default.
    """
    guidance = config.guidance
    parts = [f"{name}={scale:g}" for name, scale in guidance.scales.items()]
    parts += [f"auto={guidance.auto:g}"] if guidance.auto != 1 else []
    parts += ["interval={:g}-{:g}".format(*guidance.interval)] if tuple(guidance.interval) != (0, 1) else []
    parts += [f"rescale={guidance.rescale:g}"] if guidance.rescale else []
    return {"Seed": config.seed, "Sampler": config.sampler, "Steps": config.steps, "Guidance": " ".join(parts)}


def summary_counts(
    rows: Mapping[str, Mapping[str, Any]], without_values: Sequence[str] = (), unread_columns: Sequence[str] = ()
) -> dict[str, object]:
    """For the summary: rows of each class, condition columns without values, and unused columns of the csv."""
    classes = (f"class {row['class_id']} {row.get('class_name', '')}" for row in rows.values() if "class_id" in row)
    counts = dict(sorted(Counter(name.strip() for name in classes).items()))
    lists = {"not asked for": without_values, "columns not read": unread_columns}
    return {**counts, **{title: ", ".join(names) for title, names in lists.items() if names}}


def labels_fingerprint(labels: str, requests: Mapping[str, Sequence[Any]]) -> str:
    """For ``dataset.json``: the origin of the condition values, and a hash of all of them."""
    text = json.dumps({name: list(cells) for name, cells in requests.items()}, default=to_python_value)
    kind = labels if labels in ("uniform", "training") else "csv"
    return f"{kind} {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def columns_without_values(
    model: DiffusionModel, guidance: Guidance, requests: Mapping[str, Sequence[Any]]
) -> list[str]:
    """Condition columns that are empty in all rows. Raises ``UserError`` if guidance scales such a condition."""
    conditions = model.conditioner.conditions.items()
    columns = {name: module.column for name, module in conditions if isinstance(module, TokenCondition)}

    def has_value(column: str) -> bool:
        cells = map(to_python_value, requests.get(column, ()))
        return any(model.conditioner.filelist_columns({column: cell}) for cell in cells)

    empty = {name: column for name, column in columns.items() if not has_value(column)}
    if wrong := [name for name in empty if guidance.scales.get(name, 1) not in (0, 1)]:
        raise UserError(
            f"guidance.{wrong[0]}={guidance.scales[wrong[0]]} has nothing to guide: no row has a value of "
            f"{empty[wrong[0]]}; give one with labels=, or leave guidance out"
        )
    return list(empty.values())


def sample_to_store(
    sampler: SamplingModule,
    dst: str,
    dataset: Dataset,
    rows: Mapping[str, dict[str, Any]],
    values: Mapping[str, Tensor],
    batch: int,
    workers: int,
    trainer: Callable[..., pl.Trainer],
    references: References | None = None,
) -> str:
    """Sample the ``rows`` that are not yet in the store ``dst``, in batches of ``batch``; returns its state."""
    validation.whole_number("batch", batch)
    statistics = sampler.model.metadata.statistics
    writer = StoreWriterCallback(dst, dataset, rows, write_sample, lambda folder, names: statistics)
    data = PredictData(lambda: SamplingRequests(list(rows), values, batch, writer.done, references), workers)
    run_prediction(trainer, sampler, data, writer)
    return writer.state


def samples_dataset(model: DiffusionModel, settings: dict[str, Any], command: str, code_version: str) -> Dataset:
    """``dataset.json`` of a store of samples: latents of the encoder that ``model`` was trained with."""
    metadata = model.metadata
    return Dataset(
        kind="latent",
        layout="F,C,H,W",
        channels=metadata.channels,
        height=metadata.height,
        width=metadata.width,
        fidelity="float16",
        encoder=metadata.encoder,
        synthetic=True,
        settings=settings,
        command=command,
        code_version=code_version,
    )


def write_sample(path: Path, latents: Tensor) -> dict[str, Any]:
    """Write a sample, (F, C, H, W), as a latent posterior with standard deviation 0; returns its table columns."""
    write_latents(path, latents.numpy(), latents.new_zeros(latents.shape).numpy())
    return {"NumberOfFrames": len(latents), "FrameHeight": latents.shape[2], "FrameWidth": latents.shape[3]}


def check_precision(trainer: Callable[..., pl.Trainer]) -> str:
    """Precision of ``trainer``. Raises ``UserError`` for precisions that are not suitable for sampling."""
    chosen = trainer_precision(trainer)
    if chosen not in _PRECISIONS:
        raise UserError(f"trainer.precision={chosen} is not for sampling: choose one of {', '.join(_PRECISIONS[:3])}")
    return chosen


def to_python_value(value: Any) -> Any:
    """A numpy or torch scalar as a Python value; other values unchanged."""
    return value.item() if hasattr(value, "item") else value
