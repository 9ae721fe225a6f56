"""Time of an optimizer step of LatentDiffusion under Lightning, as in train.py, compared with a plain PyTorch loop.

    python benchmarks/train_step.py [--model lidm|lvdm] [--preset tiny|small|published] [--device cpu|cuda]
        [--precision 32-true|bf16-mixed] [--compile] [--channels-last]

Lightning and the plain loop have equal networks, optimizers, schedules, gradient clipping and moving averages of
weights, and use equal batches from memory. Lightning runs with the callbacks and the logging of train.py; the plain
loop logs nothing. Lightning and the plain loop alternate within one fit, ``--steps`` steps each, for ``--rounds``
rounds after a warm-up round. The script prints medians over rounds. The peak GPU memory is that of Lightning alone,
because the plain loop is built after the first round.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from lightning_fabric.utilities import move_data_to_device
from measuring import synchronize_gpu
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from echodream.config.paths import CONF_DIR
from echodream.datamodules.datamodule import StoreData
from echodream.losses.denoising import mean_squared_errors
from echodream.modules.latent_diffusion import LatentDiffusion
from echodream.modules.trainable import Trainable, resolve_fused
from echodream.runs.trainer import make_trainer
from echodream.store import Dataset, Statistics, StoreWriter
from echodream.store.latents import write_latents
from echodream.training.fit import SeedEpochs

BATCHES = 4
"""Number of different training batches in memory."""


def write_latent_store(root: Path, options: argparse.Namespace) -> None:
    """Write random latents of four classes, enough for ``BATCHES`` batches, to the store ``root``/latents."""
    rng, side = np.random.default_rng(0), 8 if options.preset == "tiny" else 14
    video = options.model == "lvdm"
    recordings, frames = (
        (BATCHES * options.batch, options.frames + 8) if video else (-(-BATCHES * options.batch // 64), 64)
    )
    sizes = {"NumberOfFrames": frames, "FPS": 32.0, "FrameHeight": side, "FrameWidth": side}
    dataset = Dataset(kind="latent", layout="F,C,H,W", channels=4, height=side, width=side, encoder="0" * 64)
    names = [f"r{number:04d}" for number in range(recordings)]
    with StoreWriter(root / "latents", dataset) as writer:
        for number, name in enumerate(names):
            mean = rng.standard_normal((frames, 4, side, side)).astype(np.float32)
            write_latents(writer.scratch_path(name), mean, np.full_like(mean, 0.1))
            row = {"FileName": name, "Split": "TRAIN", "PatientID": name, "class_id": number % 4, **sizes}
            writer.commit(row, writer.scratch_path(name))
        writer.finish(names, Statistics((0.0,) * 4, (1.0,) * 4))


def training_config(root: Path, options: argparse.Namespace) -> DictConfig:
    """Compose the configuration of train.py, without pictures and checkpoints."""
    overrides = [
        f"model={options.model}",
        f"preset={options.preset}",
        "+data.name=benchmark",
        f"src={root}/latents",
        f"dst={root}/model",
        f"work={root}/runs",
        f"logger.csv.save_dir={root}/logs",
        "callbacks.pictures=null",
        "callbacks.checkpoint=null",
        f"datamodule.batch_size={options.batch}",
        "datamodule.workers=0",
        f"model.compile={options.compile}",
        f"model.channels_last={options.channels_last}",
        f"trainer.accelerator={'gpu' if options.device == 'cuda' else 'cpu'}",
        f"trainer.precision={options.precision}",
        "trainer.max_epochs=1",
        f"trainer.limit_train_batches={options.steps * (options.rounds + 1) + 2}",
        "+trainer.enable_checkpointing=false",
    ]
    overrides += [f"view.frames={options.frames}"] if options.model == "lvdm" else []
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("train", overrides)
    OmegaConf.resolve(cfg)
    return cfg


def build_module_and_data(cfg: DictConfig) -> tuple[LatentDiffusion, StoreData]:
    """Instantiate the module and the data, as at the beginning of training."""
    pl.seed_everything(cfg.seed, verbose=False)
    module: LatentDiffusion = instantiate(cfg.model.module)
    data: StoreData = instantiate(cfg.datamodule, columns=[*cfg.datamodule.columns, *module.columns])
    module.configure_from_data(data)
    return module, data


class PlainLoop:
    """Optimizer steps of LatentDiffusion in plain PyTorch."""

    module: Any

    def __init__(self, module: Trainable, cfg: DictConfig, device: str, total: int) -> None:
        self.module, self.device = module.to(device), device
        self.bf16, self.clip = cfg.trainer.precision == "bf16-mixed", cfg.trainer.gradient_clip_val
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.averaged = [parameter.detach().clone() for parameter in self.parameters]
        self.decay, self.count = cfg.callbacks.ema.decay, 0
        make_optimizer = resolve_fused(module.make_optimizer, torch.device(device), cfg.trainer.precision)
        self.optimizer = make_optimizer(self.parameters)
        assert module.make_schedule is not None
        self.schedule = module.make_schedule(optimizer=self.optimizer, num_training_steps=total)

    def loss(self, batch: Any) -> Tensor:
        """Loss of ``batch``, scalar, as in ``LatentDiffusion.training_step``."""
        x, module = batch["x"], self.module
        noised = module.process.corrupt(x, module.process.sample_t(len(x), device=x.device), torch.randn_like(x))
        keep = {name: kept.to(x.device) for name, kept in module.conditioner.sample_dropout(len(x)).items()}
        prediction = module.model(noised.x_t, noised.t, module.conditioner.encode_batch(batch), keep)
        return (noised.weight * mean_squared_errors(prediction, noised.target, batch.get("mask"))).mean()

    def __call__(self, batch: Any) -> None:
        """Run one optimizer step on ``batch``, which is on the CPU."""
        batch = move_data_to_device(batch, torch.device(self.device))
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            loss = self.loss(batch)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        self.schedule.step()
        with torch.no_grad():
            decay = min(self.decay, (1 + self.count) / (10 + self.count))
            torch._foreach_lerp_(self.averaged, self.parameters, 1 - decay)
        self.count += 1


@dataclass
class RoundTimer:
    """Wall time and CPU time per step, in seconds, of each round."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def start(self) -> None:
        """Start timing a round."""
        self._start = self._now()

    def stop(self, steps: int) -> None:
        """Stop timing a round of ``steps`` steps, and record its time per step."""
        wall, cpu = (now - start for now, start in zip(self._now(), self._start, strict=True))
        self.wall.append(wall / steps)
        self.cpu.append(cpu / steps)

    def _now(self) -> tuple[float, float]:
        synchronize_gpu()
        return time.perf_counter(), time.process_time()


class AlternatingBatches:
    """Batches for Lightning. After every ``--steps`` batches, the plain loop trains on ``--steps`` batches."""

    def __init__(self, batches: list[Any], module: LatentDiffusion, cfg: DictConfig, options: argparse.Namespace):
        self.batches, self.options = batches, options
        self.make_plain_loop = lambda: PlainLoop(module, cfg, options.device, cfg.trainer.limit_train_batches)
        self.lightning, self.plain = RoundTimer(), RoundTimer()
        self.memory = 0

    def __iter__(self) -> Iterator[Any]:
        batches, plain_batches = itertools.cycle(self.batches), itertools.cycle(self.batches)
        plain: PlainLoop | None = None
        for _ in range(self.options.rounds + 1):
            self.lightning.start()
            yield from itertools.islice(batches, self.options.steps)
            self.lightning.stop(self.options.steps)
            if plain is None:
                self.memory = torch.cuda.max_memory_allocated() if self.options.device == "cuda" else 0
                plain = self.make_plain_loop()
            self.plain.start()
            for batch in itertools.islice(plain_batches, self.options.steps):
                plain(batch)
            self.plain.stop(self.options.steps)
        yield from itertools.islice(batches, 2)


def print_times(turns: AlternatingBatches, options: argparse.Namespace) -> None:
    """Print the median time of a step over all rounds after the warm-up round."""
    timers = {"Lightning": turns.lightning, "plain loop": turns.plain}
    print(f"{options.model} {options.preset}, batch {options.batch}, {options.device}, {options.precision}")
    for name, timer in timers.items():
        step = statistics.median(timer.wall[1:])
        print(f"{name:<12}{1000 * step:9.1f} ms per step{options.batch / step:10.1f} samples/s")
    for kind, title in (("wall", "wall time"), ("cpu", "processor time")):
        pairs = list(zip(*(getattr(timer, kind)[1:] for timer in timers.values()), strict=True))
        ratios, difference = [a / b - 1 for a, b in pairs], statistics.median(a - b for a, b in pairs)
        spread = f"rounds {100 * min(ratios):.1f} to {100 * max(ratios):.1f} %"
        overhead = f"{100 * statistics.median(ratios):6.1f} %{1000 * difference:8.2f} ms"
        print(f"overhead in {title:<16}{overhead}   ({spread})")
    if turns.memory:
        print(f"peak memory {turns.memory / 2**30:9.2f} GiB")


def main() -> None:
    """Train for a few rounds with Lightning and with the plain loop, and print the time of a step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("lidm", "lvdm"), default="lidm")
    parser.add_argument("--preset", choices=("tiny", "small", "published"), default="tiny")
    parser.add_argument("--batch", type=int, help="batch size; default: 128 images or 6 clips")
    parser.add_argument("--frames", type=int, default=32, help="number of frames of a clip")
    parser.add_argument("--steps", type=int, default=5, help="optimizer steps per round")
    parser.add_argument("--rounds", type=int, default=9, help="number of rounds after the warm-up round")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true")
    parser.add_argument("--compile", action="store_true", help="compile the networks")
    parser.add_argument("--channels-last", action="store_true", help="channels-last memory format")
    options = parser.parse_args()
    options.batch = options.batch or {"lidm": 128, "lvdm": 6}[options.model]
    with tempfile.TemporaryDirectory() as folder:
        write_latent_store(Path(folder), options)
        cfg = training_config(Path(folder), options)
        (module, data), (plain_module, _) = build_module_and_data(cfg), build_module_and_data(cfg)
        batches = list(itertools.islice(data.train_dataloader(), BATCHES))
        turns = AlternatingBatches(batches, plain_module, cfg, options)
        callbacks = [SeedEpochs(cfg.seed), *(instantiate(callback) for callback in cfg.callbacks.values() if callback)]
        loggers = [instantiate(logger) for logger in cfg.logger.values()]
        trainer = make_trainer(
            instantiate(cfg.trainer), callbacks, unused_parameters=module.has_unused_parameters, logger=loggers
        )
        trainer.fit(module, train_dataloaders=turns)
    print_times(turns, options)


if __name__ == "__main__":
    main()
