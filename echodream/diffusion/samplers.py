"""One loop for all of diffusers' schedulers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class Solver:
    """A scheduler with its steps set, used for one call only, because a step changes it."""

    scheduler: Any
    times: Sequence[int | float]
    """What the network is told at each step: whole numbers where the process counts in them."""
    stochastic: bool = False
    """Whether a step adds noise, and so takes generators."""


def solve(
    solver: Solver, denoise: Callable[[Tensor, Tensor], Tensor], x: Tensor, generators: Sequence[Generator] | None
) -> Tensor:
    """Follow ``solver`` from ``x``, (B, C, *rest), at its first time, to data.

    ``denoise`` takes (x_t, t (B,)) and returns the process's prediction. Computed in float32, returned in x's dtype.
    """
    dtype, x = x.dtype, x.float()
    more = {"generator": list(generators)} if solver.stochastic and generators is not None else {}
    for step, time in zip(solver.scheduler.timesteps, solver.times, strict=True):
        prediction = denoise(x, torch.full((len(x),), time, device=x.device)).float()
        x = solver.scheduler.step(prediction, step, x, return_dict=False, **more)[0]
    return x.to(dtype)
