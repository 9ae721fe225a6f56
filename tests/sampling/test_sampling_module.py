"""Sampling: the exact denoiser of a Gaussian, guidance by hand, and results that do not depend on the batch."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from echodream.datamodules.normalization import unwhiten
from echodream.datamodules.sampling_requests import SamplingRequest
from echodream.diffusion.conditioning.reference import interpolate_references
from echodream.diffusion.guidance import Guidance
from echodream.diffusion.model import DiffusionModel
from echodream.diffusion.processes.base import Process
from echodream.diffusion.processes.ddpm import DDPM
from echodream.diffusion.processes.rectified_flow import RectifiedFlow
from echodream.errors import UserError
from echodream.sampling.sampling_module import ClipLengthConfig, SamplingConfig, SamplingModule, row_generator
from tests.support.tiny_diffusion import STATISTICS, WINDOW, C, Gaussian, H, W, model

MU = torch.tensor([0.8, -0.5, 0.2]).view(1, C, 1, 1)
SPREAD = 0.6


def recipe(steps: int = 3, sampler: str | None = None, seed: int = 0, **guidance: Any) -> SamplingConfig:
    return SamplingConfig(seed, steps, sampler, Guidance(**guidance))


def values_of(made: DiffusionModel, count: int, seed: int = 5) -> dict[str, Tensor]:
    """Values for all conditions, different in each row."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {"class_id": torch.tensor([[0, 1, 3][row % 3] for row in range(count)])}
    if made.is_video:
        found["reference"] = torch.randn(count, C, 1, H, W, generator=generator)
        found["reference_time"] = torch.zeros(count, 1)
    return found


def some(values: Mapping[str, Tensor], rows: list[int]) -> dict[str, Tensor]:
    return {name: value[rows] for name, value in values.items()}


def planted(monkeypatch: pytest.MonkeyPatch, stands: Any) -> Any:
    monkeypatch.setattr(DiffusionModel, "forward", lambda own, *given: stands(own, *given))
    return stands


@pytest.mark.parametrize("process", [DDPM(), RectifiedFlow()], ids=["ddpm", "flow"])
@pytest.mark.parametrize("kind", ["lidm", "triplet", "crossfade", "continue"])
def test_the_exact_denoiser_gives_the_gaussian_in_the_units_of_the_store(
    monkeypatch: pytest.MonkeyPatch, process: Process, kind: str
) -> None:
    stills = kind in ("lidm", "triplet")
    frames = {"lidm": 1, "triplet": 3}.get(kind, 13)
    mean = MU.repeat(1, frames, 1, 1) if stills else MU[:, :, None]
    planted(monkeypatch, Gaussian(lambda *_: mean, SPREAD))
    made = (
        model("lidm", process=process, frames=frames) if stills else model("lvdm", ("reference", "class_id"), process)
    )
    length = None if stills else ClipLengthConfig(frames, WINDOW, 1 if kind == "continue" else 4, 2, kind)
    count = 40 if stills else 20
    drawn = SamplingModule(made, recipe(20), length).sample_latents(list(range(count)), values_of(made, count))
    assert drawn.shape == (count, C, frames, H, W)
    flat = drawn.transpose(0, 1).flatten(1)
    mean_, std = torch.tensor(STATISTICS.mean), torch.tensor(STATISTICS.std)
    # at least 960 numbers per channel: standard errors of 3.5 % (mean) and 2.5 % (std) of the standard deviation
    assert ((flat.mean(1) - mean_ - std * MU.flatten()).abs() < 0.1 * std * SPREAD).all()
    assert ((flat.std(1) / (std * SPREAD) - 1).abs() < 0.08).all()
    assert len(drawn.flatten().unique()) > 0.99 * drawn.numel()


def test_key_frames_come_in_the_order_in_which_they_were_stacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels [0:C] are the first end diastole, [C:2C] the end systole, and [2C:3C] the second end diastole."""
    mean = torch.arange(9.0).view(1, 9, 1, 1)
    planted(monkeypatch, Gaussian(lambda *_: mean, 1e-4))
    drawn = SamplingModule(model("lidm", frames=3), recipe(5)).sample_latents(
        [0, 1], {"class_id": torch.tensor([0, 1])}
    )
    mean_, std = (torch.tensor(values).view(1, C, 1, 1, 1) for values in (STATISTICS.mean, STATISTICS.std))
    whitened = ((drawn - mean_) / std).mean(dim=(0, 3, 4))
    assert torch.allclose(whitened.T, torch.arange(9.0).view(3, C), atol=1e-2)


def test_a_row_is_told_its_own_condition(monkeypatch: pytest.MonkeyPatch) -> None:
    def mean(x_t: Tensor, values: Mapping[str, Tensor], keep: Mapping[str, Tensor]) -> Tensor:
        return values["class_id"].view(-1, 1, 1, 1) * keep["class_id"].view(-1, 1, 1, 1).float()

    planted(monkeypatch, Gaussian(mean, 1e-3))
    ids = torch.tensor([3, 0, 1, 1, 3])
    drawn = SamplingModule(model("lidm"), recipe(5)).sample_latents(list(range(5)), {"class_id": ids})
    whitened = (drawn[:, 0] - STATISTICS.mean[0]) / STATISTICS.std[0]
    assert torch.allclose(whitened.mean(dim=(1, 2, 3)), ids.float(), atol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "sampler"), [("lidm", "dpmpp_2m"), ("lidm", "ddpm"), ("crossfade", "dpmpp_2m"), ("continue", "ddpm")]
)
def test_a_row_is_the_same_in_any_company(kind: str, sampler: str) -> None:
    made = model("lidm") if kind == "lidm" else model("lvdm", ("reference", "class_id"))
    values, count, guidance = values_of(made, 8), 8, {"scales": {"class_id": 2.0}}

    def drawn(batch: int, windows: int = 2) -> Tensor:
        length = None if kind == "lidm" else ClipLengthConfig(13, WINDOW, 3, windows, kind)
        drawer, found = SamplingModule(made, recipe(2, sampler, **guidance), length), []
        for start in range(0, count, batch):
            rows = list(range(start, min(start + batch, count)))
            found.append(drawer.sample_latents(rows, some(values, rows)))
        return torch.cat(found)

    all_at_once = drawn(8)
    ways = [(1, 2), (3, 2), *([(8, 1), (3, 4)] if kind == "crossfade" else [])]
    for batch, windows in ways:
        assert torch.allclose(drawn(batch, windows), all_at_once, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(all_at_once[0], all_at_once[3], atol=0.1)  # rows of the same class differ


def test_noise_is_a_function_of_seed_row_and_kind() -> None:
    def first(*given: Any) -> float:
        return torch.rand(1, generator=row_generator(*given)).item()

    assert first(0, 7) == first(0, 7)
    assert len({first(*given) for given in ((0, 7), (0, 8), (7, 0), (1, 7), (0, 7, True), (2**40, 7))}) == 6


@pytest.mark.parametrize("kind", ["lidm", "lvdm"])
def test_guidance_by_hand(kind: str) -> None:
    """d = D() + s_r (D(r) - D()) + s_c (D(r, c) - D(r)), or without a reference d = D() + s_c (D(c) - D())."""
    names = ("class_id",) if kind == "lidm" else ("reference", "class_id")
    made = model(kind, names)
    values = values_of(made, 2)
    x = torch.randn(2, C, *([] if kind == "lidm" else [WINDOW]), H, W, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([600, 600])

    def d(*kept: str) -> Tensor:
        return made(x, t, values, {name: torch.full((2,), name in kept) for name in names})

    scales = {"class_id": 3.0} | ({"reference": 1.5} if kind == "lvdm" else {})
    guided = SamplingModule(made, recipe(scales=scales))._guided_denoiser(values)(x, t)
    first = d("reference") if kind == "lvdm" else d()
    wanted = d() + (1.5 * (first - d()) if kind == "lvdm" else 0) + 3.0 * (d(*names) - first)
    assert torch.allclose(guided, wanted, atol=1e-5)
    assert not torch.allclose(guided, d(*names), atol=1e-2)
    assert torch.equal(SamplingModule(made, recipe())._guided_denoiser(values)(x, t), d(*names))


def test_guidance_away_from_a_weaker_model_by_hand() -> None:
    made, weak = (model("lidm", seed=seed, width=width) for seed, width in ((0, 8), (9, 4)))
    values, x, t = {"class_id": torch.tensor([1, 3])}, torch.randn(2, C, H, W), torch.tensor([300, 300])
    keep = {"class_id": torch.tensor([True, True])}
    none = {"class_id": torch.tensor([False, False])}
    full, null, worse = made(x, t, values, keep), made(x, t, values, none), weak(x, t, values, keep)
    drawer = SamplingModule(made, recipe(scales={"class_id": 2.0}, autoguidance=1.75), weak=weak)
    wanted = null + 2 * (full - null) + 0.75 * (full - worse)
    assert torch.allclose(drawer._guided_denoiser(values)(x, t), wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("guidance", "rows"),
    [
        ({}, [3] * 10),
        ({"scales": {"class_id": 2.0}}, [6] * 10),
        ({"scales": {"class_id": 2.0}, "interval": (0.25, 0.75)}, [3] * 3 + [6] * 5 + [3] * 2),
        ({"scales": {"class_id": 0.0}}, [3] * 10),
    ],
)
def test_no_more_network_calls_than_needed(
    monkeypatch: pytest.MonkeyPatch, guidance: dict[str, Any], rows: list[int]
) -> None:
    """One call per step; one row per sample without guidance. Ten steps at the levels 1, 0.9, ..., 0.1."""
    network = planted(monkeypatch, Gaussian(lambda *_: MU, SPREAD))
    SamplingModule(model("lidm"), recipe(10, **guidance)).sample_latents(
        [0, 1, 2], {"class_id": torch.tensor([0, 1, 3])}
    )
    assert network.rows == rows


def test_windows_go_through_the_network_as_many_at_once_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    made = model("lvdm", ("reference", "class_id"))
    # five windows of 8 frames, with an overlap of 4 frames
    for windows, calls in ((1, [2] * 5), (2, [4, 4, 2]), (4, [6, 4]), (8, [10])):
        network = planted(monkeypatch, Gaussian(lambda *_: MU[:, :, None], SPREAD))
        SamplingModule(made, recipe(2), ClipLengthConfig(24, WINDOW, 4, windows)).sample_latents(
            [0, 1], values_of(made, 2)
        )
        assert network.rows == calls * 2


@pytest.mark.parametrize("join", ["crossfade", "continue"])
@pytest.mark.parametrize("frames", [1, 5, WINDOW, 9, 17, 64, 96])
def test_as_many_frames_as_asked(monkeypatch: pytest.MonkeyPatch, frames: int, join: str) -> None:
    network = planted(monkeypatch, Gaussian(lambda *_: MU[:, :, None], SPREAD))
    made = model("lvdm", ("reference", "class_id"))
    drawn = SamplingModule(made, recipe(2), ClipLengthConfig(frames, WINDOW, 3, 4, join)).sample_latents(
        [0, 1], values_of(made, 2)
    )
    assert drawn.shape == (2, C, frames, H, W)
    assert torch.isfinite(drawn).all()
    if frames > WINDOW and join == "continue":
        assert len(network.rows) == 2 * (1 + -(-(frames - WINDOW) // (WINDOW - 3)))


def test_a_continued_window_is_given_the_last_frames_before_it_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Tensor]] = []
    exact = Gaussian(lambda *_: MU[:, :, None], SPREAD)

    def network(own: Any, x_t: Tensor, t: Tensor, values: dict[str, Tensor], keep: Any) -> Tensor:
        seen.append(values)
        return exact(own, x_t, t, values, keep)

    planted(monkeypatch, network)
    made = model("lvdm", ("reference", "class_id"))
    given = values_of(made, 2)
    drawn = SamplingModule(made, recipe(3), ClipLengthConfig(17, WINDOW, 3, 4, "continue")).sample_latents(
        [0, 1], given
    )
    mean, std = (torch.tensor(values).view(1, C, 1, 1, 1) for values in (STATISTICS.mean, STATISTICS.std))
    whitened = (drawn - mean) / std
    assert torch.equal(seen[0]["reference"], given["reference"])
    assert len(seen) == 9  # three windows of three steps: frames 0-7, 8-12 and 13-17; frame 17 is cut off
    for call, end in ((3, 8), (5, 8), (6, 13)):
        wanted = torch.cat([given["reference"], whitened[:, :, end - 3 : end]], dim=2)
        assert torch.allclose(seen[call]["reference"], wanted, atol=1e-5)
        assert seen[call]["reference_time"].tolist() == [[3.0 - end, 0.0, 1.0, 2.0]] * 2
        assert torch.equal(seen[call]["class_id"], given["class_id"])
    assert not torch.allclose(whitened[:, :, :5], whitened[:, :, 8:13], atol=0.1)  # each window has its own noise


def test_references_lie_relative_to_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window that begins at frame s has the reference of frame 2 at the time 2 - s."""
    seen: list[tuple[Tensor, dict[str, Tensor]]] = []
    exact = Gaussian(lambda *_: MU[:, :, None], SPREAD)

    def network(own: Any, x_t: Tensor, t: Tensor, values: dict[str, Tensor], keep: Any) -> Tensor:
        seen.append((x_t, values))
        return exact(own, x_t, t, values, keep)

    planted(monkeypatch, network)
    made = model("lvdm", ("reference", "class_id"))
    given = values_of(made, 2)
    given |= {"reference": torch.randn(2, C, 2, H, W), "reference_time": torch.tensor([[2.0, 9.5], [3.0, 5.0]])}
    SamplingModule(made, recipe(1), ClipLengthConfig(18, WINDOW, 3, 8)).sample_latents([0, 1], given)
    ((x_t, values),) = seen
    starts = [0, 5, 10]  # 18 frames: windows of 8 frames with an overlap of 3 frames
    noise = torch.stack([torch.randn(C, 18, H, W, generator=row_generator(0, row, True)) for row in (0, 1)])
    for window, start in enumerate(starts):
        rows = slice(2 * window, 2 * window + 2)
        assert torch.equal(x_t[rows], noise[:, :, start : start + WINDOW])
        assert torch.equal(values["reference_time"][rows], given["reference_time"] - start)
        assert torch.equal(values["reference"][rows], given["reference"])
        assert torch.equal(values["class_id"][rows], given["class_id"])


@pytest.mark.parametrize("join", ["crossfade", "continue"])
def test_frames_share_as_much_noise_as_in_training(monkeypatch: pytest.MonkeyPatch, join: str) -> None:
    seen: list[Tensor] = []
    exact = Gaussian(lambda *_: MU[:, :, None], SPREAD)
    planted(monkeypatch, lambda own, x_t, *rest: (seen.append(x_t), exact(own, x_t, *rest))[1])
    made = model("lvdm", ("reference", "class_id"), shared_noise=0.7)
    SamplingModule(made, recipe(1), ClipLengthConfig(13, WINDOW, 3, 4, join)).sample_latents(
        list(range(20)), values_of(made, 20)
    )
    first = seen[0][:20].transpose(1, 2).flatten(2)  # (rows, frames, channels * height * width)
    products = torch.einsum("bfx,bgx->bfg", first, first) / first.shape[-1]
    apart = ~torch.eye(WINDOW, dtype=torch.bool)
    assert products[:, apart].mean().item() == pytest.approx(0.7, abs=0.1)  # 1,440 numbers: standard error 0.03
    assert products[:, ~apart].mean().item() == pytest.approx(1.0, abs=0.1)


def test_a_stochastic_sampler_adds_noise_with_the_correlation_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    sample = Process.sample

    def watched(own: Process, *arguments: Any, shared_noise: float = 0.0, **keywords: Any) -> Tensor:
        given.append(shared_noise)
        return sample(own, *arguments, shared_noise=shared_noise, **keywords)

    monkeypatch.setattr(Process, "sample", watched)
    planted(monkeypatch, Gaussian(lambda *_: MU[:, :, None], SPREAD))
    made = model("lvdm", ("reference", "class_id"), shared_noise=0.7)
    SamplingModule(made, replace(recipe(2), sampler="ddpm")).sample_latents([0], values_of(made, 1))
    assert given == [0.7]


def test_a_short_clip_is_one_window_of_its_length(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    exact = Gaussian(lambda *_: MU[:, :, None], SPREAD)
    planted(monkeypatch, lambda own, x_t, *rest: (shapes.append(tuple(x_t.shape)), exact(own, x_t, *rest))[1])
    made = model("lvdm", ("reference", "class_id"))
    SamplingModule(made, recipe(1), ClipLengthConfig(5, WINDOW, 4, 4)).sample_latents([0], values_of(made, 1))
    assert shapes == [(1, C, 5, H, W)]


def test_predictions_are_rows_with_frames_first(monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, Gaussian(lambda *_: MU[:, :, None], SPREAD))
    made = model("lvdm", ("reference", "class_id"))
    drawer, values = SamplingModule(made, recipe(2), ClipLengthConfig(10, WINDOW, 4, 4)), values_of(made, 2)
    found = drawer.predict_step(SamplingRequest(("a", "b"), [4, 2], values), 0)
    drawn = drawer.sample_latents([4, 2], values)
    for row, latents in enumerate(found):
        assert latents.shape == (10, C, H, W)
        assert torch.equal(latents, drawn[row].transpose(0, 1))


def test_a_sample_that_is_not_finite_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, lambda own, x_t, *_: torch.full_like(x_t, torch.nan))
    with pytest.raises(UserError, match="a sample is not finite"):
        SamplingModule(model("lidm"), recipe(2)).predict_step(
            SamplingRequest(("a",), [0], {"class_id": torch.tensor([0])}), 0
        )


@pytest.mark.parametrize("join", ["crossfade", "continue"])
def test_a_residual_of_nothing_is_what_lies_between_the_references(monkeypatch: pytest.MonkeyPatch, join: str) -> None:
    spread = (0.5, 0.25, 2.0)
    planted(monkeypatch, Gaussian(lambda *_: torch.zeros(1, C, 1, 1, 1), 1e-3))
    made = model("lvdm", ("reference", "class_id"), residual=spread)
    values = values_of(made, 2) | {
        "reference": torch.randn(2, C, 3, H, W),
        "reference_time": torch.tensor([[0.0, 5.0, 12.0], [0.0, 7.0, 9.0]]),
    }
    drawn = SamplingModule(made, recipe(20), ClipLengthConfig(13, WINDOW, 4, 2, join)).sample_latents([0, 1], values)
    truth = unwhiten(interpolate_references(values["reference"], values["reference_time"], 13), STATISTICS, dim=1)
    assert torch.allclose(drawn, truth, atol=0.1)
    assert (truth - truth.mean()).abs().max() > 1


def test_a_residual_is_drawn_with_its_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    spread = (0.5, 0.25, 2.0)
    planted(monkeypatch, Gaussian(lambda *_: MU[:, :, None], SPREAD))
    made = model("lvdm", ("reference", "class_id"), residual=spread)
    values = values_of(made, 20)
    drawn = SamplingModule(made, recipe(20), ClipLengthConfig(13, WINDOW, 4, 2)).sample_latents(list(range(20)), values)
    scale = torch.tensor(STATISTICS.std).view(C, 1, 1, 1)
    # a single reference is used for all frames
    apart = (drawn - unwhiten(values["reference"], STATISTICS, dim=1)) / scale
    for channel in range(C):
        mean, std = (float(f(apart[:, channel])) for f in (torch.mean, torch.std))
        assert mean == pytest.approx(float(MU[0, channel]) * spread[channel], abs=0.1 * spread[channel])
        assert std == pytest.approx(SPREAD * spread[channel], rel=0.1)
