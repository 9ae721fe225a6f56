"""What a noise process is: how data become noise, what a network is asked, and how noise becomes data again.

Everything works on tensors of any rank, (B, C, *rest): images (B, C, H, W), clips (B, C, F, H, W).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from echodream import validation
from echodream.diffusion.samplers import Solver, solve
from echodream.errors import UserError

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(x_t (B, C, *rest), t (B,)) to the process's prediction, (B, C, *rest)."""


@dataclass(frozen=True)
class Noised:
    """Data with noise added, and what a network should say of them."""

    x_t: Tensor
    """(B, C, *rest)."""
    t: Tensor
    """(B,): the time that the network is given."""
    target: Tensor
    """(B, C, *rest): what the network should return."""
    weight: Tensor
    """(B,): of each sample's squared error; ones where all noise levels count the same."""


def expand(values: Tensor, x: Tensor) -> Tensor:
    """``values``, (B,), as (B, 1, ..., 1), with as many dimensions as ``x``, (B, C, *rest)."""
    if values.shape != x.shape[:1]:
        raise ValueError(f"one value for each of {len(x)} samples is needed, not the shape {tuple(values.shape)}")
    return values.view(-1, *[1] * (x.dim() - 1))


class Process(ABC):
    """A way from data to noise and back. Its times are what networks are given; ``level`` is a share of them."""

    name: ClassVar[str]
    samplers: ClassVar[tuple[str, ...]]
    """The first is the default."""
    most_steps: int = 1000
    """Of sampling."""

    @abstractmethod
    def sample_t(self, count: int, generator: Generator | None = None, device: Any = None) -> Tensor:
        """Random times to train on, (count,)."""

    @abstractmethod
    def levels(self, count: int) -> Tensor:
        """Times that divide all noise levels evenly, (count,), from little noise to much: for validation."""

    @abstractmethod
    def level(self, t: Tensor) -> Tensor:
        """Which share of the process's time each of ``t``, (B,), is: float in [0, 1], (B,). No measure of noise."""

    @abstractmethod
    def corrupt(self, x_0: Tensor, t: Tensor, noise: Tensor) -> Noised:
        """Add ``noise``, standard normal and shaped like ``x_0``, (B, C, *rest), as much as ``t``, (B,), says."""

    @abstractmethod
    def denoised(self, x_t: Tensor, t: Tensor, prediction: Tensor) -> Tensor:
        """The data, (B, C, *rest), that a network's ``prediction`` for ``x_t`` at ``t``, (B,), speaks of."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What ``make`` needs to build this process again, as JSON has it."""

    @abstractmethod
    def _solver(self, sampler: str, steps: int, strength: float) -> Solver:
        """A new solver that begins at the noise level ``strength``."""

    def check(self, steps: int, sampler: str | None = None, strength: float = 1.0) -> str:
        """The name of the sampler, or ``UserError`` when this process cannot sample in that way."""
        sampler = self.samplers[0] if sampler is None else sampler
        if sampler not in self.samplers:
            known = ", ".join(self.samplers)
            raise UserError(f"sampler={sampler} does not go with process={self.name}; take one of: {known}")
        validation.whole_number("steps", steps, 1, self.most_steps)
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
        """From standard normal ``noise``, (B, C, *rest), to data of the same shape in ``steps`` steps of a ``sampler``.

        ``generators``, one for each row, are drawn from by samplers that add noise on the way; with them a row does not
        depend on its neighbours. With ``strength`` below 1 sampling begins from ``x_0`` noised to that level (SDEdit,
        2108.01073), and goes down from there in as many steps: 0 returns ``x_0``, 1 does not look at it.
        """
        sampler = self.check(steps, sampler, strength)
        if generators is not None and len(generators) != len(noise):
            raise ValueError(f"{len(generators)} generators were given for {len(noise)} rows; give one for each row")
        if strength == 1:
            return solve(self._solver(sampler, steps, 1.0), denoise, noise, generators)
        if x_0 is None or x_0.shape != noise.shape:
            raise UserError(f"strength={strength} begins from data: give x_0 in the shape of the noise, or strength=1")
        if strength == 0:
            return x_0.clone()
        solver = self._solver(sampler, steps, strength)
        t = torch.full((len(x_0),), solver.times[0], device=x_0.device)
        return solve(solver, denoise, self.corrupt(x_0, t, noise).x_t, generators)


def make(settings: Mapping[str, Any]) -> Process:
    """The process that ``settings()`` described."""
    from echodream.diffusion.processes.ddpm import DDPM
    from echodream.diffusion.processes.rectified_flow import RectifiedFlow

    kinds: dict[str, Callable[..., Process]] = {"ddpm": DDPM, "flow": RectifiedFlow}
    rest = dict(settings)
    name = rest.pop("name", None)
    validation.one_of("process.name", name, kinds)
    try:
        return kinds[name](**rest)
    except TypeError as error:
        raise UserError(f"the settings of process {name} do not fit this version of the code: {error}") from error
