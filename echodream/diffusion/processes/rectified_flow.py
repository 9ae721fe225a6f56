"""Rectified flow: straight lines from data to noise (2209.03003, 2403.03206)."""

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Generator, Tensor

from echodream import validation
from echodream.diffusion.processes.base import Noised, Process, expand
from echodream.diffusion.samplers import Solver

SCALE = 1000.0
"""Networks are told 1000 s, as they are told 0..999 by the DDPM family."""


class RectifiedFlow(Process):
    """x_t = (1 - s) x_0 + s noise, with s from 0 to 1; the target is the velocity noise - x_0, the time is 1000 s.

    ``times`` says which s are trained on: ``logit_normal``, most in the middle, or ``uniform``. ``shift`` above 1 moves
    them, and the steps of sampling, towards noise: s becomes shift s / (1 + (shift - 1) s) (2403.03206, section 5.3.2).
    """

    name: ClassVar[str] = "flow"
    samplers: ClassVar[tuple[str, ...]] = ("unipc", "euler", "heun")

    def __init__(self, times: str = "logit_normal", shift: float = 1.0) -> None:
        self.times = validation.one_of("process.times", times, ("logit_normal", "uniform"))
        self.shift = float(validation.positive_number("process.shift", shift, note=", 1 for no shift"))

    def settings(self) -> dict[str, Any]:
        return {"name": self.name, "times": self.times, "shift": self.shift}

    def sample_t(self, count: int, generator: Generator | None = None, device: Any = None) -> Tensor:
        """Float, (count,), in 0..1000."""
        draw = torch.randn if self.times == "logit_normal" else torch.rand
        s = draw(count, generator=generator, device=device if generator is None else generator.device)
        return SCALE * self._shifted(s.sigmoid() if self.times == "logit_normal" else s).to(device)

    def levels(self, count: int) -> Tensor:
        """The middle of each of ``count`` equal parts: float, (count,), in 0..1000."""
        return (torch.arange(count) + 0.5) / count * SCALE

    def level(self, t: Tensor) -> Tensor:
        """s."""
        return t / SCALE

    def corrupt(self, x_0: Tensor, t: Tensor, noise: Tensor) -> Noised:
        s = expand(self.level(t), x_0)
        return Noised(((1 - s) * x_0 + s * noise).to(x_0.dtype), t, noise - x_0, torch.ones_like(t))

    def denoised(self, x_t: Tensor, t: Tensor, prediction: Tensor) -> Tensor:
        return (x_t - expand(self.level(t), x_t) * prediction).to(x_t.dtype)

    def _shifted(self, s: Tensor) -> Tensor:
        return self.shift * s / (1 + (self.shift - 1) * s)

    def _solver(self, sampler: str, steps: int, strength: float) -> Solver:
        """Steps of equal length from ``strength`` to 0, before the shift. Heun's evaluates the network twice in a step.

        The times are taken from the scheduler's sigmas: its own timesteps are whole numbers in UniPC.
        """
        from diffusers import (
            FlowMatchEulerDiscreteScheduler,
            FlowMatchHeunDiscreteScheduler,
            UniPCMultistepScheduler,
        )

        first = strength / (self.shift - (self.shift - 1) * strength)
        grid = first * (1 - np.arange(steps) / steps)
        scheduler: Any
        if sampler == "heun":
            scheduler = FlowMatchHeunDiscreteScheduler(shift=self.shift)
            # Its last step is Euler's, so it is made short. It would shift the limits twice.
            scheduler.sigma_max, scheduler.sigma_min = first, min(1 / SCALE, float(grid[-1]))
            scheduler.set_timesteps(steps)
        elif sampler == "euler":
            scheduler = FlowMatchEulerDiscreteScheduler(shift=self.shift)
            scheduler.set_timesteps(sigmas=grid)
        else:
            scheduler = UniPCMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=self.shift, solver_order=2
            )
            scheduler.set_timesteps(sigmas=grid)
        scheduler.set_begin_index(0)
        return Solver(scheduler, [SCALE * sigma for sigma in scheduler.sigmas[:-1].tolist()])
