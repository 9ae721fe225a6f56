"""Base class of noise processes: adding noise to data, and sampling. Tensors are (B, C, *rest)."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from echodream import validation
from echodream.diffusion.samplers import SAMPLERS, Solver, run_solver
from echodream.errors import UserError

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(x_t (B, C, *rest), t (B,)) to the prediction of the process, (B, C, *rest)."""


@dataclass(frozen=True)
class NoisedBatch:
    """Corrupted data, and the training target of the network."""

    x_t: Tensor
    """(B, C, *rest)."""
    t: Tensor
    """Time that the network receives, (B,)."""
    target: Tensor
    """Output that the network should return, (B, C, *rest)."""
    weight: Tensor
    """Weight of the squared error of each sample, (B,); ones where all noise levels have the same weight."""


def expand_like(values: Tensor, x: Tensor) -> Tensor:
    """``values``, (B,), as (B, 1, ..., 1) with the number of dimensions of ``x``, (B, C, *rest)."""
    if values.shape != x.shape[:1]:
        raise ValueError(f"one value for each of {len(x)} samples is needed, not the shape {tuple(values.shape)}")
    return values.view(-1, *[1] * (x.dim() - 1))


LOG_SNR_LIMIT = 4.0
"""Natural logarithm of the largest signal-to-noise ratio of ``Process.log_snr_times``."""
_TIME_GRID = 1000


class Process(ABC):
    """A noise process. Its times t are the input of the networks."""

    name: ClassVar[str]
    max_steps: int = 1000
    """Largest number of sampler steps."""

    @property
    def samplers(self) -> tuple[str, ...]:
        """Names of the samplers of this process; the first is the default."""
        return tuple(SAMPLERS[self.name])

    @abstractmethod
    def sample_t(self, count: int, generator: Generator | None = None, device: Any = None) -> Tensor:
        """Random training times, (count,)."""

    @abstractmethod
    def evenly_spaced_times(self, count: int) -> Tensor:
        """Times at the centers of ``count`` equal parts of the noise levels, (count,), in increasing order of noise."""

    @abstractmethod
    def relative_time(self, t: Tensor) -> Tensor:
        """Times ``t``, (B,), as a fraction of the whole process: float in [0, 1], 0 data and 1 noise."""

    @abstractmethod
    def log_snr(self, t: Tensor) -> Tensor:
        """Natural logarithm of the signal-to-noise ratio of unit variances at times ``t``, (B,)."""

    @abstractmethod
    def corrupt(self, x_0: Tensor, t: Tensor, noise: Tensor) -> NoisedBatch:
        """Add standard normal ``noise``, shaped like ``x_0`` (B, C, *rest), at the noise level of ``t``, (B,)."""

    @abstractmethod
    def predict_x0(self, x_t: Tensor, t: Tensor, prediction: Tensor) -> Tensor:
        """Estimate of the data, (B, C, *rest), from the network's ``prediction`` for ``x_t`` at ``t``, (B,)."""

    def log_snr_times(self, count: int) -> Tensor:
        """Times with evenly spaced log signal-to-noise ratios, (count,), in increasing order of noise.

        The ratios are the centers of ``count`` equal parts of [-``LOG_SNR_LIMIT``, ``LOG_SNR_LIMIT``].
        """
        times = self.evenly_spaced_times(_TIME_GRID)
        targets = LOG_SNR_LIMIT * (1 - (2 * torch.arange(count) + 1) / count)
        return times[(self.log_snr(times) - targets[:, None]).abs().argmin(dim=1)]

    def settings(self) -> dict[str, Any]:
        """Name and constructor arguments, which are attributes of the same names, for ``build_process``."""
        return {"name": self.name, **{key: getattr(self, key) for key in inspect.signature(type(self)).parameters}}

    @abstractmethod
    def _build_solver(self, sampler: str, steps: int, strength: float) -> Solver:
        """A new solver that starts at the relative time ``strength``."""

    def check_sampler(self, steps: int, sampler: str | None = None, strength: float = 1.0) -> str:
        """Name of the sampler. Raises ``UserError`` if this process cannot sample with these settings."""
        sampler = self.samplers[0] if sampler is None else sampler
        if sampler not in self.samplers:
            known = ", ".join(self.samplers)
            raise UserError(f"sampler={sampler} does not go with process={self.name}: choose one of {known}")
        validation.whole_number("steps", steps, 1, self.max_steps)
        validation.share("strength", strength)
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
    ) -> Tensor:
        """Samples, (B, C, *rest), from standard normal ``noise`` of the same shape.

        Stochastic samplers use one of ``generators`` for each row, so that a row does not depend on the rest of its
        batch. With ``strength`` below 1, sampling starts from ``x_0`` noised to that relative time (SDEdit, 2108.01073)
        and takes all ``steps`` from there; 0 returns ``x_0``, 1 ignores it.
        """
        sampler = self.check_sampler(steps, sampler, strength)
        if generators is not None and len(generators) != len(noise):
            raise ValueError(f"{len(generators)} generators were given for {len(noise)} rows; give one for each row")
        if strength == 1:
            return run_solver(self._build_solver(sampler, steps, 1.0), denoise, noise, generators)
        if x_0 is None or x_0.shape != noise.shape:
            raise UserError(f"strength={strength} begins from data: give x_0 in the shape of the noise, or strength=1")
        if strength == 0:
            return x_0.clone()
        solver = self._build_solver(sampler, steps, strength)
        t = torch.full((len(x_0),), solver.times[0], device=x_0.device)
        return run_solver(solver, denoise, self.corrupt(x_0, t, noise).x_t, generators)
