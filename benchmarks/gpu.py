"""Training, sampling, encoding, decoding and the privacy filter at the published sizes, on one GPU, in 8 minutes.

    python benchmarks/gpu.py [--dst gpu] [--minutes 8] [--only lvdm ...] [--device cuda|cpu]
    python benchmarks/gpu.py --tiny --dst /tmp/gpu      # smallest networks on a CPU: a test of the script, not of speed

The sizes are those of experiment=echodream_published: VAE of frames 3 x 112 x 112, LIDM with batches of 256 latents,
LVDM with batches of 4 clips of 64 frames; EchoNet-Synthetic has the same networks. Weights and data are random. The
script writes ``--dst``/gpu.json (rows, versions, hardware, command) and ``--dst``/gpu.md (one table).

Every row has a share of the total time. If a row needs more than its share, or more memory than the GPU has, the row is
reported as "not measured", with the reason. Rows run in a separate process, which is restarted after a row that is too
slow. Rows with compilation come last, because compilation takes minutes.

- "plain loop": a training loop in plain PyTorch in float32, with batches from memory, as in the published code. All
  other trainings run like train.py, with Lightning, loaders and moving average: "bf16" is trainer.precision=bf16-mixed,
  "compile" is bf16 and model.compile=true, "all" is also model.channels_last=true and model.fused=true. The VAE is
  trained without discriminator.
- "video": videos of 192 frames with class guidance. "published": 256 steps of DDPM in float32, one window per call.
  All other video rows have weights in bf16 (trainer.precision=bf16-true), channels_last=true and all windows in one
  call; "all" also compile. With 4, 2 and 1 steps only the time is measured, not the quality of the samples.
- "frame by frame": encoding or decoding of one frame per call in float32, as published. The rows "encode, bf16" and
  "decode, bf16" are stage=encode and stage=decode with weights in bf16, without files.
- The limit is the rate of a matrix product in the number format of the row on this device. For float32 it is TF32, the
  default of torch for convolutions. Floating-point operations are counted by torch.utils.flop_counter.
"""

import argparse
import copy
import gc
import itertools
import json
import math
import multiprocessing
import platform
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import filter as filter_benchmark
import pandas as pd
import psutil
import torch
from measuring import run_timed
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from train_step import PlainLoop

from echodream.config.composition import composed_command
from echodream.datamodules.frame_budget_batches import FrameBatch
from echodream.diffusion.guidance import Guidance
from echodream.diffusion.model import DiffusionModel
from echodream.engine import code_version
from echodream.errors import UserError
from echodream.modules.vae import VaeDecoder, VaeEncoder
from echodream.planning.timing import RandomStudy, time_model
from echodream.privacy.nearest_neighbors import nearest_patients
from echodream.sampling.sampling_module import ClipLengthConfig, SamplingConfig, SamplingModule
from echodream.training.fit import build_module_and_data

PACKAGES = ("diffusers", "hydra-core", "numpy", "pandas", "pytorch-lightning", "torch")
MINUTES = 8.0
"""Default total time in minutes, for which the shares of the rows are given. Rows with compilation need extra time."""
WRITING_SECONDS = 3
"""Time that is reserved for writing the results after the last row, in seconds."""


class NotMeasured(Exception):
    """A row that cannot be measured; the message is the reason."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of networks and data."""

    arguments: tuple[str, ...]
    """Arguments of train.py that select study and networks."""
    overrides: Mapping[str, tuple[str, ...]]
    """Additional arguments of train.py, by model."""
    side: int
    """Height and width of a frame, in pixels."""
    recordings: int
    frames: int
    """Number of frames of a sampled video."""
    steps: Mapping[str, int]
    """Training steps of an epoch, by model; the second epoch of two is timed."""
    matrix: int
    """Number of rows and columns of the matrices whose product is the limit."""
    filter: tuple[int, int]
    """Numbers of samples and of references of the privacy filter."""


_NO_ADVERSARIAL = "loss.adversarial.weight=0"
PUBLISHED = Sizes(
    arguments=("data=cardiacnet", "experiment=echodream_published"),
    overrides={
        "vae": (_NO_ADVERSARIAL,),
        "lidm": ("process=published", "conditioning=[published]"),
        "lvdm": ("process=published", "conditioning=[published_reference,published]"),
    },
    side=112,
    recordings=655,
    frames=192,
    steps={"vae": 12, "lidm": 12, "lvdm": 8},
    matrix=8192,
    filter=(10_000, 1_000_000),
)
_TINY_UNET = ("denoiser.layers=1", "denoiser.attention=[none]", "denoiser.heads=[2]")
TINY = Sizes(
    arguments=("data=phantom", "preset=published", "datamodule.batch_size=2", "datamodule.workers=0"),
    overrides={
        "vae": (_NO_ADVERSARIAL, "loss.lite0.weight=0", "vae.widths=[8,8,8,8]", "vae.layers=1", "vae.groups=4"),
        "lidm": (*PUBLISHED.overrides["lidm"], *_TINY_UNET, "denoiser.widths=[8]", "denoiser.groups=4"),
        "lvdm": (
            *PUBLISHED.overrides["lvdm"],
            *_TINY_UNET,
            "denoiser.widths=[32]",
            "view.frames=4",
            "model.residual=false",
        ),
    },
    side=16,
    recordings=8,
    frames=10,
    steps={"vae": 2, "lidm": 2, "lvdm": 2},
    matrix=128,
    filter=(50, 500),
)


@dataclass(frozen=True)
class Result:
    """Measured value of a row."""

    value: float
    unit: str
    seconds: float
    """Seconds of one repetition (training step, batch of videos, ...)."""
    operations: float = 0.0
    """Floating-point operations of one repetition; 0 if not counted."""
    limit: str = ""
    """Number format of the matrix product that is the limit: tf32, bf16 or fp64."""
    memory: float | None = None
    """Peak memory on the GPU in GB; None on a CPU."""


class BenchmarkSetup:
    """Builds networks and data of one size on a device."""

    def __init__(self, tiny: bool, device: str, folder: Path) -> None:
        self.tiny, self.device, self.folder = tiny, device, folder
        self.sizes = TINY if tiny else PUBLISHED
        self.step_operations: dict[str, float] = {}
        self._study: RandomStudy | None = None
        if tiny:
            torch.set_num_threads(1)
            torch.compiler.set_stance("force_eager")  # compilation would take longer than all rows

    def overrides(self, name: str) -> tuple[str, ...]:
        """Arguments of train.py model=``name``, without the arguments that select the study."""
        accelerator = f"trainer.accelerator={'gpu' if self.device == 'cuda' else 'cpu'}"
        return (*self.sizes.overrides[name], accelerator)

    def study(self) -> RandomStudy:
        """A study of random recordings, which is created at the first call."""
        if self._study is None:
            count, side = self.sizes.recordings, self.sizes.side
            splits = ["TRAIN"] * 7 + ["VAL", "TEST", "TEST"]
            rows = range(count)
            table = pd.DataFrame(
                {
                    "FileName": [f"r{row}" for row in rows],
                    "Split": [splits[row % 10] if not self.tiny else splits[5 + row % 5] for row in rows],
                    "PatientID": [f"p{row}" for row in rows],
                    "NumberOfFrames": [100 + row % 100 if not self.tiny else 8 + row % 3 for row in rows],
                    "FPS": 32.0,
                    "FrameHeight": side,
                    "FrameWidth": side,
                    "class_id": [row % 4 for row in rows],
                    "class_name": ["abcd"[row % 4] for row in rows],
                }
            )
            folder = Path(tempfile.mkdtemp(dir=self.folder))
            vae = [text for text in self.sizes.overrides["vae"] if text.startswith("vae.")]
            self._study = RandomStudy(folder, table, 3, [*self.sizes.arguments, *vae])
            self._study.arguments = [text for text in self._study.arguments if text not in vae]
        return self._study

    @contextmanager
    def configuration(self, name: str, *more_overrides: str) -> Iterator[DictConfig]:
        """Resolved configuration of train.py model=``name``, with its store."""
        study = self.study()
        with composed_command(
            "train", [f"model={name}", *study.arguments, *self.overrides(name), *more_overrides]
        ) as cfg:
            OmegaConf.resolve(cfg)
            study.write_store(Path(cfg.datamodule.src))
            yield cfg

    def diffusion_model(self, name: str) -> DiffusionModel:
        """Diffusion model with random weights, on the device."""
        with self.configuration(name) as cfg:
            module: Any = build_module_and_data(cfg)[0]
        return module.model.requires_grad_(False).eval().to(self.device)

    def autoencoder(self, bf16: bool) -> Any:
        """Autoencoder with random weights, on the device; in bf16 also in channels-last memory format."""
        network = copy.deepcopy(self.study().vae).eval().requires_grad_(False).to(self.device)
        return torch.nn.Module.to(network, torch.bfloat16, memory_format=torch.channels_last) if bf16 else network

    def median_seconds(self, run: Callable[[], object], seconds: float, max_repeats: int = 20) -> float:
        """Median seconds of ``run`` after a first call, over at most ``max_repeats`` calls in about ``seconds`` / 2."""
        first = run_timed(run).wall
        max_repeats = 1 if self.tiny else max_repeats
        times = [run_timed(run).wall]
        while len(times) < max_repeats and first + sum(times) + times[-1] < seconds / 2:
            times.append(run_timed(run).wall)
        return statistics.median(times)

    def peak_memory(self) -> float | None:
        """Peak memory of the GPU in GB since the start of the row; None on a CPU."""
        return torch.cuda.max_memory_allocated() / 1e9 if self.device == "cuda" else None


class VaeLoop(PlainLoop):
    """Training steps of the VAE in a plain loop of PyTorch."""

    def loss(self, batch: Any) -> Tensor:
        """Loss of ``batch``, scalar, as in ``VAE.training_step`` before the discriminator starts."""
        network, x = self.module.network, batch["x"]
        posterior = network.encode(x).latent_dist
        reconstruction = network.decode(posterior.sample()).sample
        terms = self.module.terms.values()
        return torch.stack([term.weight * term(x, reconstruction, posterior) for term in terms]).sum()


def count_operations(run: Callable[[], object]) -> float:
    """Floating-point operations of ``run``."""
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def matrix_product(setup: BenchmarkSetup, seconds: float, dtype: torch.dtype) -> Result:
    """Rate of a product of square matrices, which is the limit of other rows; in TF32 if ``dtype`` is float32."""
    side = setup.sizes.matrix if dtype != torch.float64 else setup.sizes.matrix // 2
    a, b = (torch.randn(side, side, device=setup.device, dtype=dtype) for _ in range(2))
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        duration = setup.median_seconds(lambda: torch.mm(a, b), seconds)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed
    operations = 2.0 * side**3
    return Result(operations / duration / 1e12, "TFLOP/s", duration, operations)


def plain_training(setup: BenchmarkSetup, seconds: float, name: str) -> Result:
    """Training of the model ``name`` in a plain loop in float32."""
    with setup.configuration(name, "model.fused=false") as cfg:
        module, data = build_module_and_data(cfg)
        loop_class = VaeLoop if name == "vae" else PlainLoop
        OmegaConf.set_struct(cfg, False)
        cfg.trainer.gradient_clip_val = cfg.trainer.get("gradient_clip_val", cfg.model.get("clip"))
        loop = loop_class(module, cfg, setup.device, 1000)
        batches = list(itertools.islice(data.train_dataloader(), 2))
    cycle = itertools.cycle(batches)
    duration = setup.median_seconds(lambda: loop(next(cycle)), seconds)
    memory = setup.peak_memory()
    operations = setup.step_operations[name] = count_operations(lambda: loop(batches[0]))
    return Result(len(batches[0]["x"]) / duration, "samples/s", duration, operations, "tf32", memory)


def training(setup: BenchmarkSetup, seconds: float, name: str, overrides: Sequence[str]) -> Result:
    """Training of the model ``name`` as train.py does, with ``overrides``."""
    study, steps = setup.study(), setup.sizes.steps[name]
    timing = time_model(name, study, steps, *setup.overrides(name), "trainer.precision=bf16-mixed", *overrides)
    if name not in setup.step_operations:  # a restarted process has not counted operations
        plain_training(setup, 0, name)
    duration = timing.seconds_per_step
    memory = timing.gigabytes if setup.device == "cuda" else None
    return Result(timing.batch / duration, "samples/s", duration, setup.step_operations[name], "bf16", memory)


def loader_speed(setup: BenchmarkSetup, seconds: float, name: str) -> Result:
    """Speed of the data loader alone, which shows whether a training waits for its loader."""
    with setup.configuration(name) as cfg:
        data = build_module_and_data(cfg)[1]
        batches = iter(data.train_dataloader())
    size = len(next(batches)["x"])
    count, start = 0, time.perf_counter()
    for _ in batches:
        count += 1
        if count == 50 or time.perf_counter() - start > seconds:
            break
    duration = (time.perf_counter() - start) / max(count, 1)
    return Result(size / duration, "samples/s", duration)


def video_sampling(
    setup: BenchmarkSetup, seconds: float, steps: int, fast: bool = True, compile: bool = False
) -> Result:
    """Sampling of videos with guidance: fast, or as published (float32, overlap of half, one window per call)."""
    model, rows = setup.diffusion_model("lvdm"), 4 if fast and not setup.tiny else 1
    metadata, ddpm, window = model.metadata, steps == 256, model.metadata.frames
    overlap = window // 4 if fast else window // 2
    length = ClipLengthConfig(setup.sizes.frames, window, overlap, "auto" if fast else 1)
    values = model.conditioner.encode_request(model.conditioner.uniform_requests(rows))
    values["reference"] = torch.randn(rows, metadata.channels, 1, metadata.height, metadata.width)
    values["reference_time"] = torch.zeros(rows, 1)
    values = {name: value.to(setup.device) for name, value in values.items()}
    scales = dict.fromkeys(model.conditioner.columns, 5.0)

    def sample(steps: int) -> None:
        solver = ("ddpm", "leading") if ddpm else ("unipc", "quadratic")
        config = SamplingConfig(0, steps, solver[0], Guidance(scales), solver[1], 4.0)
        with torch.inference_mode():
            SamplingModule(model, config, length).to(setup.device).sample_latents(list(range(rows)), values)

    operations = steps * count_operations(lambda: sample(1))  # one evaluation of the network per step
    if fast:
        model.denoiser.to(torch.bfloat16)
        model.denoiser.accelerate(compile, channels_last=True)
    sample(1)
    expected = steps * run_timed(lambda: sample(1)).wall
    if expected > 0.8 * seconds:
        raise NotMeasured(f"it takes about {expected:.0f} s, and its share is {seconds:.0f} s")
    duration = (
        setup.median_seconds(lambda: sample(steps), seconds) if steps < 256 else run_timed(lambda: sample(steps)).wall
    )
    return Result(duration / rows, "s/video", duration, operations, "bf16" if fast else "tf32", setup.peak_memory())


def encoding(setup: BenchmarkSetup, seconds: float, fast: bool) -> Result:
    """Encoding of frames in memory: in bf16 like stage=encode, or frame by frame in float32."""
    network, side = setup.autoencoder(fast), setup.sizes.side
    count = 4 if setup.tiny else 512 if fast else 64
    frames = torch.randint(0, 256, (count, network.config.in_channels, side, side), dtype=torch.uint8)
    frames = frames.to(setup.device)
    module = VaeEncoder(network, 64 if fast else 1)
    return _frame_rate(
        setup, seconds, lambda: module.predict_step(FrameBatch(("x",), (count,), frames), 0), count, fast
    )


def decoding(setup: BenchmarkSetup, seconds: float, fast: bool) -> Result:
    """Decoding of latents in memory: in bf16 like stage=decode, or frame by frame in float32."""
    network, side = setup.autoencoder(fast), setup.sizes.side // 8
    count = 4 if setup.tiny else 512 if fast else 64
    latents = torch.randn(count, network.config.latent_channels, side, side, device=setup.device)
    module = VaeDecoder(network, 64 if fast else 1, False)
    return _frame_rate(
        setup, seconds, lambda: module.predict_step(FrameBatch(("x",), (count,), latents), 0), count, fast
    )


def _frame_rate(setup: BenchmarkSetup, seconds: float, run: Callable[[], object], count: int, fast: bool) -> Result:
    with torch.inference_mode():
        duration = setup.median_seconds(run, seconds)
        memory = setup.peak_memory()
        operations = count_operations(run)
    return Result(count / duration, "frames/s", duration, operations, "bf16" if fast else "tf32", memory)


def privacy_filter(setup: BenchmarkSetup, seconds: float) -> Result:
    """Search of the nearest reference of each sample, with 128 features in double precision."""
    samples, references = (torch.randn(count, 128, device=setup.device) for count in setup.sizes.filter)
    recordings = filter_benchmark.split_into_recordings(references)
    duration = setup.median_seconds(lambda: nearest_patients(samples, recordings, "pearson"), seconds, 5)
    operations = 2.0 * len(samples) * len(references) * 128
    return Result(duration, "s", duration, operations, "fp64", setup.peak_memory())


@dataclass(frozen=True)
class Row:
    """A measurement, which is a row of the table."""

    name: str
    seconds: float
    """Share of the total time, in seconds."""
    measure: Callable[[BenchmarkSetup, float], Result]
    reference: str = ""
    """Name of the row that the value is compared with."""


_COMPILE = ("model.compile=true",)
_ALL = (*_COMPILE, "model.channels_last=true", "model.fused=true")


def rows() -> list[Row]:
    """All rows, in the order in which they are measured."""
    types = {"tf32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}
    all_rows = [Row(f"limit {name}", 4, partial(matrix_product, dtype=dtype)) for name, dtype in types.items()]
    for name, seconds in (("vae", 20), ("lidm", 20), ("lvdm", 30)):
        plain = f"{name}, plain loop, fp32"
        all_rows.append(Row(plain, seconds, partial(plain_training, name=name)))
        all_rows.append(
            Row(f"{name}, bf16", seconds, partial(training, name=name, overrides=("model.fused=false",)), plain)
        )
    published = "video, steps=256, published"
    all_rows.append(Row(published, 75, partial(video_sampling, steps=256, fast=False)))
    for steps, seconds in ((256, 45), (20, 12), (4, 8), (2, 8), (1, 8)):
        all_rows.append(Row(f"video, steps={steps}, bf16", seconds, partial(video_sampling, steps=steps), published))
    for name, run in (("encode", encoding), ("decode", decoding)):
        slow_row = f"{name}, frame by frame, fp32"
        all_rows.append(Row(slow_row, 8, partial(run, fast=False)))
        all_rows.append(Row(f"{name}, bf16", 8, partial(run, fast=True), slow_row))
    all_rows.append(Row("filter", 12, privacy_filter))
    all_rows += [Row(f"{name}, loader alone", 10, partial(loader_speed, name=name)) for name in ("lidm", "lvdm")]
    for variant, overrides in (("all", _ALL), ("compile", _COMPILE)):
        for name, seconds in (("lidm", 75), ("lvdm", 120), ("vae", 60)):
            measure = partial(training, name=name, overrides=overrides)
            all_rows.append(Row(f"{name}, {variant}", seconds, measure, f"{name}, plain loop, fp32"))
    return [*all_rows, Row("video, steps=20, all", 75, partial(video_sampling, steps=20, compile=True), published)]


def serve_measurements(connection: Connection, tiny: bool, device: str, folder: Path) -> None:
    """Measure each row whose name arrives on ``connection``, and send the result; runs in a separate process."""
    setup, by_name = BenchmarkSetup(tiny, device, folder), {row.name: row for row in rows()}
    connection.send("ready")
    while True:
        name, seconds = connection.recv()
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            connection.send(by_name[name].measure(setup, seconds))
        except (NotMeasured, UserError) as error:
            connection.send(str(error))
        except torch.OutOfMemoryError:
            connection.send("the memory of the GPU is not sufficient")


class Worker:
    """The process that measures rows; it is stopped if a row is too slow, and started again for the next row."""

    def __init__(self, time_factor: float, *settings: Any) -> None:
        self.time_factor, self.settings = time_factor, settings
        self.process: Any = None

    def measure(self, row: Row, deadline: float) -> Result | str:
        """Result of ``row``, or the reason why it was not measured within its share or before ``deadline``."""
        seconds = min(self.time_factor * row.seconds, deadline - time.monotonic())
        if seconds <= 0:
            return "no time left"
        try:
            if self.process is None:
                self._start()
                self._receive(deadline - time.monotonic())
            seconds = min(self.time_factor * row.seconds, deadline - time.monotonic())
            self.connection.send((row.name, seconds))
            return self._receive(seconds)
        except TimeoutError:
            is_late = time.monotonic() >= deadline
            reason = "no time left" if is_late else f"it takes more than its share of {seconds:.0f} s"
        except (EOFError, OSError):
            reason = "the process ended with an error, see above"
        self.stop()
        return reason

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, worker_end = context.Pipe()
        self.process = context.Process(target=serve_measurements, args=(worker_end, *self.settings))
        self.process.start()
        worker_end.close()

    def _receive(self, seconds: float) -> Any:
        if seconds <= 0 or not self.connection.poll(seconds):
            raise TimeoutError
        return self.connection.recv()

    def stop(self) -> None:
        """End the process and the processes that it has started."""
        if self.process is None:
            return
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                child.kill()
        self.process.kill()
        self.process.join()
        self.process = None


def measure_rows(chosen: list[Row], worker: Worker, deadline: float) -> Iterator[dict[str, Any]]:
    """Entries of the JSON file, one for each row, until ``deadline`` (time.monotonic)."""
    limits, values = dict[str, float](), dict[str, Result]()
    for row in chosen:
        result = worker.measure(row, deadline)
        entry: dict[str, Any] = {"row": row.name}
        if isinstance(result, str):
            yield {**entry, "not measured": result}
            continue
        values[row.name] = result
        if row.name.startswith("limit "):
            limits[row.name.removeprefix("limit ")] = result.operations / result.seconds
        entry |= {"value": result.value, "unit": result.unit, "seconds": result.seconds}
        if result.memory is not None:
            entry["peak memory, GB"] = result.memory
        if result.operations:
            entry["TFLOP/s"] = result.operations / result.seconds / 1e12
            if result.limit in limits:
                entry["limit"] = result.limit
                entry["share of the limit"] = result.operations / result.seconds / limits[result.limit]
        if row.reference in values:
            ratio = result.value / values[row.reference].value
            entry["reference"], entry["times faster"] = (
                row.reference,
                1 / ratio if result.unit in ("s", "s/video") else ratio,
            )
        yield entry


def run_description(options: argparse.Namespace) -> dict[str, Any]:
    """Versions, hardware and command, for the JSON file."""
    hardware: dict[str, Any] = {"processor": platform.processor() or platform.machine(), "cores": psutil.cpu_count()}
    if options.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        hardware |= {"gpu": properties.name, "gpu memory, GB": properties.total_memory / 1e9}
    versions = {name: version(name) for name in PACKAGES}
    versions |= {"python": platform.python_version(), "cuda": torch.version.cuda, "echodream": code_version()}
    command = shlex.join(["python", "benchmarks/gpu.py", *sys.argv[1:]])
    return {"command": command, "versions": versions, "hardware": hardware, "tiny": options.tiny}


def markdown_table(record: Mapping[str, Any]) -> str:
    """The rows as a table in Markdown."""
    machine = ", ".join(str(value) for value in [*record["hardware"].values(), f"torch {record['versions']['torch']}"])
    lines = [f"{machine}: `{record['command']}`", ""]
    lines += ["| row | value | times faster | peak memory | share of the limit |", "| --- | --- | --- | --- | --- |"]
    for entry in record["rows"]:
        if "not measured" in entry:
            lines.append(f"| {entry['row']} | not measured: {entry['not measured']} | | | |")
            continue
        ratio = f"{entry['times faster']:.3g}" if "times faster" in entry else ""
        memory = f"{entry['peak memory, GB']:.3g} GB" if "peak memory, GB" in entry else ""
        share = f"{100 * entry['share of the limit']:.3g} % of {entry['limit']}" if "limit" in entry else ""
        lines.append(f"| {entry['row']} | {entry['value']:.4g} {entry['unit']} | {ratio} | {memory} | {share} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure all rows, and write the JSON file and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dst", default="gpu", help="folder of the results")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="total time for all rows, in minutes")
    parser.add_argument("--only", nargs="+", default=[""], help="measure the rows whose name contains a word")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="smallest networks and data, on a CPU")
    options = parser.parse_args()
    options.device = "cpu" if options.tiny else options.device
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch finds no GPU: give --tiny to test the script without one")
    elapsed = time.time() - psutil.Process().create_time()
    deadline = time.monotonic() + 60 * options.minutes - elapsed - WRITING_SECONDS
    chosen = [row for row in rows() if any(word in row.name for word in options.only) or row.name.startswith("limit")]
    dst = Path(options.dst)
    dst.mkdir(parents=True, exist_ok=True)
    record = {**run_description(options), "rows": []}
    with tempfile.TemporaryDirectory(prefix="echodream-gpu-") as folder:
        worker = Worker(options.minutes / MINUTES, options.tiny, options.device, Path(folder))
        try:
            for entry in measure_rows(chosen, worker, deadline):
                print(json.dumps(entry), file=sys.stderr, flush=True)
                record["rows"].append(entry)
                (dst / "gpu.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        finally:
            worker.stop()
    (dst / "gpu.md").write_text(markdown_table(record), encoding="utf-8")
    print(markdown_table(record))
    if not all(math.isfinite(entry.get("value", 0.0)) for entry in record["rows"]):
        sys.exit("a value is not finite")


if __name__ == "__main__":
    main()
