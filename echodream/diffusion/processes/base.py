"""Base class of noise processes, which add noise to data and generate samples. Tensors are (B, C, *rest)."""

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Self

import torch
from torch import Generator, Tensor

from echodream import validation
from echodream.diffusion.few_steps import FewStepConfig
from echodream.diffusion.samplers import SAMPLERS, Solver, run_solver
from echodream.errors import UserError

Denoise = Callable[[Tensor, Tensor], Tensor]
"""Function from x_t (B, C, *rest) and t (B,) to the prediction of the network, (B, C, *rest)."""


@dataclass(frozen=True)
class NoisedBatch:
    """Noisy data and the training target of the network."""

    x_t: Tensor
    """Noisy data, (B, C, *rest)."""
    t: Tensor
    """Diffusion time, the input of the network, (B,)."""
    target: Tensor
    """Training target of the network output, (B, C, *rest)."""
    weight: Tensor
    """Loss weight of each sample, (B,)."""


def expand_like(values: Tensor, x: Tensor) -> Tensor:
    """View of ``values``, (B,), that broadcasts with ``x``, (B, C, *rest): (B, 1, ..., 1)."""
    if values.shape != x.shape[:1]:
        raise ValueError(f"values have the shape {tuple(values.shape)}: give one value for each of {len(x)} samples")
    return values.view(-1, *[1] * (x.dim() - 1))


LOG_SNR_LIMIT = 4.0
"""Largest log signal-to-noise ratio (natural logarithm) of ``Process.log_snr_times``."""
_TIME_GRID_SIZE = 1000


class Process(ABC):
    """Noise process with diffusion times t, which are inputs of the network."""

    name: ClassVar[str]
    max_steps: int = 1000
    """Maximum number of sampler steps."""
    spacings: ClassVar[tuple[str, ...]]
    """Spacings of the sampling timesteps that this process supports."""
    spacing: str = "trailing"
    """Spacing of the sampling timesteps."""
    clip_limit: float | None = None
    """Largest absolute value of predicted data in sampling (clip_sample_range of diffusers); None: no limit."""
    few_steps: FewStepConfig | None = None
    """Sampling settings of a distilled model; None: the model was not distilled."""
    first_order_sampler: ClassVar[str]
    """Name of the deterministic sampler of order 1, whose step is ``deterministic_step``."""
    data_time: ClassVar[float]
    """Diffusion time of data without noise."""
    time_dtype: ClassVar[torch.dtype]
    """Type of diffusion times."""

    @property
    def samplers(self) -> tuple[str, ...]:
        """Names of the samplers of this process, the default first."""
        return tuple(SAMPLERS[self.name])

    @abstractmethod
    def sample_t(self, count: int, generator: Generator | None = None, device: Any = None) -> Tensor:
        """Random diffusion times for training: (count,)."""

    @abstractmethod
    def evenly_spaced_times(self, count: int) -> Tensor:
        """Times, (count,), at the centers of ``count`` equal bands of noise levels, from low to high noise."""

    @abstractmethod
    def relative_time(self, t: Tensor) -> Tensor:
        """Relative diffusion time at times ``t`` (B,): float in [0, 1], 0 for data and 1 for noise."""

    @abstractmethod
    def log_snr(self, t: Tensor) -> Tensor:
        """Natural logarithm of the signal-to-noise ratio of data with variance 1 at times ``t`` (B,)."""

    @abstractmethod
    def corrupt(self, x_0: Tensor, t: Tensor, noise: Tensor) -> NoisedBatch:
        """Add standard normal ``noise`` to ``x_0``, (B, C, *rest) each, at the noise levels of ``t`` (B,)."""

    @abstractmethod
    def signal_and_noise_rates(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients of data and noise at times ``t`` (B,) or ``data_time``: (B, 1, ..., 1), on ``x``'s device."""

    @abstractmethod
    def predict_x0(self, x_t: Tensor, t: Tensor, prediction: Tensor) -> Tensor:
        """Estimate of the data, (B, C, *rest), from the network output ``prediction`` for ``x_t`` at ``t`` (B,)."""

    @abstractmethod
    def prediction_from_x0(self, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Network output whose estimate of the data is ``x_0``, the inverse of ``predict_x0``."""

    def deterministic_step(self, x_t: Tensor, x_0: Tensor, t: Tensor, end: Tensor) -> Tensor:
        """Noisy data at times ``end`` from ``x_t`` at ``t`` (B,) and the estimate ``x_0``: DDIM, arXiv 2010.02502."""
        signal, sigma = self.signal_and_noise_rates(t, x_t)
        end_signal, end_sigma = self.signal_and_noise_rates(end, x_t)
        ratio = end_sigma / sigma
        return (end_signal - ratio * signal) * x_0 + ratio * x_t

    def first_order_times(self, steps: int) -> Sequence[int | float]:
        """Decreasing times of ``steps`` steps of the sampler ``first_order_sampler``."""
        return self._build_solver(self.first_order_sampler, steps, 1.0).times

    def step_times(self, few_steps: FewStepConfig) -> list[list[float]]:
        """For each number in ``few_steps.steps``: start and end times of the steps, decreasing from noise to data."""
        spaced = self.for_sampling(few_steps.spacing)
        return [[*map(float, spaced.first_order_times(steps)), self.data_time] for steps in few_steps.steps]

    def run_steps(self, times: Sequence[float], x: Tensor, estimate: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Take first-order steps (``deterministic_step``) from noisy data ``x`` between successive ``times``.

        ``x`` is (B, C, *rest), at the first of the decreasing ``times``. ``estimate`` maps x_t (B, C, *rest) and t (B,)
        on the CPU to the estimate of x_0. Returns noisy data at the last of ``times``.
        """
        for time, end in pairwise(times):
            t, until = (torch.full((len(x),), value, dtype=self.time_dtype) for value in (time, end))
            x = self.deterministic_step(x, estimate(x, t), t, until)
        return x

    def log_snr_times(self, count: int) -> Tensor:
        """Times, (count,), from low to high noise, with evenly spaced log SNR within +- ``LOG_SNR_LIMIT``."""
        times = self.evenly_spaced_times(_TIME_GRID_SIZE)
        targets = LOG_SNR_LIMIT * (1 - (2 * torch.arange(count) + 1) / count)
        return times[(self.log_snr(times) - targets[:, None]).abs().argmin(dim=1)]

    def settings(self) -> dict[str, Any]:
        """Name and constructor arguments for ``build_process``; each argument is an attribute of the process."""
        return {"name": self.name, **{key: getattr(self, key) for key in inspect.signature(type(self)).parameters}}

    @abstractmethod
    def _build_solver(self, sampler: str, steps: int, strength: float) -> Solver:
        """Build a solver that starts at the relative time ``strength``."""

    def for_sampling(self, spacing: str | None = None, clip: float | None = None) -> Self:
        """Copy of the process with the limit ``clip``, and ``spacing`` unless it is None. Raises ``UserError``."""
        if self.few_steps is not None and spacing not in (None, self.few_steps.spacing):
            raise UserError(f"spacing={spacing}: this model was distilled with spacing={self.few_steps.spacing}")
        changed = copy.copy(self)
        changed.spacing = self.spacing if spacing is None else validation.one_of("spacing", spacing, self.spacings)
        if clip is not None:
            validation.positive_number("clip", clip, ", or null for no limit")
        changed.clip_limit = clip
        return changed

    def check_sampler(self, steps: int, sampler: str | None = None, strength: float = 1.0) -> str:
        """Return ``sampler``, by default the first sampler of the process. Raises ``UserError`` for invalid settings.

        A distilled model allows only ``first_order_sampler`` and, with ``strength`` 1, the ``steps`` of its training.
        """
        few_steps = self.few_steps
        sampler = (self.samplers[0] if few_steps is None else self.first_order_sampler) if sampler is None else sampler
        if sampler not in self.samplers:
            known = ", ".join(self.samplers)
            raise UserError(f"sampler={sampler} cannot be combined with process={self.name}: choose one of {known}")
        validation.whole_number("steps", steps, 1, self.max_steps)
        validation.fraction("strength", strength)
        if few_steps is not None:
            if sampler != self.first_order_sampler:
                raise UserError(f"sampler={sampler}: this model was distilled for sampler={self.first_order_sampler}")
            if strength == 1:
                few_steps.check_steps(steps)
        return sampler

    @torch.no_grad()
    def sample(
        self,
        denoise: Denoise,
        noise: Tensor,
        steps: int,
        sampler: str | None = None,
        generators: Sequence[Generator] | None = None,
        x_0: Tensor | None = None,
        strength: float = 1.0,
        shared_noise: float = 0.0,
    ) -> Tensor:
        """Generate samples, (B, C, *rest), from standard normal ``noise`` of the same shape.

        Stochastic samplers need one of ``generators`` per row, so that a sample does not depend on its batch. Their
        noise has the correlation ``shared_noise`` between frames, which has to be that of ``noise``. With
        ``strength`` below 1, sampling starts from ``x_0`` with noise of the relative time ``strength`` (SDEdit, arXiv
        2108.01073). A distilled model then continues with its own steps.
        """
        sampler, denoise = self.check_sampler(steps, sampler, strength), self._limit_predictions(denoise)
        if generators is not None and len(generators) != len(noise):
            raise ValueError(f"{len(generators)} generators for {len(noise)} rows: give one for each row")
        if strength == 1 and self.few_steps is not None:
            times = self.step_times(self.few_steps)[self.few_steps.steps.index(steps)]
            return self._run_few_steps(times, denoise, noise)
        if strength == 1:
            return run_solver(self._build_solver(sampler, steps, 1.0), denoise, noise, generators, shared_noise)
        if x_0 is None or x_0.shape != noise.shape:
            raise UserError(f"strength={strength} starts from data: give x_0 in the shape of the noise, or strength=1")
        if strength == 0:
            return x_0.clone()
        solver = self._build_solver(sampler, steps, strength)
        t = torch.full((len(x_0),), solver.times[0], device=x_0.device)
        x_t = self.corrupt(x_0, t, noise).x_t
        if self.few_steps is not None:
            later = [time for time in self.step_times(self.few_steps)[-1] if time < solver.times[0]]
            return self._run_few_steps([solver.times[0], *later], denoise, x_t)
        return run_solver(solver, denoise, x_t, generators, shared_noise)

    def _run_few_steps(self, times: Sequence[float], denoise: Denoise, x: Tensor) -> Tensor:
        """Run the steps of a distilled model at ``times`` in float32."""
        sampled = self.run_steps(times, x.float(), lambda x_t, t: self.predict_x0(x_t, t, denoise(x_t, t).float()))
        return sampled.to(x.dtype)

    def _limit_predictions(self, denoise: Denoise) -> Denoise:
        """Denoiser ``denoise`` with predicted data limited to the range +- ``clip_limit``."""
        limit = self.clip_limit
        if limit is None:
            return denoise

        def clipped(x_t: Tensor, t: Tensor) -> Tensor:
            x_0 = self.predict_x0(x_t, t, denoise(x_t, t).to(x_t.dtype)).clamp(-limit, limit)
            return self.prediction_from_x0(x_0, x_t, t)

        return clipped
