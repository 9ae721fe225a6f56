"""Registry of samplers, and the sampling loop. To add a sampler, add an entry to ``SAMPLERS``.

A scheduler for ``ddpm`` has to accept ``rescale_betas_zero_snr`` and ``timestep_spacing``. A scheduler for ``flow``
without the argument ``sigmas`` of ``set_timesteps`` is set up like Heun's. A step of a deterministic scheduler has to
be linear in x and in all predictions up to this step. The Gaussian oracle test
(``tests/diffusion/test_gaussian_oracle.py``) runs every entry.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor
from torch.overrides import TorchFunctionMode

from echodream.diffusion.noise import sample_noise


@dataclass(frozen=True)
class Sampler:
    """Entry of the registry: a numerical solver for one noise process."""

    scheduler: str | Callable[..., Any]
    """Name of a scheduler class of diffusers, or a function that builds a scheduler."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Keywords of the scheduler that do not come from the noise process."""
    order: int = 1
    """Order of convergence of the solver."""
    stochastic: bool = False
    """Whether each step adds noise and needs one random generator per row."""
    predicts_x0: bool = True
    """Whether the scheduler accepts predictions of x_0 (``process=ddpm``). If not, x_0 is converted to v."""
    subsampled_schedule: bool = False
    """Whether the noise schedule is reduced to the sampling timesteps, for unequal steps (``process=ddpm``)."""
    shift_argument: str = "shift"
    """Keyword of the scheduler for the value of ``process.shift`` (``process=flow``)."""

    def build(self, **arguments: Any) -> Any:
        """Build the scheduler of diffusers."""
        import diffusers

        build = getattr(diffusers, self.scheduler) if isinstance(self.scheduler, str) else self.scheduler
        return build(**arguments, **self.arguments)


SAMPLERS: dict[str, dict[str, Sampler]] = {
    "ddpm": {
        "dpmpp_2m": Sampler(
            "DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2}, order=2
        ),
        "unipc": Sampler("UniPCMultistepScheduler", {"solver_order": 2}, order=2),
        "ddim": Sampler("DDIMScheduler", {"clip_sample": False}, subsampled_schedule=True),
        "ddpm": Sampler("DDPMScheduler", {"clip_sample": False}, stochastic=True),
        "euler": Sampler("EulerDiscreteScheduler"),
        "euler_ancestral": Sampler("EulerAncestralDiscreteScheduler", stochastic=True, predicts_x0=False),
    },
    "flow": {
        "unipc": Sampler(
            "UniPCMultistepScheduler",
            {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "solver_order": 2},
            order=2,
            shift_argument="flow_shift",
        ),
        "euler": Sampler("FlowMatchEulerDiscreteScheduler"),
        "heun": Sampler("FlowMatchHeunDiscreteScheduler", order=2),
    },
}
"""Samplers by name of the process and by name in ``sampler=``. The first sampler of a process is the default."""


@dataclass(frozen=True)
class Solver:
    """A scheduler with its timesteps. A solver is used for one trajectory only, because steps change the scheduler."""

    scheduler: Any
    times: Sequence[int | float]
    """Diffusion time, the input of the network, at each step; integers for ``process=ddpm``."""
    stochastic: bool = False
    """Whether each step adds noise and needs random generators."""
    convert_prediction: Callable[[Tensor, Tensor, Tensor], Tensor] = lambda prediction, x_t, t: prediction
    """Function of (prediction, x_t, t) that converts the prediction to the prediction type of the scheduler."""


def run_solver(
    solver: Solver,
    denoise: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    generators: Sequence[Generator] | None,
    shared_noise: float = 0.0,
) -> Tensor:
    """Run ``solver`` in float32, from noisy data ``x``, (B, C, *rest), at its first time to data.

    ``denoise`` maps x_t (B, C, *rest) and t (B,), on the CPU, to the prediction of the network. ``x`` and x_t have the
    scale of the process. Schedulers with another scale, such as x_0 + sigma noise of Euler, convert samples to the
    scale of the process by ``scale_model_input``. Therefore ``x`` is first divided by the factor of
    ``scale_model_input``. Stochastic solvers add noise with the correlation ``shared_noise`` between frames. The CPU
    does not wait for the GPU.
    """
    dtype, x = x.dtype, x.float()
    if solver.stochastic:
        return _run_stochastic(solver, denoise, x, generators, shared_noise).to(dtype)
    coefficients = _linear_coefficients(solver).to(x.device, non_blocking=True)
    inputs = x.new_empty(len(coefficients), *x.shape)  # x and the predictions
    inputs[0] = x
    for step, time in enumerate(solver.times):
        x_t, t = _linear_combination(coefficients[step], inputs, step + 1), torch.full((len(x),), time)
        inputs[step + 1] = solver.convert_prediction(denoise(x_t, t).float(), x_t, t)
    return _linear_combination(coefficients[-1], inputs, len(inputs)).to(dtype)


def _linear_coefficients(solver: Solver) -> Tensor:
    """Coefficients of x and of the S predictions in each x_t, and in the result (last row): (S + 1, S + 1).

    Each step of a deterministic scheduler is linear in the sample and in all predictions up to this step. The scheduler
    is run on unit vectors instead of samples, on the CPU.
    """
    scheduler, count = solver.scheduler, len(solver.times)
    units = torch.eye(count + 1)
    scale = getattr(scheduler, "scale_model_input", lambda sample, timestep: sample)
    x, rows = units[:1] / scale(torch.ones(1), scheduler.timesteps[0]), []
    for step, timestep in enumerate(scheduler.timesteps):
        rows.append(scale(x, timestep)[0])
        x = scheduler.step(units[step + 1 : step + 2], timestep, x, return_dict=False)[0]
    return torch.stack([*rows, x[0]])


def _linear_combination(coefficients: Tensor, inputs: Tensor, count: int) -> Tensor:
    """Sum of the first ``count`` of ``inputs``, (S + 1, B, C, *rest), times their ``coefficients``, (S + 1,)."""
    total = coefficients[0] * inputs[0]
    for number in range(1, count):
        total = torch.addcmul(total, coefficients[number], inputs[number])
    return total


def _run_stochastic(
    solver: Solver,
    denoise: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    generators: Sequence[Generator] | None,
    shared_noise: float,
) -> Tensor:
    scheduler = solver.scheduler
    scale = getattr(scheduler, "scale_model_input", lambda sample, timestep: sample)
    x = x / scale(torch.ones(1, device=x.device), scheduler.timesteps[0])
    with ThreadPoolExecutor(1) as thread:
        for timestep, time in zip(scheduler.timesteps, solver.times, strict=True):
            noise = None if generators is None else _StepNoise(generators, x, thread, shared_noise)
            x_t, t = scale(x, timestep), torch.full((len(x),), time)
            prediction = solver.convert_prediction(denoise(x_t, t).float(), x_t, t)
            with noise or nullcontext():
                x = scheduler.step(prediction, timestep, x, return_dict=False)[0]
    return x


class _StepNoise(TorchFunctionMode):
    """Context of a scheduler step: torch.randn returns noise like ``x``, from one of ``generators`` for each row.

    The noise is generated on the CPU, in ``thread``, while the denoiser computes, and then copied to the device. The
    noise therefore does not depend on the device. If the step needs no noise, the generators are reset.
    """

    def __init__(self, generators: Sequence[Generator], x: Tensor, thread: Executor, shared: float) -> None:
        super().__init__()
        self.shared = shared
        self.generators, self.device, self.used = generators, x.device, False
        self.states = [generator.get_state() for generator in generators]
        self.noise = thread.submit(self._generate, x.shape[1:])

    def _generate(self, shape: torch.Size) -> Tensor:
        noise = torch.stack([sample_noise(shape, self.shared, generator) for generator in self.generators])
        return noise.pin_memory() if self.device.type == "cuda" else noise

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.randn:
            return func(*args, **(kwargs or {}))
        self.used = True
        return self.noise.result().to(self.device, non_blocking=True)

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.noise.result()
        if not self.used:
            for generator, state in zip(self.generators, self.states, strict=True):
                generator.set_state(state)
