"""Registry of the noise schedules of ``process=ddpm``. To add one, add an entry to ``NOISE_SCHEDULES``.

Tests run every entry with every sampler. A name of diffusers can only be used if all its schedulers accept it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Betas = Callable[[int, float, float], Sequence[float]]
"""(noise levels, beta_start, beta_end) to one beta for each noise level, from low to high noise, between 0 and 1."""

NOISE_SCHEDULES: dict[str, str | Betas] = {
    "linear": "linear",
    "scaled_linear": "scaled_linear",
    "cosine": "squaredcos_cap_v2",
}
"""By name in ``process.schedule``: the ``beta_schedule`` of diffusers, or a function that computes the betas."""


def scheduler_arguments(name: str, steps: int, beta_start: float, beta_end: float) -> Mapping[str, Any]:
    """Arguments of a diffusers scheduler for the noise schedule ``name`` with ``steps`` noise levels."""
    schedule = NOISE_SCHEDULES[name]
    arguments: dict[str, Any] = {"num_train_timesteps": steps, "beta_start": beta_start, "beta_end": beta_end}
    if isinstance(schedule, str):
        return {**arguments, "beta_schedule": schedule}
    return {**arguments, "trained_betas": list(schedule(steps, beta_start, beta_end))}
