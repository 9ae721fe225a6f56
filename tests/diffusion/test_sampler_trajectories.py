"""Sampling steps compared with loops in this file: with the schedulers of diffusers, or with formulas of the papers."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from echodream.diffusion.noise_schedules import NOISE_SCHEDULES
from echodream.diffusion.processes.base import Denoise, Process
from echodream.diffusion.processes.ddpm import DDPM, PREDICTION_TYPES
from echodream.diffusion.processes.rectified_flow import RectifiedFlow
from echodream.diffusion.samplers import SAMPLERS
from tests.support.gaussians import PROCESSES, C, F, H, W, entry, generators, normal, rates

SHAPES = [(2, C, H, W), (2, C, F, H, W)]
DDPM_NAMES = [name for name, process in PROCESSES.items() if process.name == "ddpm" and "quadratic" not in name]


def network(x_t: Tensor, t: Tensor) -> Tensor:
    """Smooth function of x and t, used as a network; no denoiser."""
    time = t.view(-1, *[1] * (x_t.dim() - 1)).float() / 1000
    return torch.sin(1.7 * x_t + 3 * time) + 0.3 * x_t.roll(1, dims=1) - time


def followed(process: Process, sampler: str, steps: int, noise: Tensor) -> list[Tensor]:
    """Sample and return x_t at each network call, followed by the result."""
    seen: list[Tensor] = []

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        seen.append(x_t)
        return network(x_t, t)

    last = process.sample(denoise, noise, steps, sampler, generators(len(noise), 3))
    return [*seen, last]


def assert_same(found: list[Tensor], truth: list[Tensor]) -> None:
    """Tolerance 1e-4 of the largest value, at least 1e-4; with epsilon, x_0 can be 157 times as large as the noise."""
    assert len(found) == len(truth)
    for one, other in zip(found, truth, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * max(1.0, other.abs().max().item()))


def unrolled(scheduler: Any, times: Callable[[Any, int], float], noise: Tensor, **more: Any) -> list[Tensor]:
    """A loop over the steps as in the pipelines of diffusers; returns x_t at each network call, then the result."""
    scale = getattr(scheduler, "scale_model_input", lambda x, step: x)
    x, inputs = noise / scale(torch.ones(1), scheduler.timesteps[0]), list[Tensor]()
    torch.testing.assert_close(x, noise * getattr(scheduler, "init_noise_sigma", 1.0), rtol=1e-4, atol=0)
    for index, step in enumerate(scheduler.timesteps):
        t = torch.full((len(x),), times(scheduler, index))
        inputs.append(scale(x, step))
        x = scheduler.step(network(inputs[-1], t), step, x, **more).prev_sample
    return [*inputs, x]


def config(process: DDPM) -> dict[str, Any]:
    return {
        "beta_schedule": NOISE_SCHEDULES[process.schedule],
        "beta_start": 0.0001,
        "beta_end": 0.02,
        "prediction_type": PREDICTION_TYPES[process.prediction],
        "rescale_betas_zero_snr": process.zero_snr,
        "timestep_spacing": "trailing",
    }


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("steps", [10, 50])
@pytest.mark.parametrize("sampler", ["dpmpp_2m", "unipc", "ddim", "ddpm", "euler", "euler_ancestral"])
@pytest.mark.parametrize("name", DDPM_NAMES)
def test_the_ddpm_family_follows_diffusers(name: str, sampler: str, steps: int, shape: tuple[int, ...]) -> None:
    process, noise = PROCESSES[name], normal(*shape)
    assert isinstance(process, DDPM)
    if process.prediction == "sample" and not entry(name, sampler).predicts_x0:
        pytest.skip("diffusers refuses this prediction type; the Gaussian oracle tests our conversion")
    scheduler: Any = {
        "dpmpp_2m": lambda: DPMSolverMultistepScheduler(**config(process)),
        "unipc": lambda: UniPCMultistepScheduler(**config(process)),
        "ddim": lambda: DDIMScheduler(**config(process), clip_sample=False),
        "ddpm": lambda: DDPMScheduler(**config(process), clip_sample=False),
        "euler": lambda: EulerDiscreteScheduler(**config(process)),
        "euler_ancestral": lambda: EulerAncestralDiscreteScheduler(**config(process)),
    }[sampler]()
    scheduler.set_timesteps(steps)
    more = {"generator": generators(len(noise), 3)} if entry(name, sampler).stochastic else {}
    truth = unrolled(scheduler, lambda scheduler, index: int(scheduler.timesteps[index]), noise, **more)
    assert_same(followed(process, sampler, steps, noise), truth)


@pytest.mark.parametrize("sampler", ["ddpm", "euler_ancestral"])
@pytest.mark.parametrize("spacing", ["trailing", "leading"])
@pytest.mark.parametrize("rows", [1, 3])
def test_noise_of_steps_is_that_of_a_loop_bit_by_bit(sampler: str, spacing: str, rows: int) -> None:
    """Equal random numbers as in a loop, for any batch size; with leading spacing, the last step adds no noise."""
    process, noise = DDPM(spacing=spacing), normal(3, C, H, W)
    scheduler: Any = {"ddpm": DDPMScheduler, "euler_ancestral": EulerAncestralDiscreteScheduler}[sampler](
        **{**config(process), "timestep_spacing": spacing}, **({"clip_sample": False} if sampler == "ddpm" else {})
    )
    scheduler.set_timesteps(5)
    random = generators(3, 3)
    truth = unrolled(scheduler, lambda scheduler, index: int(scheduler.timesteps[index]), noise, generator=random)
    found, own = [], generators(3, 3)
    for start in range(0, 3, rows):
        some = slice(start, start + rows)
        found.append(process.sample(network, noise[some], 5, sampler, own[some]))
    assert torch.equal(torch.cat(found), truth[-1])
    assert all(torch.equal(one.get_state(), other.get_state()) for one, other in zip(own, random, strict=True))


@pytest.mark.parametrize("steps", [10, 16, 50])
@pytest.mark.parametrize("sampler", ["unipc", "euler", "heun"])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_follows_diffusers(sampler: str, steps: int, shift: float) -> None:
    noise = normal(2, C, F, H, W)
    even = torch.arange(steps, 0, -1).double().numpy() / steps
    scheduler: Any
    if sampler == "heun":
        scheduler = FlowMatchHeunDiscreteScheduler(shift=shift)
        # the limits without a shift; the scheduler of diffusers would otherwise apply the shift twice
        scheduler.sigma_max, scheduler.sigma_min = 1.0, 0.001
        scheduler.set_timesteps(steps)
    elif sampler == "euler":
        scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
        scheduler.set_timesteps(sigmas=even)
    else:
        flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": shift}
        scheduler = UniPCMultistepScheduler(**flow)
        scheduler.set_timesteps(sigmas=even)
    truth = unrolled(scheduler, lambda scheduler, index: float(scheduler.sigmas[index]) * 1000, noise)
    assert_same(followed(RectifiedFlow(shift=shift), sampler, steps, noise), truth)


@pytest.mark.parametrize(
    ("name", "steps"),
    [*itertools.product(DDPM_NAMES, [1, 7, 10, 61, 64]), ("ddpm-v-quadratic", 7), ("ddpm-v-quadratic", 10)],
)
def test_ddim_is_its_formula(name: str, steps: int) -> None:
    """DDIM (arXiv:2010.02502, equation 12, sigma 0) in double precision; the last step returns the predicted x_0."""
    process, noise = PROCESSES[name], normal(2, C, H, W)
    assert isinstance(process, DDPM)
    power = 2 if process.spacing == "quadratic" else 1
    times = [round(1000 * (left / steps) ** power) - 1 for left in range(steps, 0, -1)]
    x, xs = noise.double(), [noise]
    for time, following in zip(times, [*times[1:], None], strict=True):
        a, b = rates(process, time)
        a_next, b_next = (1.0, 0.0) if following is None else rates(process, following)
        out = network(x, torch.full((2,), time))
        if process.prediction == "v":
            x_0, noise_0 = a * x - b * out, a * out + b * x
        elif process.prediction == "epsilon":
            x_0, noise_0 = (x - b * out) / a, out
        else:
            x_0, noise_0 = out, (x - a * out) / b
        x = a_next * x_0 + b_next * noise_0
        xs.append(x.float())
    assert_same(followed(process, "ddim", steps, noise), xs)


@pytest.mark.parametrize("steps", [1, 7, 10, 64])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_euler_is_its_formula(steps: int, shift: float) -> None:
    noise = normal(2, C, F, H, W)
    even = [1 - index / steps for index in range(steps + 1)]
    grid = [shift * s / (1 + (shift - 1) * s) for s in even]
    x, xs = noise.double(), [noise]
    for s, following in itertools.pairwise(grid):
        x = x + (following - s) * network(x, torch.full((2,), 1000 * s))
        xs.append(x.float())
    assert_same(followed(RectifiedFlow(shift=shift), "euler", steps, noise), xs)


@pytest.mark.parametrize(("spacing", "power"), [("trailing", 1), ("quadratic", 2)])
@pytest.mark.parametrize("steps", [2, 9])
def test_heun_is_its_formula(steps: int, spacing: str, power: int) -> None:
    """Heun steps from t = 1 to 0.001 (times are powers of an even grid), then one Euler step to 0."""
    noise = normal(2, C, H, W)
    grid = (torch.linspace(1, 0.001 ** (1 / power), steps, dtype=torch.float64) ** power).tolist()
    x = noise.double()
    for s, following in itertools.pairwise(grid):
        slope = network(x, torch.full((2,), 1000 * s))
        ahead = network(x + (following - s) * slope, torch.full((2,), 1000 * following))
        x = x + (following - s) * (slope + ahead) / 2
    x = x - 0.001 * network(x, torch.full((2,), 1.0))
    found = RectifiedFlow().for_sampling(spacing).sample(network, noise, steps, "heun")
    torch.testing.assert_close(found, x.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("process", [DDPM(), RectifiedFlow(), RectifiedFlow(shift=3.0)])
def test_the_spacing_is_chosen_when_sampling_and_does_not_change_the_process(process: Process) -> None:
    """With quadratic spacing, square roots of the times are evenly spaced, before the shift of rectified flow."""
    settings, changed = process.settings(), process.for_sampling("quadratic")
    for sampler in process.samplers:
        times = torch.tensor(changed._build_solver(sampler, 10, 1.0).times, dtype=torch.float64)
        s = (times + (1 if process.name == "ddpm" else 0)) / 1000
        shift = getattr(process, "shift", 1.0)
        root = (s / (shift - (shift - 1) * s)).sqrt().unique().flip(0)
        expected = torch.arange(10, 0, -1) / 10 if sampler != "heun" else torch.linspace(1, math.sqrt(0.001), 10)
        torch.testing.assert_close(root, expected.double(), rtol=0, atol=0.01 if process.name == "ddpm" else 1e-5)
    assert process.settings() == settings == process.for_sampling(None).settings()
    assert process.spacing == "trailing"
    if process.name == "ddpm":
        noise = normal(2, C, H, W)
        same = process.for_sampling("quadratic").sample(network, noise, 5)
        assert torch.equal(same, DDPM(spacing="quadratic").sample(network, noise, 5))


@pytest.mark.parametrize("name", PROCESSES)
def test_a_limit_of_predicted_data_is_kept_at_each_step(name: str) -> None:
    """``clip`` limits the predicted data, which the last first-order step returns; a very large limit has no effect."""
    process, noise = PROCESSES[name], normal(2, C, H, W)
    t = torch.full((2,), 700 if process.name == "ddpm" else 700.0)
    x_0 = normal(2, C, H, W, seed=3)
    torch.testing.assert_close(
        process.predict_x0(noise, t, process.prediction_from_x0(x_0, noise, t)), x_0, rtol=0, atol=1e-4
    )
    sampler = "ddim" if process.name == "ddpm" else "euler"
    free = process.sample(network, noise, 6, sampler)
    limited = process.for_sampling(clip=0.2).sample(network, noise, 6, sampler)
    assert free.abs().max() > 0.3
    assert limited.abs().max() == pytest.approx(0.2, abs=1e-4)
    wide = process.for_sampling(clip=1e4).sample(network, noise, 6, sampler)
    torch.testing.assert_close(wide, free, rtol=1e-3, atol=1e-3 * max(1.0, free.abs().max().item()))


@pytest.mark.parametrize("strength", [0.3, 0.75])
def test_sampling_from_data_is_its_formula(strength: float) -> None:
    """SDEdit with DDIM: noise the data to the given level, then all steps on the rest of the schedule."""
    process, noise, x_0, steps = PROCESSES["ddpm-v"], normal(2, C, H, W), normal(2, C, H, W, seed=5), 10
    count = round(1000 * strength)
    times = [round(count - index * count / steps) - 1 for index in range(steps)]
    a, b = rates(process, times[0])
    x = a * x_0.double() + b * noise.double()
    for time, following in zip(times, [*times[1:], None], strict=True):
        a, b = rates(process, time)
        a_next, b_next = (1.0, 0.0) if following is None else rates(process, following)
        out = network(x, torch.full((2,), time))
        x = a_next * (a * x - b * out) + b_next * (a * out + b * x)
    found = process.sample(network, noise, steps, "ddim", x_0=x_0, strength=strength)
    torch.testing.assert_close(found, x.float(), rtol=1e-4, atol=1e-4)


def test_networks_see_one_time_for_each_row() -> None:
    """Networks get one time per row: integers for DDPM, 0 to 1000 for flow, also if UniPC rounds its own times down."""
    times: dict[str, list[Tensor]] = {}
    for name, process in (("ddpm", DDPM()), ("flow", RectifiedFlow())):
        seen: list[Tensor] = []

        def denoise(x_t: Tensor, t: Tensor, seen: list[Tensor] = seen) -> Tensor:
            seen.append(t)
            return x_t

        process.sample(denoise, normal(3, C, H, W), 7, "unipc")
        times[name] = seen
    assert all(t.shape == (3,) and t.dtype == torch.int64 for t in times["ddpm"])
    assert [int(t[0]) for t in times["ddpm"]] == [999, 856, 713, 570, 428, 285, 142]
    assert all(t.shape == (3,) and t.dtype == torch.float32 for t in times["flow"])
    expected = [1000 * (1 - index / 7) for index in range(7)]
    assert [float(t[0]) for t in times["flow"]] == pytest.approx(expected, abs=2e-3)
    assert math.isclose(float(times["flow"][0][0]), 1000, abs_tol=2e-3)


def test_gradients_are_not_kept() -> None:
    weight = torch.ones(1, requires_grad=True)
    denoise: Denoise = lambda x_t, t: weight * x_t  # noqa: E731
    assert not RectifiedFlow().sample(denoise, normal(2, C, H, W), 3).requires_grad


@pytest.mark.parametrize("sampler", SAMPLERS["ddpm"])
@pytest.mark.parametrize("schedule", NOISE_SCHEDULES)
def test_every_noise_schedule_works_with_every_sampler(schedule: str, sampler: str) -> None:
    """All pairs can be sampled; a scheduler of diffusers would raise an error for an unknown noise schedule."""
    process = DDPM(schedule=schedule)
    rows = [torch.Generator().manual_seed(row) for row in range(2)]
    sample = process.sample(lambda x_t, t: 0.1 * x_t, normal(2, C, 4, 4), 4, sampler, rows)
    assert sample.isfinite().all()
