"""Guidance, compared with the written sum of predictions; each set of conditions has another prediction."""

import itertools
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from echodream.diffusion.guidance import Guidance, subset_coefficients, weighted_sum
from echodream.diffusion.processes.base import Process
from echodream.diffusion.processes.ddpm import DDPM
from echodream.diffusion.processes.rectified_flow import RectifiedFlow
from echodream.errors import UserError
from tests.support.gaussians import B, C, F, H, W, normal

NAMES = ("reference", "class_id", "EF")
T = torch.full((B,), 500)


class Linear:
    """Network, linear in x_t, with other coefficients for each set of conditions; ``asked`` records the calls."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.asked: list[list[frozenset[str]]] = []

    def one(self, x_t: Tensor, kept: frozenset[str]) -> Tensor:
        index = self.seed + sum(2 ** NAMES.index(name) for name in kept)
        return (0.3 + 0.17 * index) * x_t + normal(*x_t.shape[1:], seed=index)

    def __call__(self, x_t: Tensor, t: Tensor, kept: Sequence[frozenset[str]]) -> Tensor:
        self.asked.append(list(kept))
        return torch.stack([self.one(x_t, one) for one in kept])


def written_out(net: Linear, x: Tensor, names: Sequence[str], scales: dict[str, float]) -> Tensor:
    """Guided prediction d = D() + s_1 (D(1) - D()) + s_2 (D(1, 2) - D(1)) + ..., in double precision."""
    d = net.one(x, frozenset()).double()
    for count, name in enumerate(names, 1):
        step = net.one(x, frozenset(names[:count])).double() - net.one(x, frozenset(names[: count - 1])).double()
        d = d + scales.get(name, 1.0) * step
    return d


@pytest.mark.parametrize("shape", [(B, C, H, W), (B, C, F, H, W)])
@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_every_combination_of_scales_is_the_sum_written_out(count: int, shape: tuple[int, ...]) -> None:
    names, x = NAMES[:count], normal(*shape)
    for values in itertools.product([0.0, 1.0, 2.5, 5.0, -1.0], repeat=count):
        scales = dict(zip(names, values, strict=True))
        net = Linear()
        found = Guidance(scales).guided_denoiser(net, names, DDPM())(x, T)
        torch.testing.assert_close(found.double(), written_out(net, x, names, scales), rtol=1e-4, atol=1e-4)
        wanted = [1.0, *values, 0.0]
        needed = sum(before != after for before, after in itertools.pairwise(wanted))
        # one network call, only with sets of conditions whose coefficient is not 0
        assert [len(kept) for kept in net.asked] == [needed]


def test_the_coefficients_by_hand() -> None:
    null, frame, both = frozenset(), frozenset({"reference"}), frozenset({"reference", "class_id"})
    names = ("reference", "class_id")
    assert Guidance({"reference": 2, "class_id": 5}).coefficients(names) == {null: -1.0, frame: -3.0, both: 5.0}
    # D(null) has coefficient 0 if the first scale is 1
    assert Guidance({"class_id": 5}).coefficients(names) == {frame: -4.0, both: 5.0}
    # equal neighboring scales: the set between them has coefficient 0
    assert Guidance({"reference": 3, "class_id": 3}).coefficients(names) == {null: -2.0, both: 3.0}
    assert Guidance({"class_id": 0}).coefficients(names) == {frame: 1.0}
    assert Guidance({"reference": 2, "class_id": 5}).coefficients(names, in_interval=False) == {both: 1.0}
    assert Guidance().coefficients(names) == {both: 1.0}
    assert Guidance().coefficients(()) == {null: 1.0}
    assert list(Guidance({"reference": 2, "class_id": 5}).coefficients(names)) == [null, frame, both]


def test_coefficients_sum_to_one() -> None:
    for values in itertools.product([0.0, 0.3, 1.0, 4.7], repeat=3):
        terms = Guidance(dict(zip(NAMES, values, strict=True))).coefficients(NAMES)
        assert sum(terms.values()) == pytest.approx(1)
        assert all(terms.values())


def test_a_scale_for_each_row_is_guidance_of_each_row() -> None:
    net, x = Linear(), normal(B, C, H, W)
    rows = {"reference": torch.tensor([1.0, 2.5]), "EF": torch.tensor([0.5, 3.0])}
    terms = subset_coefficients(rows, NAMES)
    assert len(terms) == 4  # a set is left out only if its coefficient is 0 for all rows
    assert len(subset_coefficients({"EF": rows["EF"]}, NAMES)) == 2
    found = weighted_sum(terms, dict(zip(terms, net(x, T, list(terms)), strict=True)), x)
    for row in range(B):
        scales = {name: float(values[row]) for name, values in rows.items()}
        torch.testing.assert_close(found[row].double(), written_out(net, x, NAMES, scales)[row], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("guidance", [Guidance(), Guidance(dict.fromkeys(NAMES, 1.0), rescale=0.7)])
def test_scales_of_one_are_the_conditional_model_and_nothing_else(guidance: Guidance) -> None:
    net, x = Linear(), normal(B, C, H, W)
    found = guidance.guided_denoiser(net, NAMES, DDPM())(x, T)
    assert torch.equal(found, net.one(x, frozenset(NAMES)))
    assert net.asked == [[frozenset(NAMES)]]


@pytest.mark.parametrize(("process", "steps"), [(DDPM(), 10), (RectifiedFlow(), 10)])
def test_outside_the_interval_one_set_is_computed(process: Process, steps: int) -> None:
    """Ten steps at levels 1, 0.9, ..., 0.1: six levels are in the interval 0.3 to 0.8; other steps use one set only."""
    net, weak = Linear(), Linear(seed=9)
    guidance = Guidance({"reference": 2, "class_id": 5}, interval=(0.3, 0.8005), rescale=0.5, autoguidance=2.0)
    process.sample(
        guidance.guided_denoiser(net, NAMES[:2], process, weak), normal(B, C, H, W), steps, process.samplers[-1:][0]
    ) if process.name == "ddpm" else process.sample(
        guidance.guided_denoiser(net, NAMES[:2], process, weak), normal(B, C, H, W), steps, "euler"
    )
    sets = [len(kept) for kept in net.asked]
    assert sets == [1, 1, 3, 3, 3, 3, 3, 3, 1, 1]
    assert len(weak.asked) == 6


def test_inside_and_outside_are_the_predictions_they_should_be() -> None:
    net, x, names = Linear(), normal(B, C, H, W), NAMES[:2]
    denoise = Guidance({"class_id": 5}, interval=(0.2, 0.6)).guided_denoiser(net, names, DDPM())
    for time, inside in ((100, False), (199, True), (400, True), (599, True), (700, False)):
        truth = written_out(net, x, names, {"class_id": 5.0 if inside else 1.0})
        torch.testing.assert_close(denoise(x, torch.full((B,), time)).double(), truth, rtol=1e-4, atol=1e-4)


def test_rows_on_both_sides_of_the_interval_are_refused() -> None:
    denoise = Guidance({"EF": 2}, interval=(0.2, 0.6)).guided_denoiser(Linear(), NAMES, DDPM())
    with pytest.raises(ValueError, match="times inside and outside of the interval"):
        denoise(normal(B, C, H, W), torch.tensor([100, 500]))


@pytest.mark.parametrize("share", [0.25, 1.0])
@pytest.mark.parametrize("scales", [{"class_id": 5.0}, {"class_id": 0.0, "reference": 3.0}])
def test_rescaling_is_its_formula(scales: dict[str, float], share: float) -> None:
    """Rescaling as in arXiv:2305.08891, equations 15 and 16: standard deviations over all axes except the batch."""
    net, x, names = Linear(), normal(B, C, F, H, W), NAMES[:2]
    guided = written_out(net, x, names, scales)
    full = net.one(x, frozenset(names)).double()
    truth = torch.stack([share * g * f.std() / g.std() + (1 - share) * g for g, f in zip(guided, full, strict=True)])
    found = Guidance(scales, rescale=share).guided_denoiser(net, names, DDPM())(x, T)
    torch.testing.assert_close(found.double(), truth, rtol=1e-4, atol=1e-4)
    assert len(net.asked) == 1
    if share == 1:
        torch.testing.assert_close(found.std((1, 2, 3, 4)).double(), full.std((1, 2, 3, 4)), rtol=1e-4, atol=0)


def test_rescaling_a_flat_prediction_is_finite() -> None:
    flat = Guidance({"EF": 2.0}, rescale=1.0).guided_denoiser(
        lambda x, t, kept: torch.zeros(len(kept), *x.shape), ("EF",), RectifiedFlow()
    )
    assert torch.equal(flat(normal(B, C, H, W), T), torch.zeros(B, C, H, W))


@pytest.mark.parametrize("scales", [{}, {"class_id": 4.0}, {"class_id": 0.0}])
def test_autoguidance_moves_away_from_the_weak_model(scales: dict[str, float]) -> None:
    """Autoguidance as in arXiv:2406.02507: one call of the weak model per step, with all conditions."""
    net, weak, x, names = Linear(), Linear(seed=9), normal(B, C, H, W), NAMES[:2]
    found = Guidance(scales, autoguidance=2.5).guided_denoiser(net, names, DDPM(), weak)(x, T)
    full = frozenset(names)
    truth = written_out(net, x, names, scales) + 1.5 * (net.one(x, full) - weak.one(x, full)).double()
    torch.testing.assert_close(found.double(), truth, rtol=1e-4, atol=1e-4)
    assert len(net.asked) == 1
    assert weak.asked == [[full]]


def test_the_weak_model_is_not_asked_at_scale_one() -> None:
    weak = Linear()
    Guidance({"EF": 2}, autoguidance=1.0).guided_denoiser(Linear(), NAMES, DDPM(), weak)(normal(B, C, H, W), T)
    assert not weak.asked


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: Guidance({"clas_id": 5}).coefficients(NAMES),
            "guidance.clas_id is not a condition .* conditions are reference, class_id, EF",
        ),
        (lambda: Guidance({"EF": 5}).coefficients(()), "guidance.EF is not a condition .* conditions are none"),
        (lambda: Guidance({"x": 5}).guided_denoiser(Linear(), NAMES, RectifiedFlow()), "guidance.x is not a condition"),
        (lambda: Guidance({"EF": float("nan")}), "guidance.EF is nan: give a number"),
        (lambda: Guidance({"EF": "5"}), "guidance.EF is '5': give a number"),  # type: ignore[dict-item]
        (lambda: Guidance({"EF": None}), "guidance.EF is null"),  # type: ignore[dict-item]
        (lambda: Guidance(autoguidance=float("inf")), "guidance.auto.scale is inf"),
        (
            lambda: Guidance(autoguidance=2).guided_denoiser(Linear(), NAMES, RectifiedFlow()),
            "guidance.auto.scale=2 needs",
        ),
        (lambda: Guidance(interval=(0.8, 0.2)), r"guidance.interval is \[0.8, 0.2\]"),
        (lambda: Guidance(interval=(0.0, 1.5)), r"guidance.interval is \[0.0, 1.5\]"),
        (lambda: Guidance(interval=(0.5,)), r"guidance.interval is \[0.5\]"),  # type: ignore[arg-type]
        (lambda: Guidance(rescale=1.5), "guidance.rescale is 1.5"),
    ],
)
def test_what_guidance_cannot_do(make: object, words: str) -> None:
    with pytest.raises(UserError, match=words):
        make()  # type: ignore[operator]


def test_settings_from_yaml_are_taken_as_lists() -> None:
    assert Guidance({"EF": 2}, interval=[0.2, 0.8]).interval == (0.2, 0.8)  # type: ignore[arg-type]
