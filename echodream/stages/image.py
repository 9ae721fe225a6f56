"""``stage=image``: sample a Store of latent images, or of jointly generated key frames."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytorch_lightning as pl

from echodream import validation
from echodream.config.stage_signature import InputPath, OutputPath
from echodream.datamodules.recordings import Recordings
from echodream.diffusion.conditioning.conditioner import Conditioner
from echodream.diffusion.model import DiffusionModel, load_diffusion_model
from echodream.errors import UserError
from echodream.runs.summary import Summary
from echodream.runs.trainer import BF16_WEIGHTS, choose_precision
from echodream.sampling import sample_store
from echodream.sampling.label_csv import SOURCE_COLUMN, ConditionRequests, read_labels
from echodream.sampling.sampling_module import SamplingConfig, SamplingModule
from echodream.store import Store

_DEFAULT_COUNT = 2000
"""Default number of images, if ``labels`` is not a csv."""


def image(
    *,
    dst: OutputPath,
    artifact: InputPath,
    n: int | None,
    labels: InputPath,
    training: InputPath,
    seed: int,
    steps: int | None,
    sampler: str | None,
    spacing: str | None,
    clip: float | None,
    guidance: Mapping[str, InputPath | Any],
    batch: int,
    compile: bool | str,
    channels_last: bool,
    workers: int,
    trainer: Callable[..., pl.Trainer],
    command: str,
    code_version: str,
) -> Summary:
    """Sample ``n`` images with the LIDM at ``artifact``. Each image depends only on the seed and its number.

    ``labels`` sets the condition values: "uniform" distributes them evenly, "training" copies random TRAIN rows of the
    store ``training``, and the path of a csv uses its rows. ``n`` is by default the number of rows of the csv, or 2000.
    """
    trainer = choose_precision(trainer, BF16_WEIGHTS)
    precision, model = sample_store.check_precision(trainer, bf16_weights=True), load_diffusion_model(artifact, "lidm")
    config = sample_store.sampling_config(model, seed, steps, sampler, spacing, guidance, clip)
    weak = sample_store.load_weak_model(guidance, model, "lidm")
    requests = _requested_values(model.conditioner, labels, training, n, config.seed)
    count = len(next(iter(requests.values.values()))) if requests.values else n or _DEFAULT_COUNT
    values = model.conditioner.encode_request(requests.values)
    without_values = sample_store.columns_without_values(model, config.guidance, requests.values)
    settings = {
        **sample_store.sampling_record(config, model, weak),
        "n": count,
        "labels": sample_store.labels_fingerprint(labels, requests.values),
        "precision": precision,
    }
    rows = _file_list_rows(model, config, requests.values, count)
    dataset = sample_store.samples_dataset(model, settings, command, code_version)
    module = SamplingModule(model, config, weak=weak)
    state = sample_store.sample_to_store(
        module, dst, dataset, rows, values, batch, workers, trainer, None, compile, channels_last
    )
    counts = sample_store.sampling_summary(rows, without_values, requests.unread_columns)
    return Summary(f"image: {dst} {state}", {"images": count, **counts})


def _file_list_rows(
    model: DiffusionModel, config: SamplingConfig, requests: Mapping[str, list[Any]], count: int
) -> dict[str, dict[str, Any]]:
    """Rows of FileList.csv, by the name of the image."""
    rows = {}
    key_frames = {} if model.metadata.beat_spread is None else {"ED": "0 2", "ES": "1"}
    for row in range(count):
        name = f"image-{row:06d}"
        cells = {column: sample_store.to_python_value(values[row]) for column, values in requests.items()}
        rows[name] = {
            "FileName": name,
            "Split": "TRAIN",
            "PatientID": f"S{row:06d}",
            "FPS": model.metadata.fps,
            **key_frames,
            **model.conditioner.filelist_columns(cells),
            **sample_store.sampling_columns(config),
        }
    return rows


def _requested_values(
    conditioner: Conditioner, labels: str, training: str, n: int | None, seed: int
) -> ConditionRequests:
    """Requested condition values of all images, by column."""
    columns, count = list(conditioner.columns), _DEFAULT_COUNT if n is None else validation.whole_number("n", n)
    if labels == "uniform" or (labels == "training" and not columns):
        return ConditionRequests(conditioner.uniform_requests(count))
    if labels == "training":
        rows = Recordings(Store(training), "TRAIN")
        sampled = [int(np.random.default_rng((seed, row)).integers(len(rows))) for row in range(count)]
        return ConditionRequests({column: rows.column(column)[sampled].tolist() for column in columns})
    if not labels.endswith(".csv"):
        raise UserError(f"labels={labels}: choose uniform or training, or give the path of a csv")
    table = read_labels(labels, columns)
    row_count = len(next(iter(table.values.values())))
    if n is not None and n > row_count:
        raise UserError(f"n={n}, but labels={labels} has {row_count} rows: lower n, or leave it out")
    unread = (*table.unread_columns, *([SOURCE_COLUMN] if table.sources is not None else []))
    return ConditionRequests({column: cells[:n] for column, cells in table.values.items()}, unread_columns=unread)
