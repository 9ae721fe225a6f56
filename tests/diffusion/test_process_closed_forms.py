"""Diffusion processes against their formulas: noising, targets, loss weights and times; errors for invalid settings."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from echodream.diffusion.processes import build_process
from echodream.diffusion.processes.base import Process, expand_like
from echodream.diffusion.processes.ddpm import DDPM
from echodream.diffusion.processes.rectified_flow import RectifiedFlow
from echodream.errors import UserError
from tests.support.gaussians import PROCESSES, WAYS, B, C, F, H, W, as_predicted, cumulative, normal, rates

DDPM_NAMES = [name for name, process in PROCESSES.items() if process.name == "ddpm"]
SHAPES = [(B, C, H, W), (B, C, F, H, W), (4, C, 5, 4), (1, C, 1)]


def times(process: Process, count: int) -> Tensor:
    """A different time for each row; with two rows or more, including the first and the last time."""
    last = 999.0 if process.name == "ddpm" else 1000.0
    t = torch.linspace(last, 0, count) if count > 1 else torch.tensor([417.0])
    return t.round().long() if process.name == "ddpm" else t


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", PROCESSES)
def test_corrupting_is_the_formula_row_by_row(name: str, shape: tuple[int, ...]) -> None:
    """x_t per row equals the formula. Tolerance 1e-4: for small 1 - a_t, diffusers' single precision is not better."""
    process, x_0, noise = PROCESSES[name], normal(*shape), normal(*shape, seed=1)
    t = times(process, shape[0])
    noised = process.corrupt(x_0, t, noise)
    assert torch.equal(noised.t, t)
    assert noised.weight.shape == t.shape
    for row, time in enumerate(t.tolist()):
        signal, sigma = rates(process, time)
        x, e = x_0[row].double(), noise[row].double()
        torch.testing.assert_close(noised.x_t[row].double(), signal * x + sigma * e, rtol=0, atol=1e-4)
        target = as_predicted(process, x, e, signal, sigma)
        torch.testing.assert_close(noised.target[row].double(), target, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", DDPM_NAMES)
def test_corrupting_is_diffusers(name: str) -> None:
    process = PROCESSES[name]
    assert isinstance(process, DDPM)
    schedule = {"cosine": "squaredcos_cap_v2"}.get(process.schedule, process.schedule)
    reference = DDPMScheduler(beta_schedule=schedule, rescale_betas_zero_snr=process.zero_snr)
    x_0, noise, t = normal(5, C, F, H, W), normal(5, C, F, H, W, seed=1), torch.tensor([0, 3, 500, 998, 999])
    noised = process.corrupt(x_0, t, noise)
    torch.testing.assert_close(noised.x_t, reference.add_noise(x_0, noise, t))
    if process.prediction == "v":
        torch.testing.assert_close(noised.target, reference.get_velocity(x_0, noise, t))


@pytest.mark.parametrize("name", PROCESSES)
def test_the_target_says_what_x_0_is(name: str) -> None:
    """The exact target gives x_0 at all levels with some signal; for v and velocity also at pure noise."""
    process, x_0, noise = PROCESSES[name], normal(6, C, H, W), normal(6, C, H, W, seed=1)
    t = times(process, 6)
    noised = process.corrupt(x_0, t, noise)
    found = process.predict_x0(noised.x_t, t, noised.target)
    torch.testing.assert_close(found, x_0, rtol=0, atol=5e-4 if "epsilon" in name else 1e-5)


@pytest.mark.parametrize(("name", "sampler"), WAYS)
def test_one_step_with_the_exact_target_goes_back(name: str, sampler: str) -> None:
    """One sampling step with the exact target returns x_0; with epsilon, not from pure noise, which has no signal."""
    check_goes_back(PROCESSES[name], sampler, 0.9)
    if "epsilon" not in name:
        check_goes_back(PROCESSES[name], sampler, 1.0)


def check_goes_back(process: Process, sampler: str, strength: float = 1.0) -> None:
    x_0, noise = normal(B, C, F, H, W), normal(B, C, F, H, W, seed=1)
    found = process.sample(
        lambda x_t, t: process.corrupt(x_0, t, noise).target, noise, 1, sampler, x_0=x_0, strength=strength
    )
    torch.testing.assert_close(found, x_0, rtol=0, atol=2e-3)


def test_the_last_level_is_nothing_but_noise() -> None:
    for schedule in ("linear", "scaled_linear", "cosine"):
        process = DDPM(schedule=schedule)
        assert process.alphas_cumprod[-1].item() == 0.0
        assert (process.alphas_cumprod[:-1] > 0).all()
        np.testing.assert_allclose(process.alphas_cumprod, cumulative(process), atol=2e-6)
    # linear schedule of betas
    assert DDPM(zero_snr=False).alphas_cumprod[-1].item() == pytest.approx(4.04e-5, rel=1e-2)


@pytest.mark.parametrize("sampler", DDPM().samplers)
def test_sampling_begins_at_the_last_level_that_is_trained_on(sampler: str) -> None:
    """Trailing and quadratic spacing begin at the last training level; leading spacing does not."""
    first = {}
    for spacing in ("trailing", "quadratic", "leading"):
        seen: list[int] = []

        def denoise(x_t: Tensor, t: Tensor, seen: list[int] = seen) -> Tensor:
            seen.append(int(t[0]))
            return x_t

        DDPM(spacing=spacing).sample(denoise, normal(1, 1, 2, 2), 20, sampler)
        first[spacing] = seen[0]
    assert first["trailing"] == first["quadratic"] == 999
    assert first["leading"] <= 950


@pytest.mark.parametrize("prediction", ["v", "epsilon", "sample"])
def test_weights_are_min_snr(prediction: str) -> None:
    """Min-SNR weights: min(snr, 5) for an error of x_0, converted to the prediction; finite at all levels."""
    process = DDPM(prediction, zero_snr=prediction != "epsilon")
    t = torch.arange(1000)
    share = cumulative(process)
    snr = share / (1 - share)
    truth = np.minimum(snr, 5) / {"v": snr + 1, "epsilon": snr, "sample": 1}[prediction]
    found = process.corrupt(torch.zeros(1000, 1, 1), t, torch.zeros(1000, 1, 1)).weight
    np.testing.assert_allclose(found, truth, rtol=1e-3, atol=1e-7)
    assert torch.isfinite(found).all()
    least = DDPM(prediction, zero_snr=prediction != "epsilon", least_weight=0.1)
    found = least.corrupt(torch.zeros(1000, 1, 1), t, torch.zeros(1000, 1, 1)).weight
    np.testing.assert_allclose(found, np.maximum(truth, 0.1), rtol=1e-3)
    off = DDPM(prediction, zero_snr=prediction != "epsilon", min_snr=None)
    assert torch.equal(off.corrupt(torch.zeros(3, 1, 1), t[-3:], torch.zeros(3, 1, 1)).weight, torch.ones(3))


def test_the_same_error_of_x_0_costs_the_same_for_every_prediction() -> None:
    """An error of 1 in x_0 has the weighted loss min(snr, 5), for every type of prediction."""
    x_0, noise, t = normal(3, C, H, W), normal(3, C, H, W, seed=1), torch.tensor([100, 500, 900])
    for name in ("v", "epsilon", "sample"):
        process = DDPM(name, zero_snr=False)
        noised = process.corrupt(x_0, t, noise)
        for row, time in enumerate(t.tolist()):
            signal, sigma = rates(process, time)
            x_t = noised.x_t[row].double()
            wrong = x_0[row].double() + 1
            said = as_predicted(process, wrong, (x_t - signal * wrong) / sigma, signal, sigma)
            cost = noised.weight[row] * (said - noised.target[row]).square().mean()
            assert cost.item() == pytest.approx(min(signal**2 / sigma**2, 5), rel=1e-3)


def test_flow_weighs_all_levels_the_same() -> None:
    assert torch.equal(
        RectifiedFlow().corrupt(normal(3, C, 2), times(RectifiedFlow(), 3), normal(3, C, 2)).weight, torch.ones(3)
    )


@pytest.mark.parametrize("name", PROCESSES)
def test_nothing_is_infinite_at_either_end(name: str) -> None:
    process = PROCESSES[name]
    t = times(process, 2)
    noised = process.corrupt(normal(2, C, H, W), t, normal(2, C, H, W))
    for tensor in (noised.x_t, noised.target, noised.weight, process.predict_x0(noised.x_t, t, noised.x_t)):
        assert torch.isfinite(tensor).all()


def test_gradients_flow_after_a_first_use_without_them() -> None:
    """Gradients exist after a first use in inference mode, as in a validation before the first training step."""
    process, x, t = DDPM(), normal(2, C, H, W), torch.tensor([3, 900])
    with torch.inference_mode():
        process.corrupt(x, t, x)
    said = normal(2, C, H, W, seed=1).requires_grad_()
    process.predict_x0(x, t, said).sum().backward()
    sigma = [rates(process, 3)[1], rates(process, 900)[1]]
    assert said.grad is not None
    assert (-said.grad[:, 0, 0, 0]).tolist() == pytest.approx(sigma, abs=1e-4)


def test_times_to_train_on() -> None:
    def draw(process: Process, seed: int = 0) -> Tensor:
        return process.sample_t(20000, torch.Generator().manual_seed(seed))

    t = draw(DDPM())
    assert t.dtype == torch.int64
    assert set(t.tolist()) == set(range(1000))
    assert t.float().mean().item() == pytest.approx(499.5, abs=10)
    s = draw(RectifiedFlow("uniform")) / 1000
    assert s.dtype == torch.float32
    assert 0 <= s.min() < 0.01
    assert 0.99 < s.max() <= 1
    assert s.mean().item() == pytest.approx(0.5, abs=0.01)
    s = draw(RectifiedFlow("logit_normal")) / 1000
    assert torch.logit(s).mean().item() == pytest.approx(0, abs=0.03)
    assert torch.logit(s).std().item() == pytest.approx(1, abs=0.03)
    shifted = draw(RectifiedFlow("logit_normal", shift=3.0)) / 1000  # the shift adds log 3 to the logits
    torch.testing.assert_close(torch.logit(shifted), torch.logit(s) + math.log(3), rtol=0, atol=1e-3)
    assert torch.equal(draw(RectifiedFlow()), draw(RectifiedFlow()))
    assert not torch.equal(draw(RectifiedFlow()), draw(RectifiedFlow(), seed=1))


def test_levels_are_spread_evenly_and_can_be_compared() -> None:
    assert DDPM().evenly_spaced_times(4).tolist() == [125, 375, 625, 875]
    assert DDPM().evenly_spaced_times(4).dtype == torch.int64
    assert RectifiedFlow().evenly_spaced_times(4).tolist() == [125.0, 375.0, 625.0, 875.0]
    assert DDPM().evenly_spaced_times(1000).tolist() == list(range(1000))
    torch.testing.assert_close(DDPM().relative_time(torch.tensor([999, 499, 0])), torch.tensor([1.0, 0.5, 0.001]))
    torch.testing.assert_close(
        RectifiedFlow().relative_time(torch.tensor([1000.0, 500.0, 0.0])), torch.tensor([1.0, 0.5, 0.0])
    )


def test_a_time_is_one_value_for_each_row() -> None:
    """Times need one value per row; with as many rows as columns, broadcasting on a wrong axis gives no error."""
    x = torch.zeros(4, 3, 4)
    assert expand_like(torch.arange(4.0), x).shape == (4, 1, 1)
    assert expand_like(torch.arange(4.0), x).flatten().tolist() == [0, 1, 2, 3]
    for wrong in (torch.zeros(3), torch.zeros(1), torch.zeros(4, 1), torch.tensor(1.0)):
        with pytest.raises(ValueError, match="one value for each of 4 samples"):
            expand_like(wrong, x)


@pytest.mark.parametrize("name", PROCESSES)
def test_settings_make_the_same_process(name: str) -> None:
    process = PROCESSES[name]
    again = build_process(json.loads(json.dumps(process.settings())))
    assert type(again) is type(process)
    assert again.settings() == process.settings()


@pytest.mark.parametrize("name", ["ddpm-v", "flow"])
def test_half_precision_stays_half(name: str) -> None:
    process, x = PROCESSES[name], normal(2, C, H, W).bfloat16()
    noised = process.corrupt(x, times(process, 2), x)
    assert noised.x_t.dtype == noised.target.dtype == torch.bfloat16
    assert process.predict_x0(x, times(process, 2), x).dtype == torch.bfloat16


REFUSED: dict[str, tuple[Any, str]] = {
    "infinite": (
        lambda: DDPM("epsilon"),
        "process.prediction=epsilon is undefined with process.zero_snr=true",
    ),
    "prediction": (lambda: DDPM("velocity"), "process.prediction is 'velocity': choose one of v, epsilon"),
    "schedule": (lambda: DDPM(schedule="sine"), "process.schedule is 'sine': .* linear, scaled_linear, cosine"),
    "spacing": (lambda: DDPM(spacing="even"), "process.spacing is 'even': .* trailing"),
    "betas": (lambda: DDPM(beta_start=0.5, beta_end=0.1), "process.beta_start=0.5 and process.beta_end=0.1"),
    "beta": (lambda: DDPM(beta_end=float("nan")), "process.beta_end=nan"),
    "levels": (lambda: DDPM(steps=1), "process.steps is 1.* whole number from 2"),
    "part": (lambda: DDPM(steps=10.5), "process.steps is 10.5"),  # type: ignore[arg-type]
    "least": (lambda: DDPM(least_weight=2), "process.least_weight is 2: .* from 0 to 1"),
    "snr": (lambda: DDPM(min_snr=0), "process.min_snr is 0: .* null"),
    "times": (lambda: RectifiedFlow("normal"), "process.times is 'normal': .* logit_normal, uniform"),
    "shift": (lambda: RectifiedFlow(shift=0.0), "process.shift is 0.0"),
    "name": (lambda: build_process({"name": "vp"}), "process.name is 'vp': choose one of ddpm, flow"),
    "nameless": (lambda: build_process({}), "process.name is null"),
    "key": (lambda: build_process({"name": "flow", "shfit": 1}), "settings of process flow .*shfit"),
    "sampler": (
        lambda: DDPM().check_sampler(20, "heun"),
        "sampler=heun cannot be combined with process=ddpm: .* dpmpp_2m",
    ),
    "other": (
        lambda: RectifiedFlow().check_sampler(20, "ddim"),
        "sampler=ddim cannot be combined with process=flow: .* euler",
    ),
    "none": (lambda: RectifiedFlow().check_sampler(0), "steps is 0: .* from 1 to 1000"),
    "many": (lambda: RectifiedFlow().check_sampler(1001), "steps is 1001: .* from 1 to 1000"),
    "more": (lambda: DDPM(steps=50).check_sampler(51), "steps is 51: .* from 1 to 50"),
    "half": (lambda: RectifiedFlow().check_sampler(2.5), "steps is 2.5"),  # type: ignore[arg-type]
    "yes": (lambda: RectifiedFlow().check_sampler(True), "steps is true"),
    "strength": (lambda: RectifiedFlow().check_sampler(10, None, 1.5), "strength is 1.5: .* from 0 to 1"),
    "lost": (lambda: RectifiedFlow().check_sampler(10, None, float("nan")), "strength is nan"),
    "empty": (
        lambda: RectifiedFlow().sample(lambda x, t: x, normal(1, 1, 2), 3, strength=0.5),
        "strength=0.5 .* give x_0",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_said_in_one_sentence(case: str) -> None:
    act, words = REFUSED[case]
    with pytest.raises(UserError, match=words) as error:
        act()
    assert "\n" not in str(error.value)


def test_each_row_wants_its_generator() -> None:
    with pytest.raises(ValueError, match="1 generators for 2 rows"):
        DDPM().sample(lambda x, t: x, normal(2, 1, 2), 3, "ddpm", [torch.Generator()])


def test_the_default_sampler_is_the_first() -> None:
    assert DDPM().check_sampler(20) == "dpmpp_2m"
    assert RectifiedFlow().check_sampler(20) == RectifiedFlow().samplers[0]


@pytest.mark.parametrize("count", [1, 4, 5])
def test_membership_levels_are_even_in_log_snr(count: int) -> None:
    """Closed forms: rectified flow has SNR ((1 - t) / t)^2, so t = 1 / (1 + exp(log SNR / 2)); DDPM uses its alphas."""
    targets = torch.linspace(4 - 4 / count, -4 + 4 / count, count) if count > 1 else torch.zeros(1)
    flow, ddpm = RectifiedFlow(), DDPM()
    assert torch.allclose(flow.relative_time(flow.log_snr_times(count)), 1 / (1 + (targets / 2).exp()), atol=2e-3)
    alphas = ddpm.alphas_cumprod[ddpm.log_snr_times(count)]
    assert torch.allclose((alphas / (1 - alphas)).log(), targets.to(alphas.dtype), atol=0.02)
