"""Timing of training steps on random data of a study's size: parameters, seconds per step, memory and disk space."""

import logging
import math
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback, Checkpoint, EarlyStopping
from torch import Tensor

from echodream.artifact import Artifact, write_artifact
from echodream.config.composition import composed_command
from echodream.networks.autoencoder import downsampling_factor
from echodream.runs.trainer import choose_precision, make_trainer
from echodream.store import Dataset, Statistics
from echodream.store.latents import write_latents
from echodream.store.schema import DATASET, FILE_LIST, MEDIA_FILES, REQUIRED_COLUMNS, media_path
from echodream.store.table import write_table
from echodream.store.video import write_video
from echodream.training.fit import build_module_and_data
from echodream.weights import fingerprint

_LENGTH_COUNT = 12
"""Number of different lengths of the random recordings."""
_EVALUATION_SECONDS = 20.0
"""Time limit of a validation or test, in seconds; the maximum number of steps follows from the seconds per step."""
_MAX_STEP_SECONDS = 2.0
"""Maximum seconds of a training step for which the work after training, such as the fit of noise, is timed."""
_STATE_BYTES, _FLOAT_BYTES = 16, 4
"""Bytes per trained parameter (weight, gradient and two moments of Adam), and bytes of a float."""


@dataclass(frozen=True)
class ModelTiming:
    """Size and cost of the training of one model, measured on this machine."""

    model: str
    parameters: int
    batch: int
    """Samples per step."""
    steps: int
    epochs: int
    seconds_per_step: float
    hours: float
    """Hours of training, validations and test, on this machine."""
    gigabytes: float
    """Estimated memory of weights, gradients, Adam and activations; on a GPU, the measured maximum."""
    gigabytes_per_sample: float
    """Memory per sample of the batch: the part of ``gigabytes`` that grows with the batch size."""
    disk: int
    """Bytes of the artifact and the checkpoint."""
    device: str


class RandomStudy:
    """A study in ``folder`` with the recordings of ``table`` and random pixels and latents, for timing runs.

    ``arguments``: arguments of train.py that select the study. Media files of equal size are hard links. Recordings
    with key frames get one beat per second, and so do all recordings if the study has no columns ED and ES.
    """

    def __init__(self, folder: Path, table: pd.DataFrame, channels: int, arguments: Sequence[str]) -> None:
        self.folder, self.channels = folder, channels
        self.arguments = [
            *arguments,
            *(f"paths.{name}={folder / name}" for name in ("data", "models", "runs", "samples")),
        ]
        levels = np.unique(np.quantile(table["NumberOfFrames"], np.linspace(0, 1, _LENGTH_COUNT)).round().astype(int))
        nearest = np.abs(table["NumberOfFrames"].to_numpy()[:, None] - levels).argmin(axis=1)
        self.table = table.assign(NumberOfFrames=levels[nearest])
        marks = [_beat_cells(frames, fps) for frames, fps in zip(levels[nearest], table["FPS"], strict=True)]
        for number, name in enumerate(("ED", "ES")):  # the key frames of the study do not fit the rounded lengths
            is_marked = table[name].fillna("").astype(str) != "" if name in table else [True] * len(table)
            self.table[name] = [beat[number] if marked else "" for beat, marked in zip(marks, is_marked, strict=True)]
        with composed_command("train", ["model=vae", *self.arguments]) as cfg:
            OmegaConf.resolve(cfg)
            self.vae: Any = instantiate(cfg.vae)
            study, root = str(cfg.data.name), Path(cfg.dst)
        write_artifact(root, Artifact("vae", study, fingerprint(self.vae), ""), "", self.vae.save_pretrained)

    def write_store(self, root: Path) -> None:
        """Write the store ``root`` unless it exists: latents if its name contains "latents", else videos."""
        if root.exists():
            return
        kind, scale = ("latent", downsampling_factor(self.vae)) if "latents" in root.name else ("video", 1)
        table = self.table.assign(FrameHeight=self.table["FrameHeight"] // scale)
        table["FrameWidth"] //= scale
        channels = self.vae.config.latent_channels if kind == "latent" else self.channels
        (root / MEDIA_FILES[kind][0]).mkdir(parents=True)
        originals: dict[tuple[int, int, int], Path] = {}
        for name, frames, height, width, fps in zip(*(table[c] for c in _MEDIA_COLUMNS), strict=True):
            path, shape = media_path(root, kind, name), (int(frames), int(height), int(width))
            if shape in originals:
                os.link(originals[shape], path)
            elif kind == "latent":
                mean = np.random.default_rng(0).standard_normal((shape[0], channels, *shape[1:])).astype(np.float16)
                write_latents(path, mean, np.full_like(mean, 0.1))
            else:
                write_video(path, _random_pixels(shape, channels), fps)
            originals.setdefault(shape, path)
        statistics = Statistics((0.0,) * channels, (1.0,) * channels) if kind == "latent" else None
        layout = {"layout": "F,C,H,W", "fidelity": "float16", "encoder": fingerprint(self.vae)} if statistics else {}
        dataset = Dataset(kind=kind, channels=channels, statistics=statistics, **layout)  # type: ignore[arg-type]
        rows = [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
        write_table(root / FILE_LIST, rows, REQUIRED_COLUMNS)
        (root / DATASET).write_text(dataset.to_json(), encoding="utf-8")


_MEDIA_COLUMNS = ("FileName", "NumberOfFrames", "FrameHeight", "FrameWidth", "FPS")


def _beat_cells(frames: int, fps: float) -> tuple[str, str]:
    """Cells of ED and ES with one beat per second, and at least one beat in a recording of three or more frames."""
    beat = max(2, min(round(fps), int(frames) - 1))
    starts = range(0, max(1, int(frames) - beat), beat)
    diastoles = sorted({min(start + offset, int(frames) - 1) for start in starts for offset in (0, beat)})
    return " ".join(map(str, diastoles)), " ".join(str(start + beat // 2) for start in starts)


def _random_pixels(shape: tuple[int, int, int], channels: int) -> np.ndarray:
    """Pixels of a moving ramp with noise: uint8, (F, H, W, C)."""
    noise = np.random.default_rng(0).integers(0, 64, (*shape, channels))
    ramp = np.arange(shape[2])[:, None] + 2 * np.arange(shape[0])[:, None, None, None]
    return ((noise + ramp) % 256).astype(np.uint8)


class StepTimer(Callback):
    """Measures times of steps and of the work between epochs. The timer must be the last callback."""

    def __init__(self) -> None:
        self.step_ends: list[float] = []
        """Time at the end of each training step, in seconds."""
        self.epoch_gaps: list[float] = []
        """Seconds between the last step of each epoch and the first step of the next epoch."""
        self.evaluation_times: list[float] = []
        """Times at the start of the validation or test and at the end of each of its steps, in seconds."""
        self.evaluation_end = 0.0
        """Time at the end of the validation or test, after its metrics, in seconds."""
        self.saved_bytes: dict[int, int] = {}
        """Bytes that autograd keeps in the first step, by memory address."""
        self.hooks = ExitStack()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if not self.step_ends:
            self.hooks.enter_context(torch.autograd.graph.saved_tensors_hooks(self._add_bytes, lambda tensor: tensor))
        elif batch_idx == 0:
            self.epoch_gaps.append(_synchronized_time() - self.step_ends[-1])

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.hooks.close()
        self.step_ends.append(_synchronized_time())

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.evaluation_times = [_synchronized_time()]

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.evaluation_times.append(_synchronized_time())

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.evaluation_end = _synchronized_time()

    on_test_start, on_test_batch_end, on_test_end = on_validation_start, on_validation_batch_end, on_validation_end

    def evaluation_seconds(self, batches: int) -> float:
        """Seconds of a validation or test of ``batches`` steps, extrapolated from the measured steps."""
        if len(self.evaluation_times) < 2:
            return 0.0
        further = batches - (len(self.evaluation_times) - 1)
        return self.evaluation_end - self.evaluation_times[0] + further * _median_step(self.evaluation_times[1:])

    def _add_bytes(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self.saved_bytes[storage.data_ptr()] = storage.nbytes()
        return tensor


def _synchronized_time() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def time_model(name: str, study: RandomStudy, steps: int, *overrides: str) -> ModelTiming:
    """Train model=``name`` for two epochs of ``steps`` steps on ``study``, and validate and test it.

    If the adversarial loss of the vae starts during the training, steps with and without this loss are timed. Raises
    ``UserError`` if the model cannot be trained.
    """
    with _without_log_messages(), composed_command("train", [f"model={name}", *study.arguments, *overrides]) as cfg:
        OmegaConf.resolve(cfg)
        timing = _time_training(name, cfg, study, steps)
        start = int(OmegaConf.select(cfg, "loss.adversarial.start", default=0) or 0)
        if name != "vae" or not OmegaConf.select(cfg, "loss.adversarial.weight") or not 0 < start < timing.steps:
            return timing
        for adversarial in (cfg.loss.adversarial, cfg.model.module.losses.adversarial):
            adversarial.start, adversarial.decoder_start = 0, None
        second = _time_training(name, cfg, study, steps)
    share = start / timing.steps
    averages = {
        key: share * getattr(timing, key) + (1 - share) * getattr(second, key) for key in ("seconds_per_step", "hours")
    }
    largest = {
        key: max(asdict(timing)[key], asdict(second)[key]) for key in ("gigabytes", "gigabytes_per_sample", "disk")
    }
    return replace(timing, parameters=second.parameters, **averages, **largest)


@contextmanager
def _without_log_messages() -> Iterator[None]:
    """Context without log messages and warnings: messages about a few steps do not apply to the planned training."""
    logger = logging.getLogger("echodream")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _time_training(name: str, cfg: DictConfig, study: RandomStudy, steps: int) -> ModelTiming:
    study.write_store(Path(cfg.datamodule.src))
    begin = _synchronized_time()
    module, data = build_module_and_data(cfg)
    build = _synchronized_time() - begin
    planned: Mapping[str, Any] = OmegaConf.to_container(cfg.trainer)  # type: ignore[assignment]
    batches = _limited_batches(len(data.train_dataloader()), planned["limit_train_batches"])
    validation_batches = _limited_batches(len(data.val_dataloader()), planned["limit_val_batches"])
    test_batches = _limited_batches(len(data.test_dataloader()), planned["limit_test_batches"])
    timer, ema = StepTimer(), OmegaConf.select(cfg, "callbacks.ema")
    callbacks = [instantiate(callback) for callback in (cfg.callbacks or {}).values() if callback]
    callbacks = [*(each for each in callbacks if not isinstance(each, Checkpoint | EarlyStopping)), timer]
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()

    def limited_trainer(**limits: Any) -> pl.Trainer:
        settings: dict[str, Any] = {"max_epochs": 2, "num_sanity_val_steps": 0, "limit_val_batches": 0, **limits}
        return make_trainer(
            choose_precision(
                instantiate(OmegaConf.merge(cfg.trainer, settings)), module.auto_precision, module.cpu_precision
            ),
            callbacks,
            unused_parameters=module.has_unused_parameters,
            logger=False,
            enable_checkpointing=False,
        )

    trainer = limited_trainer(limit_train_batches=min(batches, steps))
    trainer.fit(module, datamodule=data)
    per_step = _median_step(timer.step_ends)
    most = max(steps, round(_EVALUATION_SECONDS / max(per_step, 1e-9)))
    evaluator = limited_trainer(
        limit_val_batches=min(most, validation_batches), limit_test_batches=min(most, test_batches)
    )
    evaluator.validate(module, datamodule=data, verbose=False)
    per_validation = timer.evaluation_seconds(validation_batches)
    begin = _synchronized_time()
    if per_step < _MAX_STEP_SECONDS:
        module.to(trainer.strategy.root_device).finish_training(data)
    finish = _synchronized_time() - begin
    evaluator.test(module, datamodule=data, verbose=False)
    test = timer.evaluation_seconds(test_batches)
    parameters = list(module.parameters())
    weights = sum(parameter.numel() for parameter in parameters)
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    parameter_addresses = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    activations = sum(size for address, size in timer.saved_bytes.items() if address not in parameter_addresses)
    state = _STATE_BYTES * trained + _FLOAT_BYTES * (weights - trained) + _FLOAT_BYTES * trained * bool(ema)
    on_gpu = trainer.strategy.root_device.type == "cuda"
    memory = torch.cuda.max_memory_allocated() if on_gpu else state + activations
    epochs, every = int(planned["max_epochs"]), int(planned["check_val_every_n_epoch"] or 1)
    training = epochs * (max(timer.epoch_gaps, default=0.0) + batches * per_step)
    seconds = build + training + epochs // every * per_validation + finish + test
    return ModelTiming(
        model=name,
        parameters=weights,
        batch=int(cfg.datamodule.batch_size),
        steps=batches * epochs,
        epochs=epochs,
        seconds_per_step=per_step,
        hours=seconds / 3600,
        gigabytes=memory / 1e9,
        gigabytes_per_sample=max(0.0, memory - state) / 1e9 / int(cfg.datamodule.batch_size),
        disk=_FLOAT_BYTES * (2 * weights + 2 * trained + trained * bool(ema)),
        device=torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads",
    )


def _limited_batches(batches: int, limit: float) -> int:
    """Number of batches with Lightning's ``limit``: a maximum number (int), or a fraction (float) of ``batches``."""
    return min(batches, limit) if isinstance(limit, int) else math.floor(batches * limit)


def _median_step(ends: Sequence[float]) -> float:
    """Median seconds between successive ``ends`` of steps, in the second half; 0 for fewer than two steps."""
    differences = np.diff(ends)[len(ends) // 2 :] if len(ends) > 3 else np.diff(ends)
    return float(np.median(differences)) if len(differences) else 0.0
