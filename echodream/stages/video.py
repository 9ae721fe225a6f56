"""``stage=video``: each latent image of a Store, and noise, become a latent video."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from torch import Tensor

from echodream import validation
from echodream.config.stage_signature import InputPath, OutputPath
from echodream.datamodules.key_frames import Beat
from echodream.datamodules.normalization import whiten
from echodream.datamodules.sampling_requests import References
from echodream.diffusion.conditioning import PublishedReference
from echodream.diffusion.model import DiffusionModel, load_diffusion
from echodream.diffusion.sliding_window import starts
from echodream.errors import UserError
from echodream.runs.summary import Summary
from echodream.sampling.label_csv import Asked, read_labels
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
from echodream.sampling.sampling_module import ClipLengthConfig, SamplingConfig, SamplingModule
from echodream.store import Store

_BEAT = 2
_SHORTEST = 0.5


def video(
    *,
    src: InputPath,
    dst: OutputPath,
    artifact: InputPath,
    n: int | None,
    repeat: bool,
    labels: InputPath | None,
    seed: int,
    steps: int,
    sampler: str | None,
    guidance: Mapping[str, InputPath | Any],
    frames: int,
    join: str,
    overlap: int | None,
    windows: int,
    batch: int,
    workers: int,
    trainer: Callable[..., pl.Trainer],
    command: str,
    code_version: str,
) -> Summary:
    """Let the rows of the latent store ``src`` beat, with the LVDM at ``artifact``.

    Each video is a function of the seed, its number and its source alone. Conditions come from the source's columns, or
    from the csv ``labels``. For ``frames``, ``join``, ``overlap`` and ``windows`` see ``ClipLengthConfig``.
    """
    sampling = {"seed": seed, "steps": steps, "sampler": sampler, "guidance": guidance}
    how, model = checked_precision(trainer), load_diffusion(artifact, "lvdm")
    recipe, weak = recipe_of(sampling, model), weak_model(guidance, model, "lvdm")
    store, clips = (
        Store(src, kind="latent", encoder=model.facts.encoder),
        _length(model, frames, join, overlap, windows),
    )
    chosen = _sources(store.table, n, repeat)
    asked = _asked(model, chosen, labels)
    values, without = model.conditioner.request(asked.values), idle(model, recipe.guidance, asked.values)
    settings = {
        **settings_of(recipe, model, weak),
        "source": store.checksum,
        "labels": None if labels is None else told(labels, asked.values),
        **{"frames": clips.frames, "join": clips.join, "overlap": clips.overlap, "n": len(chosen)},
        "precision": how,
    }
    beats = _beats(model, recipe.seed, len(chosen))
    rows = _rows(model, recipe, clips, chosen, asked.values, store.dataset.synthetic, beats)
    dataset, drawer = sample_store(model, settings, command, code_version), SamplingModule(model, recipe, clips, weak)
    state = draw(
        drawer, dst, dataset, rows, values, batch, workers, trainer, _references(model, store, chosen, beats, clips)
    )
    facts = {"videos": len(rows), "frames each": clips.frames, "fps": round(model.facts.fps, 3)}
    return Summary(f"video: {dst} {state}", {**facts, **counts(rows, without, asked.unread)})


def _rows(
    model: DiffusionModel,
    recipe: SamplingConfig,
    length: ClipLengthConfig,
    chosen: pd.DataFrame,
    asked: Mapping[str, list[Any]],
    synthetic: bool,
    beats: list[Beat],
) -> dict[str, dict[str, Any]]:
    """What FileList.csv says of each video, by name. Of a real source neither patient nor name goes along.

    HeartRate, in beats a minute, is what the key frames were placed for.
    """
    joins, rows = " ".join(map(str, _joins(length))), {}
    for number, source in enumerate(chosen.to_dict("records")):
        name = f"video-{number:06d}"
        rows[name] = {
            "FileName": name,
            "Split": source["Split"],
            "PatientID": source["PatientID"] if synthetic else f"S{number:06d}",
            "FPS": model.facts.fps,
            **model.conditioner.describe({column: plain(entries[number]) for column, entries in asked.items()}),
            **({"HeartRate": round(60 * model.facts.fps / beats[number].length, 2)} if beats else {}),
            "Source": source["FileName"] if synthetic else "real",
            "Joins": joins,
            **columns_of(recipe),
        }
    return rows


def _beats(model: DiffusionModel, seed: int, count: int) -> list[Beat]:
    """The beat of each video of a model that takes key frames, its length varied as in training; else nothing."""
    times, spread = model.facts.reference_times, model.facts.beat_spread
    if spread is None:
        return []
    draws = (np.random.default_rng((seed, number, _BEAT)).standard_normal() for number in range(count))
    return [
        Beat(times[1], times[2]).stretched(max(_SHORTEST, 1 + spread * float(np.clip(draw, -2, 2)))) for draw in draws
    ]


def _references(
    model: DiffusionModel, store: Store, chosen: pd.DataFrame, beats: list[Beat], length: ClipLengthConfig
) -> References | None:
    """Reads the reference frames of each video; None for a model that takes none."""
    if "reference" not in model.conditioner.names:
        return None
    facts, times = model.facts, _places(model, chosen, str(store.root), length)
    longest = math.ceil(length.frames / (_SHORTEST * facts.reference_times[-1])) if beats else 0
    sizes = set(zip(chosen["FrameHeight"], chosen["FrameWidth"], strict=True))
    if wrong := sizes - {(facts.height, facts.width)}:
        height, width = min(wrong)
        raise UserError(
            f"{store.root} has latents of {width}x{height}, this lvdm draws {facts.width}x{facts.height}: "
            "give src= of images in the size that it was trained in"
        )
    names = chosen["FileName"].tolist()

    def read(row: int) -> tuple[Tensor, Tensor]:
        mean = store.latents(names[row], 0, len(times))[0].float()
        frames = whiten(mean.transpose(0, 1), facts.statistics)
        if not beats:
            return frames, torch.tensor(times)
        which, when = beats[row].placed(longest)
        return frames[:, which], torch.tensor(when)

    return read


def _length(model: DiffusionModel, frames: int, join: str, overlap: int | None, windows: int) -> ClipLengthConfig:
    window = model.facts.frames
    validation.whole_number("frames", frames)
    validation.whole_number("windows", windows)
    validation.one_of("join", join, ("crossfade", "continue"))
    if join == "continue" and "reference" not in model.conditioner.names and frames > window:
        raise UserError("join=continue needs a model trained with conditioning on reference frames: use join=crossfade")
    published = any(isinstance(part, PublishedReference) for part in model.conditioner.conditions.values())
    if join == "continue" and published and frames > window:
        raise UserError("join=continue gives several reference frames, and this model takes one: use join=crossfade")
    shared = (window // 2 if join == "crossfade" else 1) if overlap is None else overlap
    if frames > window and not 0 < validation.whole_number("overlap", shared, 0) < window:
        raise UserError(f"overlap={shared}: give 1 to {window - 1} frames, fewer than the {window} of a window")
    return ClipLengthConfig(frames, window, shared, windows, join)


def _joins(length: ClipLengthConfig) -> list[int]:
    """The frames at which a window begins, other than the first."""
    if length.frames <= length.window:
        return []
    if length.join == "continue":
        return list(range(length.window, length.frames, length.window - length.overlap))
    return starts(length.frames, length.window, length.overlap)[1:]


def _sources(table: pd.DataFrame, n: int | None, repeat: bool) -> pd.DataFrame:
    """The row of the source for each video."""
    count = len(table) if n is None else validation.whole_number("n", n)
    validation.true_or_false("repeat", repeat)
    if not len(table):
        raise UserError("src= holds no recording: nothing can be drawn from it")
    if count > len(table) and not repeat:
        raise UserError(
            f"n={count}, and src= has {len(table)} rows: lower n, draw more images, or go round again with repeat=true"
        )
    return table.iloc[[number % len(table) for number in range(count)]].reset_index(drop=True)


def _asked(model: DiffusionModel, chosen: pd.DataFrame, labels: str | None) -> Asked:
    """The value of each column that the conditions read, for each video; None where it is nowhere."""
    columns = list(model.conditioner.columns)
    none = [None] * len(chosen)
    asked = {column: chosen[column].tolist() if column in chosen else none for column in columns}
    if labels is None:
        return Asked(asked)
    given = read_labels(labels, columns)
    order = _order(given, chosen["FileName"].tolist(), labels)
    found = {column: [entries[row] for row in order] for column, entries in given.values.items()}
    return Asked(asked | found, unread=given.unread)


def _order(given: Asked, names: list[str], labels: str) -> list[int]:
    """The row of the csv for each source of ``names``: that of its name, or else the next one."""
    count = len(next(iter(given.values.values())))
    if given.sources is None:
        if count < len(names):
            raise UserError(
                f"labels={labels} has {count} rows for {len(names)} videos: add rows, lower n, or add a column Source"
            )
        return list(range(len(names)))
    place = {source: row for row, source in enumerate(given.sources)}
    if len(place) < count:
        twice = next(source for row, source in enumerate(given.sources) if place[source] != row)
        raise UserError(f"labels={labels} has two rows whose Source is {twice}: keep one of them")
    if missing := [name for name in names if name not in place]:
        raise UserError(f"labels={labels} has no row whose Source is {missing[0]}: add it, or leave the column out")
    return [place[name] for name in names]


def _places(model: DiffusionModel, chosen: pd.DataFrame, src: str, length: ClipLengthConfig) -> tuple[float, ...]:
    """When each of a source's first frames is to be seen: one at the start, or several as they lay in training."""
    times, beat = model.facts.reference_times, model.facts.beat_spread is not None
    if times and not beat and length.frames > length.window and length.join == "crossfade":
        raise UserError(
            f"this lvdm knows reference frames at fixed places of {length.window} frames, and frames={length.frames}: "
            "use join=continue, or an lvdm trained with view.reference=random or keyframes"
        )
    if len(times) < 2:
        return times or (0.0,)
    short = chosen[chosen["NumberOfFrames"] != len(times)]
    if len(short):
        what, remedy = "reference frames", f"give src= of recordings that are these {len(times)} frames"
        if beat:
            what, remedy = "key frames", "draw them with a lidm trained with view=triplet"
        raise UserError(
            f"this lvdm takes {len(times)} {what}, and {short['FileName'].iloc[0]} of {src} has "
            f"{short['NumberOfFrames'].iloc[0]}: {remedy}"
        )
    return times
