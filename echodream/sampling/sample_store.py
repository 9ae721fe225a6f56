"""Functions shared by ``stage=image`` and ``stage=video``: guidance, sampling settings, and the Store of samples."""

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
from echodream.errors import UserError
from echodream.runs.predict import PredictionData, run_prediction
from echodream.runs.trainer import BF16_WEIGHTS, trainer_precision
from echodream.sampling.sampling_module import SamplingConfig, SamplingModule
from echodream.store import Dataset
from echodream.store.latents import write_latents

DEFAULT_SAMPLER, DEFAULT_SPACING = "unipc", "quadratic"
DEFAULT_STEPS = {False: 12, True: 6}
"""Number of sampler steps of images (False) and videos (True)."""
_MAX_RESIDUAL_DIFFERENCE = 0.1
"""Maximum relative difference between the residual standard deviations of a model and its weak model."""
_GUIDANCE_SETTINGS = ("interval", "rescale", "auto")
"""Keys of ``guidance`` other than the scales of the conditions."""
_TRAINING_SETTINGS = ("min_snr", "least_weight", "spacing", "times", "shift")
"""Settings of a diffusion process that do not change what the network predicts."""
_SAMPLING_PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "32", "bf16", "16")
"""Precisions for sampling. Other precisions would also round the noise and the timesteps."""


def build_guidance(settings: Mapping[str, Any], model: DiffusionModel) -> Guidance:
    """Build ``Guidance`` from the keys of ``guidance``. Raises ``UserError`` for a scale of an unknown condition."""
    scales = {name: scale for name, scale in settings.items() if name not in _GUIDANCE_SETTINGS}
    names, interval, auto = model.conditioner.names, settings["interval"], settings["auto"]
    for name, scale in scales.items():
        if name not in names and scale != 1:
            known = ", ".join(names) or "none"
            raise UserError(f"guidance.{name}={scale} is not possible: this model's conditions are {known}")
    if not isinstance(auto, Mapping):
        raise UserError(f"guidance.auto={auto} is not possible: give guidance.auto.artifact= and guidance.auto.scale=")
    return Guidance(
        scales={name: scales.get(name, 1.0) for name in (*scales, *names) if name in names},
        interval=tuple(interval) if isinstance(interval, Sequence) else (interval,),
        rescale=settings["rescale"],
        autoguidance=auto["scale"],
    )


def load_weak_model(guidance: Mapping[str, Any], model: DiffusionModel, name: str) -> DiffusionModel | None:
    """Load the weak model for autoguidance, if given. Raises ``UserError`` if the settings of both models differ."""
    folder, scale = guidance["auto"]["artifact"], float(guidance["auto"]["scale"])
    if folder is None:
        if scale != 1:
            raise UserError("guidance.auto.scale needs guidance.auto.artifact=, the folder of a weaker model")
        return None
    weak = load_diffusion_model(str(folder), name)
    if model.process.few_steps is not None or weak.process.few_steps is not None:
        raise UserError("guidance.auto cannot be combined with a distilled model: leave it out")
    settings, weak_settings = _comparable_settings(model), _comparable_settings(weak)
    wrong = [name for name in {**settings, **weak_settings} if settings.get(name) != weak_settings.get(name)]
    stds = zip(model.metadata.residual or (), weak.metadata.residual or (), strict=False)
    if any(abs(std / weak_std - 1) > _MAX_RESIDUAL_DIFFERENCE for std, weak_std in stds):
        wrong.append("residual, by more than a tenth")  # the scales of the predictions differ
    if wrong:
        remedy = "train the weak model with the same settings, but for fewer steps or with a smaller network"
        raise UserError(f"guidance.auto.artifact={folder} differs from the model in {wrong[0]}: {remedy}")
    return weak


def _comparable_settings(model: DiffusionModel) -> dict[str, Any]:
    """Settings that a model and its weak model must share: all but frame rate, clip length and loss weights."""
    conditions, metadata = model.conditioner.settings()["conditions"], asdict(model.metadata)
    for name in ("fps", "reference_times", *(["frames"] if model.is_video else [])):
        del metadata[name]
    metadata |= {name: metadata[name] is not None for name in ("residual", "beat_spread")}
    process = {name: value for name, value in model.process.settings().items() if name not in _TRAINING_SETTINGS}
    conditioning = sorted((item["name"], item["kind"], str(item["facts"])) for item in conditions)
    return {**{f"process.{name}": value for name, value in process.items()}, **metadata, "conditioning": conditioning}


def sampling_config(
    model: DiffusionModel,
    seed: int,
    steps: int | None,
    sampler: str | None,
    spacing: str | None,
    guidance: Mapping[str, Any],
    clip: float | None = None,
) -> SamplingConfig:
    """Sampling configuration for ``model``. Raises ``UserError`` for settings that ``model`` cannot sample with.

    If ``steps``, ``sampler`` or ``spacing`` is None, ``DEFAULT_STEPS``, ``DEFAULT_SAMPLER`` or ``DEFAULT_SPACING`` is
    used. A distilled model has its own defaults, with its largest number of steps.
    """
    if (few_steps := model.process.few_steps) is not None:
        steps = few_steps.steps[-1] if steps is None else steps
    else:
        steps = DEFAULT_STEPS[model.is_video] if steps is None else steps
        sampler, spacing = sampler or DEFAULT_SAMPLER, spacing or DEFAULT_SPACING
    process = model.process.for_sampling(spacing, clip)
    sampler = process.check_sampler(steps, sampler)
    seed = validation.whole_number("seed", seed, 0)
    scales = build_guidance(guidance, model)
    if few_steps is not None:
        scales.check_distilled(few_steps)
    spacing = few_steps.spacing if few_steps else process.spacing
    return SamplingConfig(seed, steps, sampler, scales, spacing, process.clip_limit)


def sampling_record(config: SamplingConfig, model: DiffusionModel, weak: DiffusionModel | None) -> dict[str, Any]:
    """Entries of ``dataset.json``: all settings that the samples depend on."""
    guidance = config.guidance
    recorded = {
        "scales": {name: float(scale) for name, scale in guidance.scales.items()},
        "interval": [float(bound) for bound in guidance.interval],
        "rescale": float(guidance.rescale),
        "auto": None if weak is None else {"model": weak.fingerprint(), "scale": float(guidance.autoguidance)},
    }
    names = {"seed": config.seed, "steps": config.steps, "sampler": config.sampler, "spacing": config.spacing}
    limit = {} if config.clip_limit is None else {"clip": config.clip_limit}
    return {"model": model.fingerprint(), **names, **limit, "guidance": recorded}


def sampling_columns(config: SamplingConfig) -> dict[str, Any]:
    """Columns of FileList.csv with seed, sampler, spacing, steps and guidance of a sample.

    Guidance is text: ``class_id=2 reference=1 auto=3 interval=0.2-0.7 rescale=0.5``; the last three may be absent.
    """
    guidance = config.guidance
    settings = [f"{name}={scale:g}" for name, scale in guidance.scales.items()]
    settings += [f"auto={guidance.autoguidance:g}"] if guidance.autoguidance != 1 else []
    settings += ["interval={:g}-{:g}".format(*guidance.interval)] if tuple(guidance.interval) != (0, 1) else []
    settings += [f"rescale={guidance.rescale:g}"] if guidance.rescale else []
    solver = {"Sampler": config.sampler, "Spacing": config.spacing, "Steps": config.steps}
    return {"Seed": config.seed, **solver, "Guidance": " ".join(settings)}


def sampling_summary(
    rows: Mapping[str, Mapping[str, Any]], without_values: Sequence[str] = (), unread_columns: Sequence[str] = ()
) -> dict[str, object]:
    """Lines of the summary: number of samples of each class, conditions without values, ignored columns of the csv."""
    classes = (f"class {row['class_id']} {row.get('class_name', '')}" for row in rows.values() if "class_id" in row)
    counts = dict(sorted(Counter(name.strip() for name in classes).items()))
    lists = {"not conditioned on": without_values, "ignored columns": unread_columns}
    return {**counts, **{title: ", ".join(names) for title, names in lists.items() if names}}


def labels_fingerprint(labels: str, requests: Mapping[str, Sequence[Any]]) -> str:
    """Entry of ``dataset.json``: "uniform", "training" or "csv", and a hash of all condition values."""
    text = json.dumps({name: list(cells) for name, cells in requests.items()}, default=to_python_value)
    kind = labels if labels in ("uniform", "training") else "csv"
    return f"{kind} {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def columns_without_values(
    model: DiffusionModel, guidance: Guidance, requests: Mapping[str, Sequence[Any]]
) -> list[str]:
    """Condition columns without a value for any sample; ``UserError`` if one has a guidance scale other than 0 or 1."""
    empty = []
    for name, condition in model.conditioner.conditions.items():
        if not isinstance(condition, TokenCondition):
            continue
        column, scale = condition.column, guidance.scales.get(name, 1)
        cells = map(to_python_value, requests.get(column, ()))
        if any(model.conditioner.filelist_columns({column: cell}) for cell in cells):
            continue
        if scale not in (0, 1):
            remedy = f"give values with labels=, or leave guidance.{name} out"
            raise UserError(f"guidance.{name}={scale} is not possible: no sample has a value of {column}; {remedy}")
        empty.append(column)
    return empty


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
    compile: bool | str = False,
    channels_last: bool = False,
) -> str:
    """Sample the ``rows`` that the store ``dst`` lacks, in batches of ``batch``; returns ``StoreWriter.state``.

    ``compile``, ``channels_last``: see ``Denoiser.accelerate``.
    """
    validation.whole_number("batch", batch)
    denoisers = [model.denoiser for model in (sampler.model, sampler.weak) if model is not None]
    for denoiser in denoisers:
        denoiser.accelerate(compile, channels_last)
    statistics = sampler.model.metadata.statistics
    writer = StoreWriterCallback(dst, dataset, rows, write_sample, lambda folder, names: statistics)
    data = PredictionData(lambda: SamplingRequests(list(rows), values, batch, writer.done, references), workers)
    run_prediction(trainer, sampler, data, writer, denoisers)
    return writer.state


def samples_dataset(model: DiffusionModel, settings: dict[str, Any], command: str, code_version: str) -> Dataset:
    """Metadata (dataset.json) of a store of latents that ``model`` samples."""
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
    """Write a sample, (F, C, H, W), as a posterior with standard deviation 0; returns columns of FileList.csv."""
    write_latents(path, latents.numpy(), latents.new_zeros(latents.shape).numpy())
    return {"NumberOfFrames": len(latents), "FrameHeight": latents.shape[2], "FrameWidth": latents.shape[3]}


def check_precision(trainer: Callable[..., pl.Trainer], bf16_weights: bool = False) -> str:
    """Precision of ``trainer``. Raises ``UserError`` for a precision that is not suitable for sampling.

    ``bf16_weights`` allows "bf16-true", with which ``run_prediction`` converts the denoiser only.
    """
    precision = trainer_precision(trainer)
    if precision not in _SAMPLING_PRECISIONS and not (bf16_weights and precision == BF16_WEIGHTS):
        choices = ", ".join([*_SAMPLING_PRECISIONS[:3], *[BF16_WEIGHTS] * bf16_weights])
        raise UserError(f"trainer.precision={precision} is not suitable for sampling: choose one of {choices}")
    return precision


def to_python_value(value: Any) -> Any:
    """A numpy or torch scalar as a Python value; other values unchanged."""
    return value.item() if hasattr(value, "item") else value
