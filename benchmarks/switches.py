"""Time of a computation with and without each speed setting ("switch"), and the difference of the results.

    python benchmarks/switches.py [--device cpu|cuda] [--preset tiny|small|published] [--only compile fused ...]
        [--rounds 7] [--threads 2] [--json switches.json]

The networks have random weights and the sizes of ``--preset``. After one call each, the computations without and with a
switch alternate in one process for ``--rounds`` rounds. The script prints the median time without and with the switch
in milliseconds, the median and range of the ratio over the rounds (above 1: the switch is faster), and the largest
difference of the results, divided by the largest value. On a CPU, the time is processor time, except for switches that
use several cores, which are measured in wall time. Compilation is not included in the times.
"""

import argparse
import copy
import functools
import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from measuring import run_timed
from pytorch_lightning import Trainer
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from train_step import build_module_and_data, training_config, write_latent_store

from echodream.callbacks.store_writer import StoreWriterCallback
from echodream.config.paths import CONF_DIR
from echodream.datamodules.datamodule import StoreData
from echodream.datamodules.dataset import ViewDataset
from echodream.datamodules.device_cache import DeviceCache
from echodream.datamodules.frame_budget_batches import FrameBatch
from echodream.diffusion import samplers
from echodream.diffusion.guidance import Guidance
from echodream.diffusion.model import DiffusionModel
from echodream.modules.latent_diffusion import LatentDiffusion
from echodream.modules.vae import MAX_CPU_FRAMES, VaeDecoder
from echodream.networks.acceleration import CUDA_GRAPHS
from echodream.networks.autoencoder import downsampling_factor
from echodream.runs.predict import PredictionData, run_prediction
from echodream.sampling.sampling_module import ClipLengthConfig, SamplingConfig, SamplingModule
from echodream.store import Dataset, Store
from echodream.store.video import write_video


class Pair(NamedTuple):
    """A computation without and with a switch."""

    without: Callable[[], Tensor]
    with_switch: Callable[[], Tensor]
    wall: bool = False
    """Whether wall time, not processor time, is measured on a CPU."""


class Networks:
    """Networks of one preset with random weights, on a device."""

    def __init__(self, preset: str, device: str, rows: int, frames: int, folder: Path) -> None:
        self.preset, self.device, self.rows, self.frames, self.folder = preset, device, rows, frames, folder

    def module_and_data(self, name: str) -> tuple[LatentDiffusion, StoreData]:
        """Module of the model ``name`` with random weights, and a store of random latents."""
        torch.manual_seed(0)
        options = argparse.Namespace(
            model=name, preset=self.preset, batch=self.rows, frames=self.frames, compile=False, channels_last=False
        )
        options.device, options.precision, options.steps, options.rounds = self.device, "32-true", 1, 1
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        write_latent_store(folder, options)
        return build_module_and_data(training_config(folder, options))

    def diffusion_model(self, name: str) -> DiffusionModel:
        """Diffusion model ``name`` with random weights."""
        module, _ = self.module_and_data(name)
        return module.model.requires_grad_(False).eval().to(self.device)

    def autoencoder(self) -> Any:
        """Autoencoder with random weights, for inference."""
        torch.manual_seed(0)
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            network = instantiate(compose("train", ["model=vae", "data=phantom", f"preset={self.preset}"]).vae)
        return network.eval().requires_grad_(False).to(self.device, memory_format=torch.channels_last)

    def condition_values(self, model: DiffusionModel, rows: int) -> dict[str, Tensor]:
        """Values of the conditions for ``rows`` samples."""
        values = model.conditioner.encode_request(model.conditioner.uniform_requests(rows))
        if model.is_video:
            size = (model.metadata.channels, 1, model.metadata.height, model.metadata.width)
            values |= {"reference": torch.randn(rows, *size), "reference_time": torch.zeros(rows, 1)}
        return {name: value.to(self.device) for name, value in values.items()}

    def sample_noise(self, model: DiffusionModel, rows: int) -> Tensor:
        """Noise in the shape of ``rows`` samples."""
        size = (model.metadata.height, model.metadata.width)
        frames = (model.metadata.frames,) if model.is_video else ()
        return torch.randn(rows, model.metadata.channels, *frames, *size, device=self.device)


def model_and_predictor(networks: Networks, name: str) -> tuple[DiffusionModel, Callable[..., Tensor]]:
    """A diffusion model, and a function that evaluates a model for sets of conditions, by default all conditions."""
    model = networks.diffusion_model(name)
    x, values = networks.sample_noise(model, networks.rows), networks.condition_values(model, networks.rows)
    t, all_conditions = torch.full((len(x),), 500), [frozenset(model.conditioner.names)]

    def predict(model: DiffusionModel, sets: Sequence[frozenset[str]] = all_conditions) -> Tensor:
        with torch.inference_mode():
            return model.predictor(values)(x, t, sets)

    return model, predict


def accelerated_prediction_pair(networks: Networks, name: str, compile: bool | str, channels_last: bool) -> Pair:
    """Prediction of the model ``name``, with and without ``Denoiser.accelerate``."""
    model, predict = model_and_predictor(networks, name)
    fast = copy.deepcopy(model)
    fast.denoiser.accelerate(compile, channels_last)
    return Pair(lambda: predict(model), lambda: predict(fast))


def channels_last_training_pair(networks: Networks, name: str) -> Pair:
    """Forward and backward pass of the model ``name`` in channels-last memory format; the results are gradients."""
    model = networks.diffusion_model(name).requires_grad_(True)
    fast = copy.deepcopy(model)
    fast.denoiser.accelerate(False, True)
    x, values = networks.sample_noise(model, networks.rows), networks.condition_values(model, networks.rows)
    keep = dict.fromkeys(model.conditioner.names, torch.ones(len(x), dtype=torch.bool, device=x.device))

    def step(model: DiffusionModel) -> Tensor:
        model.zero_grad()
        model(x, torch.full((len(x),), 500), values, keep).square().mean().backward()
        gradients = (parameter.grad for parameter in model.denoiser.parameters())
        return torch.cat([gradient.flatten() for gradient in gradients if gradient is not None])

    return Pair(lambda: step(model), lambda: step(fast))


def batched_guidance_pair(networks: Networks, name: str) -> Pair:
    """Conditional and unconditional prediction of guidance in one network call, compared with two calls."""
    model, predict = model_and_predictor(networks, name)
    sets = [frozenset(model.conditioner.names), frozenset[str]()]
    return Pair(lambda: torch.cat([predict(model, [kept]) for kept in sets]), lambda: predict(model, sets))


def sampling_function(
    networks: Networks, name: str, steps: int, sampler: str, windows: int | str = "all"
) -> Callable[[], Tensor]:
    """Function that samples one row, or a video of three training clips, with the model ``name``."""
    model = networks.diffusion_model(name)
    length, window = None, model.metadata.frames
    if model.is_video:
        length = ClipLengthConfig(3 * window, window, window // 2, windows)
    spacing = "leading" if sampler == "ddpm" else "quadratic"
    module = SamplingModule(model, SamplingConfig(0, steps, sampler, Guidance(), spacing), length).to(networks.device)
    values = networks.condition_values(model, 1)

    def sample() -> Tensor:
        with torch.inference_mode():
            return module.sample_latents([0], values)

    return sample


def all_windows_pair(networks: Networks) -> Pair:
    """All five windows of a video in one call, compared with one window per call."""
    return Pair(
        sampling_function(networks, "lvdm", 2, "unipc", 1), sampling_function(networks, "lvdm", 2, "unipc", "all")
    )


def noise_ahead_pair(networks: Networks) -> Pair:
    """Noise of DDPM that is generated during the network call, compared with noise generated after the call."""
    sample = sampling_function(networks, "lidm", 16, "ddpm")

    def sample_with_late_noise() -> Tensor:
        late_noise = functools.partial(_run_with_late_noise, samplers._run_stochastic)
        original, samplers._run_stochastic = samplers._run_stochastic, late_noise  # type: ignore[assignment]
        try:
            return sample()
        finally:
            samplers._run_stochastic = original

    return Pair(sample_with_late_noise, sample)


def _run_with_late_noise(run: Any, solver: Any, denoise: Any, x: Tensor, generators: Any, shared: float) -> Tensor:
    """Sample with ``run``; the scheduler generates the noise in each step, after the network call."""
    step = functools.partial(solver.scheduler.step, generator=list(generators))
    solver.scheduler.step = step
    return run(solver, denoise, x, None, shared)


def decoding_pair(networks: Networks, chunk: int, bf16: bool, reference: int) -> Pair:
    """Decoding of 32 frames in chunks of ``chunk``, optionally in bf16, or in float32 in chunks of ``reference``."""
    network = networks.autoencoder()
    fast = torch.nn.Module.to(copy.deepcopy(network), torch.bfloat16) if bf16 else network
    side = {"tiny": 8}.get(networks.preset, 14)
    latents = torch.randn(32, network.config.latent_channels, side, side, device=networks.device)

    def decode(network: Any, chunk: int) -> Tensor:
        frames = FrameBatch(("x",), (len(latents),), latents)
        with torch.inference_mode():
            return VaeDecoder(network, chunk, True).predict_step(frames, 0)[0].float()

    return Pair(lambda: decode(network, reference), lambda: decode(fast, chunk))


class SequentialWriter(StoreWriterCallback):
    """Writes each batch before the next batch is computed."""

    def on_predict_batch_end(self, *arguments: Any) -> None:
        super().on_predict_batch_end(*arguments)
        self._wait_for_writer()


def writing_pair(networks: Networks) -> Pair:
    """Decoding of 4 videos of 32 frames; each is written during the decoding of the next video, or before it."""
    network, side, fps = networks.autoencoder(), {"tiny": 8}.get(networks.preset, 14), 32.0
    size, channels = side * downsampling_factor(network), network.config.latent_channels
    batches = [
        FrameBatch((f"v{number}",), (32,), torch.randn(32, channels, side, side, device=networks.device))
        for number in range(4)
    ]
    cells = {"Split": "TEST", "NumberOfFrames": 32, "FPS": fps, "FrameHeight": size, "FrameWidth": size}
    rows = {name: {"FileName": name, "PatientID": name, **cells} for batch in batches for name in batch.names}
    dataset = Dataset(kind="video", channels=1, height=size, width=size)
    accelerator = "gpu" if networks.device == "cuda" else "cpu"
    trainer = functools.partial(Trainer, accelerator=accelerator, devices=1, enable_model_summary=False)

    def save(path: Path, pixels: Tensor) -> dict[str, Any]:
        write_video(path, pixels.numpy(), fps)
        return {}

    def decode(callback: type[StoreWriterCallback]) -> Tensor:
        with tempfile.TemporaryDirectory(dir=networks.folder) as folder:
            writer = callback(f"{folder}/videos", dataset, rows, save)
            data = PredictionData(lambda: batches, 0)  # type: ignore[arg-type, return-value]
            run_prediction(trainer, VaeDecoder(network, MAX_CPU_FRAMES, True), data, writer)
            return torch.tensor(list(bytes.fromhex(Store(f"{folder}/videos").checksum)))

    return Pair(lambda: decode(SequentialWriter), lambda: decode(StoreWriterCallback), wall=True)


def host_cache_pair(networks: Networks, name: str) -> Pair:
    """Reading of 64 training samples of the model ``name`` from memory, compared with files in the page cache."""
    (_, data), (_, fast) = networks.module_and_data(name), networks.module_and_data(name)
    data.cache, fast.cache = False, True

    def read(data: StoreData) -> Tensor:
        samples = data.samples("TRAIN")
        return torch.stack([samples[number % len(samples)]["x"] for number in range(64)])

    return Pair(lambda: read(data), lambda: read(fast))


def device_cache_pair(networks: Networks, name: str) -> Pair:
    """A batch of 64 training samples from latents on the device, compared with latents in the memory of the machine.

    The results differ, because samples of the posterior have different noise.
    """
    (_, data), (_, data_on_device) = networks.module_and_data(name), networks.module_and_data(name)
    data.cache = True
    samples, cache = data.samples("TRAIN"), DeviceCache(data_on_device.samples("TRAIN"), torch.device(networks.device))

    def read(dataset: ViewDataset) -> Tensor:
        return torch.stack([dataset[number % len(dataset)]["x"] for number in range(64)])

    return Pair(lambda: read(samples).to(networks.device), lambda: cache.batch_latents(read(cache.dataset)))


def fused_optimizer_pair(networks: Networks) -> Pair:
    """Optimizer step of fused AdamW, compared with unfused AdamW; the results are weights."""
    model = networks.diffusion_model("lidm").requires_grad_(True)
    parameters = list(model.denoiser.parameters())
    gradients = [torch.randn_like(parameter) for parameter in parameters]

    def step_function(**options: bool) -> Callable[[], Tensor]:
        copies = [parameter.detach().clone().requires_grad_(True) for parameter in parameters]
        for parameter, gradient in zip(copies, gradients, strict=True):
            parameter.grad = gradient
        optimizer = torch.optim.AdamW(copies, 1e-4, **options)

        def step() -> Tensor:
            optimizer.step()
            return copies[0].detach().flatten().clone()

        return step

    return Pair(step_function(), step_function(fused=True))


def averaging_pair(networks: Networks) -> Pair:
    """Moving average of the weights in one kernel, compared with the loop of Lightning over the weights."""
    model, decay = networks.diffusion_model("lidm"), 0.99
    loop = AveragedModel(model, avg_fn=lambda averaged, current, count: torch.lerp(averaged, current, 1 - decay))
    averages, weights = copy.deepcopy(list(model.parameters())), list(model.parameters())
    loop.update_parameters(model)  # the first update copies the weights

    def average_in_loop() -> Tensor:
        loop.update_parameters(model)
        return next(loop.module.parameters()).flatten()

    def average_in_one_kernel() -> Tensor:
        torch._foreach_lerp_(averages, weights, 1 - decay)
        return averages[0].flatten()

    return Pair(average_in_loop, average_in_one_kernel)


SWITCHES: dict[str, Callable[[Networks], Pair]] = {
    "channels_last, lidm sampling": lambda networks: accelerated_prediction_pair(networks, "lidm", False, True),
    "channels_last, lvdm sampling": lambda networks: accelerated_prediction_pair(networks, "lvdm", False, True),
    "channels_last, lidm training": lambda networks: channels_last_training_pair(networks, "lidm"),
    "channels_last, lvdm training": lambda networks: channels_last_training_pair(networks, "lvdm"),
    "compile, lidm": lambda networks: accelerated_prediction_pair(networks, "lidm", True, False),
    "compile, lvdm": lambda networks: accelerated_prediction_pair(networks, "lvdm", True, False),
    "compile=reduce-overhead, lidm": lambda networks: accelerated_prediction_pair(networks, "lidm", CUDA_GRAPHS, False),
    "guidance terms in one call, lidm": lambda networks: batched_guidance_pair(networks, "lidm"),
    "guidance terms in one call, lvdm": lambda networks: batched_guidance_pair(networks, "lvdm"),
    "windows=all": all_windows_pair,
    "noise during the call, ddpm": noise_ahead_pair,
    "decoding by chunks": lambda networks: decoding_pair(networks, MAX_CPU_FRAMES, False, 1),
    "decoding in bf16": lambda networks: decoding_pair(networks, MAX_CPU_FRAMES, True, MAX_CPU_FRAMES),
    "writing during the next batch": writing_pair,
    "cache, lidm": lambda networks: host_cache_pair(networks, "lidm"),
    "cache, lvdm": lambda networks: host_cache_pair(networks, "lvdm"),
    "cache=device, lidm": lambda networks: device_cache_pair(networks, "lidm"),
    "cache=device, lvdm": lambda networks: device_cache_pair(networks, "lvdm"),
    "fused": fused_optimizer_pair,
    "EMA in one kernel": averaging_pair,
}


def measure_pair(pair: Pair, rounds: int) -> dict[str, Any]:
    """Milliseconds without and with the switch, their ratio in each round, and the difference of the results."""
    results = [pair.without().clone(), pair.with_switch().clone()]
    turns = [[_seconds(run, pair.wall) for run in (pair.without, pair.with_switch)] for _ in range(rounds)]
    without, with_switch = (1000 * statistics.median(column) for column in zip(*turns, strict=True))
    difference = (results[0].float() - results[1].float()).abs().max() / results[0].float().abs().max()
    ratios = sorted(before / after for before, after in turns)
    return {
        "without_ms": without,
        "with_ms": with_switch,
        "ratio": statistics.median(ratios),
        "range": [ratios[0], ratios[-1]],
        "difference": float(difference),
    }


def _seconds(run: Callable[[], Tensor], wall: bool) -> float:
    """Wall time of ``run`` on a GPU or with ``wall``; otherwise processor time, which other programs affect less."""
    timing = run_timed(run)
    return timing.wall if wall or torch.cuda.is_available() else timing.cpu


def table_line(name: str, entry: dict[str, Any]) -> str:
    """Line of the printed table for the switch ``name``."""
    spread = "{:.2f} ({:.2f} to {:.2f})".format(entry["ratio"], *entry["range"])
    return f"{name:<36}{entry['without_ms']:>12.1f}{entry['with_ms']:>10.1f}  {spread:<22} {entry['difference']:.1e}"


def main() -> None:
    """Measure the switches one after another, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--preset", choices=("tiny", "small", "published"), default="tiny")
    parser.add_argument("--only", nargs="+", default=[""], help="measure the switches whose name contains a word")
    parser.add_argument("--rows", type=int, default=8, help="number of images or clips per network call")
    parser.add_argument("--frames", type=int, default=16, help="number of frames of a training clip")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", help="json file to which the results are written")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    names = [name for name in SWITCHES if any(word in name for word in options.only)]
    results = {}
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{where}, torch {torch.__version__}, preset {options.preset}, {options.rows} rows, {options.frames} frames")
    print(f"{'switch':<36}{'without, ms':>12}{'with, ms':>10}  ratio (range)          difference", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        networks = Networks(options.preset, options.device, options.rows, options.frames, Path(folder))
        for name in names:
            results[name] = measure_pair(SWITCHES[name](networks), options.rounds)
            print(table_line(name, results[name]), flush=True)
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
