"""Gaussian data with known moments, their exact denoisers, and noise schedules computed in numpy."""

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Generator, Tensor

from echodream.diffusion.noise_schedules import NOISE_SCHEDULES
from echodream.diffusion.processes.base import Denoise, Process
from echodream.diffusion.processes.ddpm import DDPM
from echodream.diffusion.processes.rectified_flow import RectifiedFlow
from echodream.diffusion.samplers import SAMPLERS, Sampler

B, C, F, H, W = 2, 4, 3, 5, 7
MEAN = (1.5, -0.7, 0.0, 0.3)
STD = (0.3, 0.5, 0.8, 1.2)

PROCESSES: dict[str, Process] = {
    "ddpm-v": DDPM(),
    "ddpm-sample": DDPM("sample"),
    "ddpm-epsilon": DDPM("epsilon", zero_snr=False),
    "ddpm-v-scaled": DDPM(schedule="scaled_linear"),
    "ddpm-v-cosine": DDPM(schedule="cosine"),
    "ddpm-v-quadratic": DDPM(spacing="quadratic"),
    "flow": RectifiedFlow(),
    "flow-quadratic": RectifiedFlow().for_sampling("quadratic"),
    "flow-uniform-shifted": RectifiedFlow("uniform", shift=3.0),
}
WAYS = [(name, sampler) for name, process in PROCESSES.items() for sampler in process.samplers]
"""All pairs of a process and a sampler that is registered for the process."""


def entry(name: str, sampler: str) -> Sampler:
    return SAMPLERS[PROCESSES[name].name][sampler]


def generators(count: int, seed: int = 0) -> list[Generator]:
    return [torch.Generator().manual_seed(seed + row) for row in range(count)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def per_channel(values: Sequence[float], x: Tensor) -> Tensor:
    """Values of the channels, (C,), as float64 (1, C, 1, ...), to broadcast with images or videos."""
    return torch.tensor(values, dtype=torch.float64).view(1, -1, *[1] * (x.dim() - 2))


@functools.cache
def cumulative(process: DDPM) -> np.ndarray:
    """Cumulative product of 1 - beta, from the formulas of the papers, in float64."""
    n = process.steps
    if process.schedule == "linear":
        betas = np.linspace(process.beta_start, process.beta_end, n)
    elif process.schedule == "scaled_linear":
        betas = np.linspace(process.beta_start**0.5, process.beta_end**0.5, n) ** 2
    elif process.schedule != "cosine":  # any other registered schedule
        betas = np.asarray(NOISE_SCHEDULES[process.schedule](n, process.beta_start, process.beta_end))  # type: ignore[operator]
    else:  # arXiv 2102.09672, equation 17
        curve = [math.cos((i / n + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(n + 1)]
        betas = np.minimum(1 - np.array(curve[1:]) / np.array(curve[:-1]), 0.999)
    share = np.cumprod(1 - betas)
    if process.zero_snr:  # arXiv 2305.08891, algorithm 1
        root = np.sqrt(share)
        share = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    return share


def rates(process: Process, time: float) -> tuple[float, float]:
    """Factors (a, b) of x_t = a x_0 + b noise at ``time``, the timestep that the network receives."""
    if isinstance(process, DDPM):
        share = float(cumulative(process)[int(time)])
        return math.sqrt(share), math.sqrt(1 - share)
    return 1 - time / 1000, time / 1000


def as_predicted(process: Process, x_0: Tensor, noise: Tensor, signal: float, sigma: float) -> Tensor:
    """Network output that corresponds to ``x_0`` and ``noise``."""
    if isinstance(process, RectifiedFlow):
        return noise - x_0
    assert isinstance(process, DDPM)
    return {"v": signal * noise - sigma * x_0, "epsilon": noise, "sample": x_0}[process.prediction]


def exact(process: Process, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> Denoise:
    """Optimal network for x_0 ~ N(mean, std^2): E[x_0 | x_t] = mean + a std^2 (x_t - a mean) / (a^2 std^2 + b^2)."""

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        assert t.shape == x_t.shape[:1]
        assert (t == t[0]).all()
        signal, sigma = rates(process, float(t[0]))
        x, mu, var = x_t.double(), per_channel(mean, x_t), per_channel(std, x_t) ** 2
        x_0 = mu + signal * var / (signal**2 * var + sigma**2) * (x - signal * mu)
        noise = (x - signal * x_0) / sigma
        return as_predicted(process, x_0, noise, signal, sigma).to(x_t.dtype)

    return denoise


def whitened(x: Tensor) -> Tensor:
    """``x`` scaled to exact mean 0 and std 1 in each channel, so that tests of moments have no sampling error."""
    dims = [0, *range(2, x.dim())]
    return (x - x.mean(dims, keepdim=True)) / x.std(dims, keepdim=True, unbiased=False)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, (C,)."""
    dims = [0, *range(2, x.dim())]
    return x.double().mean(dims), x.double().std(dims, unbiased=False)
