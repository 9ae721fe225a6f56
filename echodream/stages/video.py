"""``stage=video``: sample a latent video for each latent image of a Store."""

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
from echodream.diffusion.model import DiffusionModel, load_diffusion_model
from echodream.diffusion.sliding_window import check_windows, window_starts
from echodream.errors import UserError
from echodream.filtering.embedding import UNKNOWN, has_known_generator
from echodream.runs.summary import Summary
from echodream.runs.trainer import BF16_WEIGHTS, choose_precision
from echodream.sampling import sample_store
from echodream.sampling.label_csv import ConditionRequests, read_labels
from echodream.sampling.sampling_module import ClipLengthConfig, SamplingConfig, SamplingModule
from echodream.store import Store

_BEAT_STREAM = 2
"""Third integer of the seed of a random beat length."""
_MIN_BEAT_LENGTH = 0.5
"""Minimum length of a beat, as a fraction of the mean length of the training beats."""


def video(
    *,
    src: InputPath,
    dst: OutputPath,
    artifact: InputPath,
    n: int | None,
    repeat: bool,
    labels: InputPath | None,
    seed: int,
    steps: int | None,
    sampler: str | None,
    spacing: str | None,
    clip: float | None,
    guidance: Mapping[str, InputPath | Any],
    frames: int,
    join: str,
    overlap: int | None,
    windows: int | str,
    batch: int,
    compile: bool | str,
    channels_last: bool,
    workers: int,
    trainer: Callable[..., pl.Trainer],
    command: str,
    code_version: str,
) -> Summary:
    """Sample a video for each row of the latent store ``src``, with the LVDM at ``artifact``.

    Each video depends only on the seed, its number and its source image. ``labels`` sets the condition values: None
    uses the columns of ``src``, "uniform" distributes them evenly, and the path of a csv uses its columns.
    ``ClipLengthConfig`` describes ``frames``, ``join``, ``overlap`` and ``windows``.
    """
    trainer = choose_precision(trainer, BF16_WEIGHTS)
    precision, model = sample_store.check_precision(trainer, bf16_weights=True), load_diffusion_model(artifact, "lvdm")
    config = sample_store.sampling_config(model, seed, steps, sampler, spacing, guidance, clip)
    weak = sample_store.load_weak_model(guidance, model, "lvdm")
    store = Store(src, kind="latent", encoder=model.metadata.encoder)
    clip_length = clip_config(model, frames, join, overlap, windows)
    sources = _select_sources(store.table, n, repeat)
    requests = _requested_values(model, sources, labels)
    values = model.conditioner.encode_request(requests.values)
    without_values = sample_store.columns_without_values(model, config.guidance, requests.values)
    settings = {
        **sample_store.sampling_record(config, model, weak),
        "source": store.checksum,
        **({"images": UNKNOWN} if store.dataset.synthetic and not has_known_generator(store) else {}),
        "labels": None if labels is None else sample_store.labels_fingerprint(labels, requests.values),
        **{"frames": clip_length.frames, "join": clip_length.join, "overlap": clip_length.overlap, "n": len(sources)},
        "precision": precision,
    }
    beats = sample_beats(model, config.seed, len(sources))
    rows = _file_list_rows(model, config, clip_length, sources, requests.values, store.dataset.synthetic, beats)
    dataset = sample_store.samples_dataset(model, settings, command, code_version)
    module, references = SamplingModule(model, config, clip_length, weak), None
    if "reference" in model.conditioner.names:
        names = sources["FileName"].tolist()

        def read(row: int, count: int) -> Tensor:
            return store.latents(names[row], 0, count)[0].float()

        references = reference_reader(model, read, sources, str(store.root), beats, clip_length)
    state = sample_store.sample_to_store(
        module, dst, dataset, rows, values, batch, workers, trainer, references, compile, channels_last
    )
    sizes = {"videos": len(rows), "frames each": clip_length.frames, "fps": round(model.metadata.fps, 3)}
    counts = sample_store.sampling_summary(rows, without_values, requests.unread_columns)
    return Summary(f"video: {dst} {state}", {**sizes, **counts})


def _file_list_rows(
    model: DiffusionModel,
    config: SamplingConfig,
    length: ClipLengthConfig,
    sources: pd.DataFrame,
    requests: Mapping[str, list[Any]],
    synthetic: bool,
    beats: list[Beat],
) -> dict[str, dict[str, Any]]:
    """Rows of FileList.csv, by the name of the video; Source is "real" for a real recording, HeartRate in beats/min."""
    joins, rows = " ".join(map(str, _join_frames(length))), {}
    for number, source in enumerate(sources.to_dict("records")):
        name = f"video-{number:06d}"
        cells = {column: sample_store.to_python_value(values[number]) for column, values in requests.items()}
        rows[name] = {
            "FileName": name,
            "Split": source["Split"],
            "PatientID": source["PatientID"] if synthetic else f"S{number:06d}",
            "FPS": model.metadata.fps,
            **model.conditioner.filelist_columns(cells),
            **({"HeartRate": round(60 * model.metadata.fps / beats[number].length, 2)} if beats else {}),
            "Source": source["FileName"] if synthetic else "real",
            "Joins": joins,
            **sample_store.sampling_columns(config),
        }
    return rows


def sample_beats(model: DiffusionModel, seed: int, count: int) -> list[Beat]:
    """Beat of each video, with a random length as in the training data; [] for a model without key frames."""
    times, spread = model.metadata.reference_times, model.metadata.beat_spread
    if spread is None:
        return []
    normals = (np.random.default_rng((seed, number, _BEAT_STREAM)).standard_normal() for number in range(count))
    factors = (max(_MIN_BEAT_LENGTH, 1 + spread * float(np.clip(normal, -2, 2))) for normal in normals)
    return [Beat(times[1] * factor, times[2] * factor) for factor in factors]


def reference_reader(
    model: DiffusionModel,
    read: Callable[[int, int], Tensor],
    sources: pd.DataFrame,
    src: str,
    beats: list[Beat],
    length: ClipLengthConfig,
) -> References:
    """Return a function from a video's number to its reference frames, (C, R, H, W), and their times, (R,), in frames.

    ``read(row, count)`` returns the first ``count`` frames of the source in ``row`` of ``sources``: unscaled latents,
    (count, C, H, W). ``src`` names the sources in error messages.
    """
    metadata, times = model.metadata, _reference_times(model, sources, src, length)
    max_beats = math.ceil(length.frames / (_MIN_BEAT_LENGTH * metadata.reference_times[-1])) if beats else 0
    sizes = set(zip(sources["FrameHeight"], sources["FrameWidth"], strict=True))
    if wrong := sizes - {(metadata.height, metadata.width)}:
        height, width = min(wrong)
        raise UserError(
            f"{src} has latents of {width}x{height}, but this lvdm samples {metadata.width}x{metadata.height}: "
            "give src= with images of the size of its training latents"
        )

    def read_references(row: int) -> tuple[Tensor, Tensor]:
        frames = whiten(read(row, len(times)).transpose(0, 1), metadata.statistics)
        if not beats:
            return frames, torch.tensor(times)
        index, key_times = beats[row].key_frame_times(max_beats)
        return frames[:, index], torch.tensor(key_times)

    return read_references


def clip_config(
    model: DiffusionModel, frames: int, join: str, overlap: int | None, windows: int | str
) -> ClipLengthConfig:
    window = model.metadata.frames
    validation.whole_number("frames", frames)
    check_windows("windows", windows)
    validation.one_of("join", join, ("crossfade", "continue"))
    if join == "continue" and frames > window and not model.conditioner.interpolates_references:
        raise UserError("join=continue needs a model conditioned on several reference frames: use join=crossfade")
    shared = (max(1, window // 4) if join == "crossfade" else 1) if overlap is None else overlap
    if frames > window and not 0 < validation.whole_number("overlap", shared, 0) < window:
        raise UserError(f"overlap={shared} is not possible: give 1 to {window - 1} frames, fewer than a window has")
    return ClipLengthConfig(frames, window, shared, windows, join)


def _join_frames(length: ClipLengthConfig) -> list[int]:
    """Number of the first frame of each window after the first window."""
    if length.frames <= length.window:
        return []
    if length.join == "continue":
        return list(range(length.window, length.frames, length.window - length.overlap))
    return window_starts(length.frames, length.window, length.overlap)[1:]


def _select_sources(table: pd.DataFrame, n: int | None, repeat: bool) -> pd.DataFrame:
    """Table with a row for each video: its source image, a row of ``table``."""
    count = len(table) if n is None else validation.whole_number("n", n)
    validation.true_or_false("repeat", repeat)
    if not len(table):
        raise UserError("src= has no recording: give a store of images")
    if count > len(table) and not repeat:
        raise UserError(
            f"n={count}, but src= has {len(table)} rows: lower n, sample more images, or repeat images with repeat=true"
        )
    return table.iloc[[number % len(table) for number in range(count)]].reset_index(drop=True)


def _requested_values(model: DiffusionModel, sources: pd.DataFrame, labels: str | None) -> ConditionRequests:
    """Requested condition values of all videos, by column; None for a missing value."""
    columns = list(model.conditioner.columns)
    missing = [None] * len(sources)
    values = {column: sources[column].tolist() if column in sources else missing for column in columns}
    if labels is None:
        return ConditionRequests(values)
    if labels == "uniform":
        return ConditionRequests(model.conditioner.uniform_requests(len(sources)))
    table = read_labels(labels, columns)
    order = _csv_rows(table, sources["FileName"].tolist(), labels)
    values |= {column: [cells[row] for row in order] for column, cells in table.values.items()}
    return ConditionRequests(values, unread_columns=table.unread_columns)


def _csv_rows(table: ConditionRequests, names: list[str], labels: str) -> list[int]:
    """Row of the csv for each source in ``names``, by the column Source; rows in order if there is no such column."""
    count = len(next(iter(table.values.values())))
    if table.sources is None:
        if count < len(names):
            remedy = "add rows, lower n, or add a column Source"
            raise UserError(f"labels={labels} has {count} rows for {len(names)} videos: {remedy}")
        return list(range(len(names)))
    index = pd.Index(table.sources)
    if index.has_duplicates:
        duplicate = index[index.duplicated()][0]
        raise UserError(f"labels={labels} has two rows whose Source is {duplicate}: keep one of them")
    if missing := [name for name in names if name not in index]:
        raise UserError(f"labels={labels} has no row whose Source is {missing[0]}: add a row, or leave the column out")
    return [int(row) for row in index.get_indexer(pd.Index(names))]


def _reference_times(
    model: DiffusionModel, sources: pd.DataFrame, src: str, length: ClipLengthConfig
) -> tuple[float, ...]:
    """Times, in frames, of the reference frames of a source: 0 for one frame; for several, the times in training."""
    times, has_key_frames = model.metadata.reference_times, model.metadata.beat_spread is not None
    if times and not has_key_frames and length.frames > length.window and length.join == "crossfade":
        raise UserError(
            f"this lvdm has reference frames at fixed times in {length.window} frames, but frames={length.frames}: "
            "use join=continue, or an lvdm trained with view.reference=random or keyframes"
        )
    if len(times) < 2:
        return times or (0.0,)
    if len(wrong := sources[sources["NumberOfFrames"] != len(times)]):
        kind, remedy = "reference frames", f"give src= with recordings of {len(times)} frames"
        if has_key_frames:
            kind, remedy = "key frames", "sample them with a lidm trained with view=triplet"
        raise UserError(
            f"this lvdm needs {len(times)} {kind}, but {wrong['FileName'].iloc[0]} of {src} has "
            f"{wrong['NumberOfFrames'].iloc[0]}: {remedy}"
        )
    return times
