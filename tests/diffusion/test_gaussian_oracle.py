"""With the exact denoiser of a Gaussian instead of a network, every registered sampler returns that Gaussian."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler
from torch import Tensor

from echodream.diffusion.noise import sample_noise
from echodream.diffusion.noise_schedules import NOISE_SCHEDULES
from echodream.diffusion.processes.base import Process
from echodream.diffusion.processes.ddpm import DDPM, SPACINGS
from echodream.diffusion.samplers import SAMPLERS, Sampler
from echodream.errors import UserError
from tests.support.gaussians import (
    MEAN,
    PROCESSES,
    STD,
    WAYS,
    C,
    cumulative,
    entry,
    exact,
    generators,
    moments,
    normal,
    per_channel,
    rates,
    whitened,
)

SHAPES = {"images": (2, C, 70, 90), "clips": (2, C, 5, 30, 42)}  # 12,600 elements in each channel


def sampled(name: str, sampler: str, steps: int, shape: tuple[int, ...]) -> Tensor:
    process = PROCESSES[name]
    return process.sample(exact(process), whitened(normal(*shape)), steps, sampler, generators(shape[0], 1))


def closed_form(process: Process, sampler: str, steps: int) -> np.ndarray:
    """Deviation that a first-order solver, or ancestral sampling, leaves of a Gaussian: (C,), in float64.

    Both are linear in x_t, so variances are carried from step to step.
    """
    times = process._build_solver(sampler, steps, 1.0).times
    s2, var = np.array(STD) ** 2, np.ones(C)
    places = [*(rates(process, time) for time in times), (1.0, 0.0)]
    for (a, b), (a_next, b_next) in itertools.pairwise(places):
        gain = a * s2 / (a**2 * s2 + b**2)  # of E[x_0 | x_t]
        if SAMPLERS[process.name][sampler].stochastic:  # 2006.11239, equation 7
            ratio = (a / a_next) ** 2
            spread = b_next**2 / b**2 * (1 - ratio)
            var = (a_next * (1 - ratio) / b**2 * gain + math.sqrt(ratio) * b_next**2 / b**2) ** 2 * var + spread
        else:
            var = (a_next * gain + b_next * (1 - a * gain) / b) ** 2 * var
    return np.sqrt(var)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("steps", [10, 50])
@pytest.mark.parametrize(("name", "sampler"), WAYS)
def test_every_sampler_returns_the_mean_and_deviation(
    name: str, sampler: str, steps: int, shape: tuple[int, ...]
) -> None:
    """The mean is exact but for where noise is not quite reached: sqrt(a_T) = 0.0064 of the mean 1.5.

    The deviation of a first-order or ancestral sampler is its closed form, and goes to the data's with 1 / steps. The
    last step of a second-order one is first-order, and removes what is finer than the noise that is left there: with
    even steps of linear betas 0.31 at 10 steps and 0.06 at 50, with quadratic ones 0.04 and 0.01.
    """
    process = PROCESSES[name]
    mean, std = moments(sampled(name, sampler, steps, shape))
    chance = 5 / math.sqrt(mean_count(shape)) if entry(name, sampler).stochastic else 0.0  # five standard errors
    assert (mean - torch.tensor(MEAN)).abs().max() <= 0.002 + chance + (0 if zero_snr(process) else 0.0064 * 1.5)
    relative = (std / torch.tensor(STD) - 1).abs().max().item()
    if entry(name, sampler).order == 1:
        np.testing.assert_allclose(std, closed_form(process, sampler, steps), rtol=2e-4 + chance)
        assert relative < (0.6 if steps == 10 else 0.16)
    else:
        assert relative < bound(name, sampler, steps)


def mean_count(shape: tuple[int, ...]) -> int:
    return math.prod(shape) // C


def zero_snr(process: Process) -> bool:
    return not isinstance(process, DDPM) or process.zero_snr


def bound(name: str, sampler: str, steps: int) -> float:
    """Relative error of the deviation, of the smallest one, 0.3, above all."""
    if sampler == "heun" or "quadratic" in name or name == "flow":
        return 0.08 if steps == 10 else 0.01
    return 0.45 if steps == 10 else 0.02


@pytest.mark.slow
@pytest.mark.parametrize(("name", "sampler"), WAYS)
def test_the_error_goes_with_more_steps(name: str, sampler: str) -> None:
    """At 250 steps first order is within 3 %, second within 0.5 %; ancestral sampling adds its chance of 3 %."""
    _, std = moments(sampled(name, sampler, 250, SHAPES["images"]))
    relative = (std / torch.tensor(STD) - 1).abs().max().item()
    sampler_entry = entry(name, sampler)
    assert relative < (0.07 if sampler_entry.stochastic else 0.03 if sampler_entry.order == 1 else 0.005)


@pytest.mark.parametrize(("name", "sampler"), [way for way in WAYS if not entry(*way).stochastic])
def test_correlated_data_keep_their_correlation(name: str, sampler: str) -> None:
    """Six elements with a random covariance: (a S)(a^2 S + b^2)^-1 in place of the network."""
    process = PROCESSES[name]
    root = normal(6, 6, seed=3).double() / 3 + 0.5 * torch.eye(6)
    cov, mean = root @ root.T, torch.linspace(-1, 1, 6, dtype=torch.float64)
    noise = normal(512, 6, seed=4).double()
    noise = noise - noise.mean(0)
    noise = noise @ torch.linalg.inv(torch.linalg.cholesky(noise.T @ noise / len(noise))).T

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        a, b = rates(process, float(t[0]))
        x = x_t.double().flatten(1)
        x_0 = mean + (x - a * mean) @ (a * cov @ torch.linalg.inv(a**2 * cov + b**2 * torch.eye(6))).T
        seen = torch.stack([x_0, (x - a * x_0) / b])
        weights = {"flow": (-1.0, 1.0)}.get(process.name) or {
            "v": (-b, a),
            "epsilon": (0.0, 1.0),
            "sample": (1.0, 0.0),
        }[
            process.prediction  # type: ignore[attr-defined]
        ]
        return (weights[0] * seen[0] + weights[1] * seen[1]).view_as(x_t).float()

    x = process.sample(denoise, noise.view(512, 1, 2, 3).float(), 50, sampler).flatten(1).double()
    found = (x - x.mean(0)).T @ (x - x.mean(0)) / len(x)
    assert (x.mean(0) - mean).abs().max() < 0.012
    assert (found - cov).abs().max() / cov.diagonal().max() < (0.12 if entry(name, sampler).order == 1 else 0.03)


@pytest.mark.parametrize(("name", "sampler"), WAYS)
def test_any_number_of_steps_stays_on_the_schedule(name: str, sampler: str) -> None:
    """Also where 1000 is no multiple, and where rounding would add a step at -1: the mean is met and nothing is NaN."""
    process = PROCESSES[name]
    for steps in (1, 7, 61):
        seen: list[float] = []

        def denoise(x_t: Tensor, t: Tensor, seen: list[float] = seen) -> Tensor:
            seen.append(float(t[0]))
            return exact(process)(x_t, t)

        x = process.sample(denoise, whitened(normal(2, C, 20, 30)), steps, sampler, generators(2))
        mean, _ = moments(x)
        assert len(seen) == (2 * steps - 1 if sampler == "heun" else steps), steps
        assert all(later <= earlier for earlier, later in itertools.pairwise(seen)), steps
        assert seen[0] == pytest.approx(999 if process.name == "ddpm" else 1000, abs=2e-3), steps
        assert seen[-1] >= 0, steps
        chance = 5 * 1.2 / math.sqrt(1200) if entry(name, sampler).stochastic else 0.0
        assert (mean - torch.tensor(MEAN)).abs().max() < 0.012 + chance, steps


@pytest.mark.slow
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("sampler", DDPM().samplers)
def test_every_number_of_steps_gives_falling_times(spacing: str, sampler: str) -> None:
    process = DDPM(spacing=spacing)
    for steps in (*range(1, 1001, 7), 61, 103, 121, 122, 201, 998, 999, 1000):
        times = process._build_solver(sampler, steps, 1.0).times
        assert len(times) == steps or spacing == "leading"
        assert all(0 <= later < earlier <= 999 for earlier, later in itertools.pairwise(times))
        assert times[0] == 999 or spacing == "leading"


@pytest.mark.parametrize(("name", "sampler"), WAYS)
def test_a_row_does_not_depend_on_its_batch(name: str, sampler: str) -> None:
    process, noise = PROCESSES[name], normal(3, C, 3, 5, 7)
    together = process.sample(exact(process), noise, 10, sampler, generators(3))
    for row in range(3):
        alone = process.sample(exact(process), noise[row : row + 1], 10, sampler, [generators(3)[row]])
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-5)
    again = process.sample(exact(process), noise, 10, sampler, generators(3))
    assert torch.equal(again, together)  # nothing is left over from one call to the next


@pytest.mark.parametrize("sampler", [name for name, item in SAMPLERS["ddpm"].items() if item.stochastic])
def test_stochastic_samplers_use_the_generators(sampler: str) -> None:
    process, noise = PROCESSES["ddpm-v"], normal(3, C, 5, 7)
    first, second = (process.sample(exact(process), noise, 10, sampler, generators(3, seed)) for seed in (0, 50))
    assert (first - second).abs().mean() > 0.1


@pytest.mark.parametrize(
    ("name", "sampler", "strength"),
    [*((*way, 0.5) for way in WAYS), *((*way, 0.1) for way in WAYS if way[0] in ("ddpm-v", "flow"))],
)
def test_sampling_from_data_returns_data(name: str, sampler: str, strength: float) -> None:
    """From the data noised to a level, sampling gives the data's moments, and begins at that level."""
    process = PROCESSES[name]
    noise = whitened(normal(2, C, 60, 70, seed=8))
    x_0 = per_channel(MEAN, noise) + per_channel(STD, noise) * whitened(normal(2, C, 60, 70, seed=9))
    seen: list[float] = []

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        seen.append(process.relative_time(t)[0].item())
        return exact(process)(x_t, t)

    x = process.sample(denoise, noise, 20, sampler, generators(2), x_0.float(), strength)
    assert seen[0] == pytest.approx(strength, abs=1e-4)
    mean, std = moments(x)
    assert (mean - torch.tensor(MEAN)).abs().max() < 0.04
    assert (std / torch.tensor(STD) - 1).abs().max() < (0.35 if entry(name, sampler).order == 1 else 0.2)
    kept = torch.nn.functional.cosine_similarity(
        (x - per_channel(MEAN, x)).flatten(), (x_0 - per_channel(MEAN, x)).flatten(), 0
    )
    assert kept > 0.8 if strength == 0.1 else kept < 0.8


@pytest.mark.parametrize(("name", "sampler"), WAYS)
def test_no_strength_returns_the_data_and_full_strength_does_not_look_at_them(name: str, sampler: str) -> None:
    process, noise, x_0 = PROCESSES[name], normal(2, C, 5, 7), normal(2, C, 5, 7, seed=1)
    denoise = exact(process)
    assert torch.equal(process.sample(denoise, noise, 10, sampler, x_0=x_0, strength=0), x_0)
    whole = [process.sample(denoise, noise, 10, sampler, generators(2), x_0=x, strength=1) for x in (None, x_0)]
    assert torch.equal(*whole)


def test_half_precision_is_sampled_in_single() -> None:
    """A bfloat16 has three digits: the network is shown float32 in every step, and the result is rounded once."""
    process, noise = PROCESSES["ddpm-v"], normal(2, C, 5, 7)
    shown: list[torch.dtype] = []

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        shown.append(x_t.dtype)
        return exact(process)(x_t, t)

    half = process.sample(denoise, noise.bfloat16(), 10)
    assert half.dtype == torch.bfloat16
    assert set(shown) == {torch.float32}
    assert torch.equal(half, process.sample(exact(process), noise.bfloat16().float(), 10).bfloat16())


class UnscaledEuler(EulerDiscreteScheduler):
    """The defect of a loop that does not call ``scale_model_input``."""

    def scale_model_input(self, sample: Tensor, timestep: Any) -> Tensor:
        return sample


@pytest.mark.parametrize("name", ["ddpm-v", "ddpm-epsilon"])
@pytest.mark.slow
def test_a_sampler_with_inputs_on_the_wrong_scale_fails_the_oracle(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It returns data without spread, which the oracle of a newly registered sampler notices."""
    shape = SHAPES["images"]
    monkeypatch.setitem(SAMPLERS["ddpm"], "broken", Sampler("EulerDiscreteScheduler"))
    test_every_sampler_returns_the_mean_and_deviation(name, "broken", 50, shape)
    monkeypatch.setitem(SAMPLERS["ddpm"], "broken", Sampler(UnscaledEuler))
    with pytest.raises(AssertionError):
        test_every_sampler_returns_the_mean_and_deviation(name, "broken", 50, shape)
    with pytest.raises(AssertionError):
        test_the_error_goes_with_more_steps(name, "broken")


@pytest.mark.parametrize("schedule", NOISE_SCHEDULES)
def test_every_noise_schedule_goes_from_data_to_noise(schedule: str) -> None:
    """And sampling with it returns the data."""
    process = DDPM(schedule=schedule)
    alphas = process.alphas_cumprod
    assert (alphas.diff() < 0).all()
    assert alphas[0] > 0.99
    assert alphas[-1] < 1e-6
    mean, std = moments(process.sample(exact(process), whitened(normal(2, C, 40, 50)), 100))
    assert (mean - torch.tensor(MEAN)).abs().max() < 0.02
    assert (std / torch.tensor(STD) - 1).abs().max() < 0.03


def test_a_noise_schedule_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    def invented(steps: int, beta_start: float, beta_end: float) -> list[float]:
        return [beta_start + (beta_end - beta_start) / (1 + math.exp(-t)) for t in np.linspace(-6, 6, steps)]

    with pytest.raises(UserError, match=r"process.schedule is .invented.: choose one of linear, scaled_linear, cosine"):
        DDPM(schedule="invented")
    monkeypatch.setitem(NOISE_SCHEDULES, "invented", invented)
    process = DDPM(schedule="invented", zero_snr=False)
    torch.testing.assert_close(process.alphas_cumprod.double(), torch.tensor(cumulative(process)), rtol=1e-4, atol=1e-6)
    test_every_noise_schedule_goes_from_data_to_noise("invented")


@pytest.mark.parametrize("sampler", ["ddpm", "euler_ancestral"])
def test_steps_add_noise_with_the_correlation_of_the_first_noise(sampler: str) -> None:
    """Frames of Gaussian clips with the correlation of the noise: the denoiser is that of independent frames."""
    process, shape = PROCESSES["ddpm-v"], SHAPES["clips"]
    noise = torch.stack([sample_noise(shape[1:], 0.6, generator) for generator in generators(shape[0], 2)])
    clips = process.sample(exact(process), noise, 40, sampler, generators(shape[0], 1), shared_noise=0.6)
    clips = (clips - per_channel(MEAN, clips)) / per_channel(STD, clips)
    for lag in (1, 3):
        assert float((clips[:, :, lag:] * clips[:, :, :-lag]).mean() / clips.square().mean()) == pytest.approx(
            0.6, abs=0.03
        )
