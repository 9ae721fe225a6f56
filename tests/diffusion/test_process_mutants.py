"""Mutation tests: known bugs of published code and libraries are planted one by one; the matching check must fail."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from echodream.diffusion import sliding_window as windows
from echodream.diffusion.guidance import Guidance
from echodream.diffusion.processes import ddpm as discrete
from echodream.diffusion.processes import rectified_flow as flow
from echodream.diffusion.processes.base import Denoise, NoisedBatch, Process
from echodream.diffusion.processes.ddpm import DDPM
from echodream.diffusion.processes.rectified_flow import RectifiedFlow
from echodream.diffusion.samplers import Solver
from tests.diffusion.test_guidance import NAMES, Linear, T, written_out
from tests.diffusion.test_process_closed_forms import check_goes_back
from tests.diffusion.test_sliding_window import largest_step
from tests.support.gaussians import MEAN, C, exact, moments, normal, per_channel, whitened


def fitted(process: Process, mean: Sequence[float], std: Sequence[float]) -> Denoise:
    """Denoiser that is linear in x_t, fitted at each time to the targets of ``corrupt`` by least squares."""
    draws, noise = whitened(normal(1, C, 6000, seed=1)), whitened(normal(1, C, 6000, seed=2))
    x_0 = (per_channel(mean, draws) + per_channel(std, draws) * draws).float()

    def network(x_t: Tensor, t: Tensor) -> Tensor:
        learned = process.corrupt(x_0, t[:1], noise)
        x, y = learned.x_t, learned.target
        centre, level = x.mean(2, keepdim=True), y.mean(2, keepdim=True)
        slope = ((x - centre) * (y - level)).mean(2, keepdim=True) / (x - centre).square().mean(2, keepdim=True)
        return level + slope * (x_t - centre)

    return network


def learns_and_samples(process: Process) -> None:
    """Samples of a fitted denoiser have the mean and std of the data, up to chance correlations with the noise."""
    mean, std = (1.5, -0.7, 0.0, 0.3), (0.5, 0.6, 0.8, 1.0)
    found = moments(process.sample(fitted(process, mean, std), whitened(normal(1, C, 6000)), 20))
    assert (found[0] - torch.tensor(mean)).abs().max() < 0.02
    assert (found[1] / torch.tensor(std) - 1).abs().max() < 0.06


def keeps_the_brightness() -> None:
    """Samples keep means far from 0 after ten steps; if the last level has some signal, pure noise loses the means."""
    process, mean = DDPM(), (4.0, -4.0, 2.0, 0.0)
    network = fitted(process, mean, (1.2, 1.2, 0.8, 0.3))
    found, _ = moments(process.sample(network, whitened(normal(1, C, 6000)), 10))
    assert (found - torch.tensor(mean)).abs().max() < 0.005


def arrives(steps: int, sampler: str) -> None:
    process = DDPM()
    seen: list[int] = []

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        assert (t >= 0).all()
        seen.append(int(t[0]))
        return exact(process)(x_t, t.clamp(min=0))

    mean, _ = moments(process.sample(denoise, whitened(normal(2, C, 20, 30)), steps, sampler))
    assert len(seen) == steps
    assert (mean - torch.tensor(MEAN)).abs().max() < 0.003


def follows_ddim(steps: int) -> None:
    from tests.diffusion.test_sampler_trajectories import test_ddim_is_its_formula as formula

    formula("ddpm-v", steps)


def guides() -> None:
    net, x = Linear(), normal(2, C, 3, 5, 7)
    for scales in ({"reference": 2.0, "class_id": 5.0}, {"reference": 1.0, "class_id": 5.0}, {}):
        found = Guidance(scales).guided_denoiser(net, NAMES[:2], DDPM())(x, T)
        torch.testing.assert_close(found.double(), written_out(net, x, NAMES[:2], scales), rtol=1e-4, atol=1e-4)


def guides_to_the_conditional_model() -> None:
    net, x = Linear(), normal(2, C, 3, 5, 7)
    found = Guidance(dict.fromkeys(NAMES, 1.0)).guided_denoiser(net, NAMES, DDPM())(x, T)
    assert torch.equal(found, net.one(x, frozenset(NAMES)))


def joins() -> None:
    assert largest_step(40, 16, 8) < 0.25


def corrupts_each_row_at_its_time() -> None:
    """Each row has the signal of its own time; with as many rows as columns, a wrong axis would give no shape error."""
    x = torch.ones(4, C, 4)
    found = RectifiedFlow().corrupt(x, torch.tensor([0.0, 200.0, 400.0, 600.0]), torch.zeros_like(x)).x_t
    assert (found.mean((1, 2)) - torch.tensor([1.0, 0.8, 0.6, 0.4])).abs().max() < 1e-6


def other_sign(process: RectifiedFlow, x_0: Tensor, t: Tensor, noise: Tensor) -> NoisedBatch:
    noised = RectifiedFlow.__dict__["corrupt"].original(process, x_0, t, noise)
    return NoisedBatch(noised.x_t, noised.t, -noised.target, noised.weight)


other_sign.original = RectifiedFlow.corrupt  # type: ignore[attr-defined]


def unit_time(make: Callable[..., Solver]) -> Callable[..., Solver]:
    def solver(*args: Any) -> Solver:
        made = make(*args)
        return Solver(made.scheduler, [time / 1000 for time in made.times])

    return solver


def configured(make: Callable[..., dict[str, Any]], **changes: Any) -> Callable[..., dict[str, Any]]:
    return lambda process: {**make(process), **changes}


def thrown_away(parts: Tensor, starts: Sequence[int], frames: int) -> Tensor:
    """Mutant of blending: each window after the first only contributes frames that no earlier window has."""
    joined = parts[0]
    for part, start in zip(parts[1:], starts[1:], strict=True):
        joined = torch.cat([joined, part[:, :, joined.shape[2] - start :]], dim=2)
    return joined


def without_the_frame(
    guidance: Guidance, names: Sequence[str], in_interval: bool = True
) -> dict[frozenset[str], float]:
    """Mutant of guidance without the set with only the reference: D() + s_class (D(reference, class) - D())."""
    scale = guidance.scales.get("class_id", 1.0)
    return {frozenset(): 1 - scale, frozenset(names): scale}


def otherwise_at_one(make: Callable[..., dict[frozenset[str], float]]) -> Callable[..., dict[frozenset[str], float]]:
    """Mutant of guidance that removes the reference from all sets if the scale of the reference is 1."""

    def terms(guidance: Guidance, names: Sequence[str], in_interval: bool = True) -> dict[frozenset[str], float]:
        found = make(guidance, names, in_interval)
        if not in_interval or guidance.scales.get("reference", 1.0) != 1:
            return found
        return {one - {"reference"}: scale for one, scale in found.items()}

    return terms


def whole_steps(entry: Any, scheduler: Any, times: list[int]) -> Any:
    from diffusers import DDIMScheduler

    ddim = DDIMScheduler.from_config(scheduler.config, clip_sample=False)
    ddim.set_timesteps(len(times))
    return ddim


def original(cls: type, name: str) -> Any:
    return cls.__dict__[name]


Plant = tuple[Any, str, Any]
MUTANTS: dict[str, tuple[Callable[[], None], Plant]] = {
    "flow: the other sign": (lambda: learns_and_samples(RectifiedFlow()), (RectifiedFlow, "corrupt", other_sign)),
    "flow: one step with the other sign": (
        lambda: check_goes_back(RectifiedFlow(), "euler"),
        (RectifiedFlow, "corrupt", other_sign),
    ),
    "flow: networks are told 0..1": (
        lambda: learns_and_samples(RectifiedFlow()),
        (RectifiedFlow, "_build_solver", unit_time(original(RectifiedFlow, "_build_solver"))),
    ),
    "leading spacing, betas that never end in noise": (
        keeps_the_brightness,
        (
            DDPM,
            "_scheduler_config",
            configured(original(DDPM, "_scheduler_config"), rescale_betas_zero_snr=False, timestep_spacing="leading"),
        ),
    ),
    "leading spacing": (
        keeps_the_brightness,
        (DDPM, "_scheduler_config", configured(original(DDPM, "_scheduler_config"), timestep_spacing="leading")),
    ),
    "betas that never end in noise": (
        keeps_the_brightness,
        (DDPM, "_scheduler_config", configured(original(DDPM, "_scheduler_config"), rescale_betas_zero_snr=False)),
    ),
    "another prediction": (
        lambda: learns_and_samples(DDPM(spacing="quadratic")),
        (DDPM, "_scheduler_config", configured(original(DDPM, "_scheduler_config"), prediction_type="sample")),
    ),
    "a step at -1": (lambda: arrives(61, "unipc"), (discrete, "_set_timesteps", lambda scheduler, times: None)),
    "DDIM by whole steps": (lambda: follows_ddim(64), (discrete, "_subsampled_scheduler", whole_steps)),
    "overlaps thrown away": (joins, (windows, "blend_windows", thrown_away)),
    "guidance without the frame's term": (guides, (Guidance, "coefficients", without_the_frame)),
    "guidance: scale 1 is something else": (
        guides,
        (Guidance, "coefficients", otherwise_at_one(original(Guidance, "coefficients"))),
    ),
    "guidance: scales of 1 are something else": (
        guides_to_the_conditional_model,
        (Guidance, "coefficients", otherwise_at_one(original(Guidance, "coefficients"))),
    ),
    "a time for each column": (
        corrupts_each_row_at_its_time,
        (flow, "expand_like", lambda values, x: values),
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_each_check_holds_and_fails_with_its_bug(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check, (owner, attribute, bug) = MUTANTS[name]
    check()
    monkeypatch.setattr(owner, attribute, bug)
    with pytest.raises((AssertionError, ValueError, IndexError)):
        check()


@pytest.mark.parametrize(
    "process",
    [DDPM(spacing="quadratic"), DDPM("sample", spacing="quadratic"), RectifiedFlow(), RectifiedFlow(shift=2.0)],
)
def test_a_network_that_learned_what_it_was_asked_returns_the_data(process: Process) -> None:
    learns_and_samples(process)
