"""What ``stage=image`` and ``stage=video`` share: settings of guidance, labels, and the Store that samples go to."""

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
from echodream.diffusion.conditioning import TokenCondition
from echodream.diffusion.guidance import Guidance
from echodream.diffusion.model import DiffusionModel, load_diffusion
from echodream.errors import UserError
from echodream.runs.predict import PredictData, run_prediction
from echodream.runs.trainer import precision
from echodream.sampling.sampling_module import SamplingConfig, SamplingModule
from echodream.store import Dataset
from echodream.store.latents import write_latents

_APART = 0.1
OWN = ("interval", "rescale", "auto")
"""Settings of guidance that are not the scale of a condition."""
_TRAINING = ("min_snr", "least_weight", "spacing", "times", "shift")
"""Settings of a process that do not change what a network's prediction means."""
_PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "32", "bf16", "16")
"""The others would change the noise and the times that samples are drawn with, too."""


def guidance_of(asked: Mapping[str, Any], model: DiffusionModel) -> Guidance:
    """The guidance that ``asked`` describes. Raises ``UserError`` for a scale of a condition the model has not."""
    scales = {name: scale for name, scale in asked.items() if name not in OWN}
    names, interval, auto = model.conditioner.names, asked["interval"], asked["auto"]
    if wrong := [name for name, scale in scales.items() if name not in names and scale != 1]:
        raise UserError(
            f"guidance.{wrong[0]}={scales[wrong[0]]} has nothing to guide: this model's conditions are "
            f"{', '.join(names) or 'none'}"
        )
    if not isinstance(auto, Mapping):
        raise UserError(f"guidance.auto={auto}: give guidance.auto.artifact= and guidance.auto.scale=")
    return Guidance(
        scales={name: scale for name, scale in scales.items() if name in names},
        interval=tuple(interval) if isinstance(interval, Sequence) else (interval,),
        rescale=asked["rescale"],
        auto=auto["scale"],
    )


def weak_model(asked: Mapping[str, Any], model: DiffusionModel, name: str) -> DiffusionModel | None:
    """The worse model for autoguidance, if one is asked for. Raises ``UserError`` when it does not fit ``model``."""
    folder, scale = asked["auto"]["artifact"], float(asked["auto"]["scale"])
    if folder is None:
        if scale != 1:
            raise UserError("guidance.auto.scale needs guidance.auto.artifact=, the folder of a worse model")
        return None
    weak = load_diffusion(str(folder), name)
    own, other = _nature(model), _nature(weak)
    wrong = [key for key in {**own, **other} if key not in own or key not in other or own[key] != other[key]]
    spreads = zip(model.facts.residual or (), weak.facts.residual or (), strict=False)
    if any(abs(spread / other - 1) > _APART for spread, other in spreads):
        wrong.append("residual, by more than a tenth")  # what it predicts is in other units
    if wrong:
        raise UserError(
            f"guidance.auto.artifact={folder} differs from the model in {wrong[0]}: train it as the model itself, but "
            "shorter or smaller"
        )
    return weak


def _nature(model: DiffusionModel) -> dict[str, Any]:
    """What two models share whose predictions can be compared, by the name of the setting.

    Not among it are the window of clips, what weighs in training, and what is estimated from training samples.
    """
    told, facts = model.conditioner.settings()["conditions"], asdict(model.facts)
    for name in ("fps", "reference_times", *(["frames"] if model.is_video else [])):
        del facts[name]
    facts |= {name: facts[name] is not None for name in ("residual", "beat_spread")}
    process = {name: value for name, value in model.process.settings().items() if name not in _TRAINING}
    return {
        **{f"process.{name}": value for name, value in process.items()},
        **facts,
        "conditioning": sorted((item["name"], item["kind"], str(item["facts"])) for item in told),
    }


def recipe_of(sampling: Mapping[str, Any], model: DiffusionModel) -> SamplingConfig:
    """How to draw, from ``seed``, ``steps``, ``sampler`` and ``guidance``, checked against what ``model`` can do."""
    chosen = model.process.check(sampling["steps"], sampling["sampler"])
    if chosen == "ddpm" and model.facts.shared_noise:
        raise UserError(
            "sampler=ddpm gives each frame noise of its own, and this model was trained with model.shared_noise="
            f"{model.facts.shared_noise:g}: choose one of {', '.join(model.process.samplers[:-1])}"
        )
    guidance = guidance_of(sampling["guidance"], model)
    return SamplingConfig(validation.whole_number("seed", sampling["seed"], 0), sampling["steps"], chosen, guidance)


def settings_of(recipe: SamplingConfig, model: DiffusionModel, weak: DiffusionModel | None) -> dict[str, Any]:
    """What decides a sample, for ``dataset.json``."""
    guidance = recipe.guidance
    how: dict[str, Any] = {
        "scales": {name: float(scale) for name, scale in guidance.scales.items()},
        "interval": [float(end) for end in guidance.interval],
        "rescale": float(guidance.rescale),
    }
    how["auto"] = {"model": weak.fingerprint(), "scale": float(guidance.auto)} if weak is not None else None
    return {
        "model": model.fingerprint(),
        "seed": recipe.seed,
        "steps": recipe.steps,
        "sampler": recipe.sampler,
        "guidance": how,
    }


def columns_of(recipe: SamplingConfig) -> dict[str, Any]:
    """What FileList.csv says of how each row was drawn.

    Guidance is a cell like ``class_id=2 reference=1``, with ``auto=3 interval=0.2-0.7 rescale=0.5`` where it has them.
    """
    guidance = recipe.guidance
    parts = [f"{name}={scale:g}" for name, scale in guidance.scales.items()]
    parts += [f"auto={guidance.auto:g}"] if guidance.auto != 1 else []
    parts += ["interval={:g}-{:g}".format(*guidance.interval)] if tuple(guidance.interval) != (0, 1) else []
    parts += [f"rescale={guidance.rescale:g}"] if guidance.rescale else []
    told = " ".join(parts)
    return {"Seed": recipe.seed, "Sampler": recipe.sampler, "Steps": recipe.steps, "Guidance": told}


def counts(
    rows: Mapping[str, Mapping[str, Any]], without: Sequence[str] = (), unread: Sequence[str] = ()
) -> dict[str, object]:
    """For a summary: how many rows there are of each class, the columns of which nothing was asked, and the columns of
    a csv that nothing read."""
    classes = (f"class {row['class_id']} {row.get('class_name', '')}" for row in rows.values() if "class_id" in row)
    found = dict(sorted(Counter(name.strip() for name in classes).items()))
    named = {"not asked for": without, "columns not read": unread}
    return {**found, **{what: ", ".join(names) for what, names in named.items() if names}}


def told(labels: str, asked: Mapping[str, Sequence[Any]]) -> str:
    """For ``dataset.json``: where conditions come from, and a fingerprint of all that is asked for."""
    text = json.dumps({name: list(cells) for name, cells in asked.items()}, default=plain)
    kind = labels if labels in ("uniform", "training") else "csv"
    return f"{kind} {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def idle(model: DiffusionModel, guidance: Guidance, asked: Mapping[str, Sequence[Any]]) -> list[str]:
    """The columns of which nothing is asked in any row. Raises ``UserError`` when guidance would need one."""
    parts = model.conditioner.conditions.items()
    tokens = {name: part.column for name, part in parts if isinstance(part, TokenCondition)}
    empty = {
        name: column
        for name, column in tokens.items()
        if not any(model.conditioner.describe({column: plain(cell)}) for cell in asked.get(column, ()))
    }
    if wrong := [name for name in empty if guidance.scales.get(name, 1) not in (0, 1)]:
        raise UserError(
            f"guidance.{wrong[0]}={guidance.scales[wrong[0]]} has nothing to guide: no row has a value of "
            f"{empty[wrong[0]]}; give one with labels=, or leave guidance out"
        )
    return list(empty.values())


def draw(
    drawer: SamplingModule,
    dst: str,
    dataset: Dataset,
    rows: Mapping[str, dict[str, Any]],
    values: Mapping[str, Tensor],
    batch: int,
    workers: int,
    trainer: Callable[..., pl.Trainer],
    references: References | None = None,
) -> str:
    """Draw the ``rows`` that the store at ``dst`` has not yet, ``batch`` at a time; returns what there was to do."""
    validation.whole_number("batch", batch)
    statistics = drawer.model.facts.statistics
    writing = StoreWriterCallback(dst, dataset, rows, save, lambda folder, every: statistics)
    data = PredictData(lambda: SamplingRequests(list(rows), values, batch, writing.done, references), workers)
    run_prediction(trainer, drawer, data, writing)
    return "already complete, nothing to do" if writing.already_complete else "done"


def sample_store(model: DiffusionModel, settings: dict[str, Any], command: str, code_version: str) -> Dataset:
    """``dataset.json`` of a store of samples: latents of the encoder, and whitened like those, that ``model`` knows."""
    facts = model.facts
    return Dataset(
        kind="latent",
        layout="F,C,H,W",
        channels=facts.channels,
        height=facts.height,
        width=facts.width,
        fidelity="float16",
        encoder=facts.encoder,
        synthetic=True,
        settings=settings,
        command=command,
        code_version=code_version,
    )


def save(path: Path, latents: Tensor) -> dict[str, Any]:
    """Write a sample, (F, C, H, W), as a posterior without spread."""
    write_latents(path, latents.numpy(), latents.new_zeros(latents.shape).numpy())
    return {"NumberOfFrames": len(latents), "FrameHeight": latents.shape[2], "FrameWidth": latents.shape[3]}


def checked_precision(trainer: Callable[..., pl.Trainer]) -> str:
    """The precision that ``trainer`` asks for. Raises ``UserError`` for one that samples cannot be drawn with."""
    asked = precision(trainer)
    if asked not in _PRECISIONS:
        raise UserError(f"trainer.precision={asked} is not for drawing: choose one of {', '.join(_PRECISIONS[:3])}")
    return asked


def plain(value: Any) -> Any:
    """A cell of a table or an entry of a list as a plain Python value."""
    return value.item() if hasattr(value, "item") else value
