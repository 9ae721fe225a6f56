"""Rectified flow, a noise process with straight paths from data to noise (arXiv 2209.03003 and 2403.03206)."""

import inspect
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Generator, Tensor

from echodream import validation
from echodream.diffusion.processes.base import NoisedBatch, Process, expand_like
from echodream.diffusion.samplers import SAMPLERS, Solver

TIME_SCALE = 1000.0
"""Ratio of the diffusion time t, the network input, to the time s in [0, 1]."""


class RectifiedFlow(Process):
    """Rectified flow: x_t = (1 - s) x_0 + s noise, s = t / 1000 in [0, 1], with the target noise - x_0 (velocity).

    ``times`` is the distribution of s in training: "logit_normal" (densest around 0.5) or "uniform". A ``shift`` above
    1 moves s to shift s / (1 + (shift - 1) s), towards noise (arXiv 2403.03206, section 5.3.2). Sampling times have
    equal distances ("trailing") or linearly decreasing distances ("quadratic", denser at low noise) before the shift.
    """

    name: ClassVar[str] = "flow"
    spacings: ClassVar[tuple[str, ...]] = ("trailing", "quadratic")
    first_order_sampler: ClassVar[str] = "euler"
    data_time: ClassVar[float] = 0.0
    time_dtype: ClassVar[torch.dtype] = torch.float32

    def __init__(self, times: str = "logit_normal", shift: float = 1.0) -> None:
        self.times = validation.one_of("process.times", times, ("logit_normal", "uniform"))
        self.shift = float(validation.positive_number("process.shift", shift, note=", 1 for no shift"))

    def sample_t(self, count: int, generator: Generator | None = None, device: Any = None) -> Tensor:
        """Random times for training: float, (count,), from 0 to 1000."""
        distribution = torch.randn if self.times == "logit_normal" else torch.rand
        s = distribution(count, generator=generator, device=device if generator is None else generator.device)
        s = s.sigmoid() if self.times == "logit_normal" else s
        return TIME_SCALE * (self.shift * s / (1 + (self.shift - 1) * s)).to(device)

    def evenly_spaced_times(self, count: int) -> Tensor:
        return (torch.arange(count) + 0.5) / count * TIME_SCALE

    def relative_time(self, t: Tensor) -> Tensor:
        return t / TIME_SCALE

    def log_snr(self, t: Tensor) -> Tensor:
        return -2 * torch.logit(self.relative_time(t))

    def corrupt(self, x_0: Tensor, t: Tensor, noise: Tensor) -> NoisedBatch:
        s = expand_like(self.relative_time(t), x_0)
        return NoisedBatch(((1 - s) * x_0 + s * noise).to(x_0.dtype), t, noise - x_0, torch.ones_like(t))

    def signal_and_noise_rates(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        s = self._relative_time_like(t, x)
        return 1 - s, s

    def predict_x0(self, x_t: Tensor, t: Tensor, prediction: Tensor) -> Tensor:
        return (x_t - self._relative_time_like(t, x_t) * prediction).to(x_t.dtype)

    def prediction_from_x0(self, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        return (x_t - x_0) / self._relative_time_like(t, x_t)

    def _relative_time_like(self, t: Tensor, x: Tensor) -> Tensor:
        """The relative times s of ``t``, (B,), shaped to broadcast to ``x``, on its device: (B, 1, ..., 1)."""
        return expand_like(self.relative_time(t).to(x.device, non_blocking=True), x)

    def _build_solver(self, sampler: str, steps: int, strength: float) -> Solver:
        """Build a solver from the relative time ``strength`` to 0, with ``spacing`` before the shift."""
        first = strength / (self.shift - (self.shift - 1) * strength)
        power = 2 if self.spacing == "quadratic" else 1
        grid = first * (1 - np.arange(steps) / steps) ** power
        entry = SAMPLERS[self.name][sampler]
        scheduler = entry.build(**{entry.shift_argument: self.shift})
        if "sigmas" in inspect.signature(scheduler.set_timesteps).parameters:
            scheduler.set_timesteps(sigmas=grid)
        else:  # Heun shifts sigma_max and sigma_min; its last step is an Euler step and has to be short
            scheduler.sigma_max, scheduler.sigma_min = first, min(1 / TIME_SCALE, float(grid[-1]))
            scheduler.set_timesteps(steps)
            if power == 2:
                _set_heun_times(scheduler, np.linspace(first**0.5, scheduler.sigma_min**0.5, steps) ** 2, self.shift)
        scheduler.set_begin_index(0)
        return Solver(scheduler, [TIME_SCALE * sigma for sigma in scheduler.sigmas[:-1].tolist()], entry.stochastic)


def _set_heun_times(scheduler: Any, grid: np.ndarray, shift: float) -> None:
    """Set the times of Heun's ``scheduler``, with one network evaluation at the first time and two at later times."""
    sigmas = torch.from_numpy(shift * grid / (1 + (shift - 1) * grid)).float()
    twice = torch.cat([sigmas[:1], sigmas[1:].repeat_interleave(2)])
    scheduler.timesteps, scheduler.sigmas = TIME_SCALE * twice, torch.cat([twice, twice.new_zeros(1)])
