"""Registry of the samplers, and the loop that runs all of them. To add a sampler, add an entry to ``SAMPLERS``.

A scheduler class for ``ddpm`` has to accept ``rescale_betas_zero_snr`` and ``timestep_spacing``; for another class
give a function of the same arguments that builds it.

The Gaussian oracle test (``tests/diffusion/test_gaussian_oracle.py``) runs every entry.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class Sampler:
    """A numerical solver of one kind of process."""

    scheduler: str | Callable[..., Any]
    """Name of a scheduler class of diffusers, or a class with the same methods."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the class besides those of the process."""
    order: int = 1
    """Order of accuracy of the solver."""
    stochastic: bool = False
    """Whether each step adds noise; the step then takes one random generator per row."""
    predicts_x0: bool = True
    """``process=ddpm``: whether the class accepts the prediction type "sample"; else x_0 is converted to v."""
    subsampled: bool = False
    """``process=ddpm``: restrict the noise schedule to the sampling timesteps, which DDIMScheduler might skip."""
    shift: str = "shift"
    """``process=flow``: the argument of the class that takes ``process.shift``."""

    def build(self, **arguments: Any) -> Any:
        """A new scheduler of diffusers."""
        import diffusers

        build = getattr(diffusers, self.scheduler) if isinstance(self.scheduler, str) else self.scheduler
        return build(**arguments, **self.arguments)


SAMPLERS: dict[str, dict[str, Sampler]] = {
    "ddpm": {
        "dpmpp_2m": Sampler(
            "DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2}, order=2
        ),
        "unipc": Sampler("UniPCMultistepScheduler", {"solver_order": 2}, order=2),
        "ddim": Sampler("DDIMScheduler", {"clip_sample": False}, subsampled=True),
        "ddpm": Sampler("DDPMScheduler", {"clip_sample": False}, stochastic=True),
        "euler": Sampler("EulerDiscreteScheduler"),
        "euler_ancestral": Sampler("EulerAncestralDiscreteScheduler", stochastic=True, predicts_x0=False),
    },
    "flow": {
        "unipc": Sampler(
            "UniPCMultistepScheduler",
            {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "solver_order": 2},
            order=2,
            shift="flow_shift",
        ),
        "euler": Sampler("FlowMatchEulerDiscreteScheduler"),
        "heun": Sampler("FlowMatchHeunDiscreteScheduler", order=2),
    },
}
"""By name of the process, then by name in ``sampler=``. The first sampler of a process is its default."""


@dataclass(frozen=True)
class Solver:
    """A scheduler with its timesteps set. It is used for one trajectory only, because its steps change it."""

    scheduler: Any
    times: Sequence[int | float]
    """The time that the network receives at each step; integers for ``process=ddpm``."""
    stochastic: bool = False
    """Whether a step adds noise and takes random generators."""
    convert: Callable[[Tensor, Tensor, Tensor], Tensor] = lambda prediction, x_t, t: prediction
    """(prediction, x_t, t) to the prediction type of the scheduler."""


def run_solver(
    solver: Solver, denoise: Callable[[Tensor, Tensor], Tensor], x: Tensor, generators: Sequence[Generator] | None
) -> Tensor:
    """Integrate ``solver`` from ``x``, (B, C, *rest), at its first time, to data.

    ``denoise`` takes (x_t, t (B,)) and returns the prediction of the process. ``x`` and x_t have the scale of the
    process (sqrt(a_t) x_0 + sqrt(1 - a_t) noise for ``ddpm``). Schedulers with another scale (Euler: x_0 + sigma noise)
    convert it with ``scale_model_input``; so ``x`` is divided by the factor of the first step, which is
    ``init_noise_sigma`` at the full noise level. Computed in float32, returned in the dtype of ``x``.
    """
    dtype, x, scheduler = x.dtype, x.float(), solver.scheduler
    extra = {"generator": list(generators)} if solver.stochastic and generators is not None else {}
    scale = getattr(scheduler, "scale_model_input", lambda sample, timestep: sample)
    x = x / scale(torch.ones(1, device=x.device), scheduler.timesteps[0])
    for timestep, time in zip(scheduler.timesteps, solver.times, strict=True):
        x_t, t = scale(x, timestep), torch.full((len(x),), time, device=x.device)
        prediction = solver.convert(denoise(x_t, t).float(), x_t, t)
        x = scheduler.step(prediction, timestep, x, return_dict=False, **extra)[0]
    return x.to(dtype)
