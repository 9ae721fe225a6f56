"""Registry of noise schedules of ``process=ddpm``. To add a noise schedule, add an entry to ``NOISE_SCHEDULES``."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

BetaFunction = Callable[[int, float, float], Sequence[float]]
"""Function of the number of noise levels, beta_start and beta_end: betas in (0, 1), from low to high noise."""

NOISE_SCHEDULES: dict[str, str | BetaFunction] = {
    "linear": "linear",
    "scaled_linear": "scaled_linear",
    "cosine": "squaredcos_cap_v2",
}
"""A ``beta_schedule`` of diffusers, or a function that computes the betas, by name in ``process.schedule``."""


def scheduler_arguments(name: str, steps: int, beta_start: float, beta_end: float) -> Mapping[str, Any]:
    """Keywords of a diffusers scheduler for the noise schedule ``name`` with ``steps`` noise levels."""
    schedule = NOISE_SCHEDULES[name]
    arguments: dict[str, Any] = {"num_train_timesteps": steps, "beta_start": beta_start, "beta_end": beta_end}
    if isinstance(schedule, str):
        return {**arguments, "beta_schedule": schedule}
    return {**arguments, "trained_betas": list(schedule(steps, beta_start, beta_end))}
