"""``stage=image``: noise becomes a Store of latent images, or of key frames drawn jointly."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytorch_lightning as pl

from echodream import validation
from echodream.config.stage_signature import InputPath, OutputPath
from echodream.datamodules.recordings import Recordings
from echodream.diffusion.conditioning import Conditioner
from echodream.diffusion.model import DiffusionModel, load_diffusion
from echodream.errors import UserError
from echodream.runs.summary import Summary
from echodream.sampling.label_csv import SOURCE, Asked, read_labels
from echodream.sampling.sample_store import (
    checked_precision,
    columns_of,
    counts,
    draw,
    idle,
    plain,
    recipe_of,
    sample_store,
    settings_of,
    told,
    weak_model,
)
from echodream.sampling.sampling_module import SamplingConfig, SamplingModule
from echodream.store import Store

_MANY = 2000
"""Images that are drawn where nothing says how many."""


def image(
    *,
    dst: OutputPath,
    artifact: InputPath,
    n: int | None,
    labels: InputPath,
    training: InputPath,
    seed: int,
    steps: int,
    sampler: str | None,
    guidance: Mapping[str, InputPath | Any],
    batch: int,
    workers: int,
    trainer: Callable[..., pl.Trainer],
    command: str,
    code_version: str,
) -> Summary:
    """Draw ``n`` hearts with the LIDM at ``artifact``; each is a function of the seed and its number alone.

    Without ``n`` there is one for each row of a csv, or there are 2000.

    ``labels`` says which conditions they are asked
    for: spread evenly ("uniform"), those of random TRAIN rows of the store ``training`` ("training"), or those of a
    csv, row by row.
    """
    sampling = {"seed": seed, "steps": steps, "sampler": sampler, "guidance": guidance}
    how, model = checked_precision(trainer), load_diffusion(artifact, "lidm")
    recipe, weak = recipe_of(sampling, model), weak_model(guidance, model, "lidm")
    asked = _asked(model.conditioner, labels, training, n, recipe.seed)
    count = len(next(iter(asked.values.values()))) if asked.values else _many(n)
    values, without = model.conditioner.request(asked.values), idle(model, recipe.guidance, asked.values)
    settings = {
        **settings_of(recipe, model, weak),
        "n": count,
        "labels": told(labels, asked.values),
        "precision": how,
    }
    rows = _rows(model, recipe, asked.values, count)
    dataset, drawer = sample_store(model, settings, command, code_version), SamplingModule(model, recipe, weak=weak)
    state = draw(drawer, dst, dataset, rows, values, batch, workers, trainer)
    return Summary(f"image: {dst} {state}", {"images": count, **counts(rows, without, asked.unread)})


def _rows(
    model: DiffusionModel, recipe: SamplingConfig, asked: Mapping[str, list[Any]], count: int
) -> dict[str, dict[str, Any]]:
    """What FileList.csv says of each image, by name."""
    rows = {}
    for row in range(count):
        name = f"image-{row:06d}"
        rows[name] = {
            "FileName": name,
            "Split": "TRAIN",
            "PatientID": f"S{row:06d}",
            "FPS": model.facts.fps,
            **model.conditioner.describe({column: plain(given[row]) for column, given in asked.items()}),
            **columns_of(recipe),
        }
    return rows


def _many(n: int | None) -> int:
    return _MANY if n is None else validation.whole_number("n", n)


def _asked(conditioner: Conditioner, labels: str, training: str, n: int | None, seed: int) -> Asked:
    """For each column that the conditions read, the value asked for in each row."""
    columns = list(conditioner.columns)
    if labels in ("uniform", "training") and not columns:
        return Asked({})
    if labels == "uniform":
        return Asked(conditioner.spread(_many(n)))
    if labels == "training":
        rows = Recordings(Store(training), "TRAIN")
        picked = [int(np.random.default_rng((seed, row)).integers(len(rows))) for row in range(_many(n))]
        return Asked({column: rows.column(column)[picked].tolist() for column in columns})
    if not labels.endswith(".csv"):
        raise UserError(f"labels={labels}: choose uniform or training, or give the path of a csv")
    given = read_labels(labels, columns)
    count = len(next(iter(given.values.values())))
    if n is not None and validation.whole_number("n", n) > count:
        raise UserError(f"n={n}, and labels={labels} has {count} rows: lower n, or leave it out")
    unread = (*given.unread, *([SOURCE] if given.sources is not None else []))
    return Asked({column: entries[:n] for column, entries in given.values.items()}, unread=unread)
