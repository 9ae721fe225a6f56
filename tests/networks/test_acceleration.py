"""Memory format and compilation do not change results; impossible settings are refused."""

import copy
import shutil
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from echodream.diffusion.model import DiffusionModel
from echodream.errors import UserError
from echodream.networks.acceleration import compile_in_place, use_channels_last
from echodream.networks.denoisers.unet import _TemporalConvolution
from tests.support.tiny_diffusion import WINDOW, C, H, W, model


def predict(made: DiffusionModel) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    frames = (WINDOW,) if made.is_video else ()
    values = {"class_id": torch.tensor([0, 1, 3])}
    if made.is_video:
        values |= {"reference": torch.randn(3, C, 1, H, W, generator=generator), "reference_time": torch.zeros(3, 1)}
    sets = [frozenset(made.conditioner.names), frozenset[str]()]
    x = torch.randn(3, C, *frames, H, W, generator=generator)
    with torch.inference_mode():
        return made.predictor(values)(x, torch.tensor([0, 500, 999]), sets)


def models() -> list[DiffusionModel]:
    return [model("lidm"), model("lvdm", ("reference", "class_id"))]


@pytest.mark.slow
@pytest.mark.parametrize("made", models(), ids=["lidm", "lvdm"])
def test_channels_last_changes_rounding_only(made: DiffusionModel) -> None:
    fast = copy.deepcopy(made)
    fast.denoiser.accelerate(False, True)
    truth = predict(made)
    torch.testing.assert_close(predict(fast), truth, rtol=0, atol=1e-5 * truth.abs().max().item())


def test_all_convolutions_are_channels_last_and_temporal_ones_stay_so_in_two_dimensions() -> None:
    made = model("lvdm", ("reference", "class_id"))
    use_channels_last(made)
    kinds = {4: torch.channels_last, 5: torch.channels_last_3d}
    found = [module for module in made.modules() if isinstance(module, nn.Conv2d | nn.Conv3d)]
    assert all(module.weight.is_contiguous(memory_format=kinds[module.weight.ndim]) for module in found)
    temporal = [module.weight[..., 0] for module in found if isinstance(module, _TemporalConvolution)]
    assert temporal
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in temporal)


@pytest.mark.slow
@pytest.mark.parametrize("setting", [True, "reduce-overhead"])
def test_a_compiled_denoiser_gives_the_same_predictions(setting: bool | str) -> None:
    made = model("lidm")
    names, truth = made.state_dict().keys(), predict(made)
    made.denoiser.accelerate(setting, False)
    assert made.denoiser._compiled_call_impl is not None
    found = predict(made)
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-5 * truth.abs().max().item())
    assert made.state_dict().keys() == names


def test_cuda_graphs_are_for_fixed_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[nn.Module, dict[str, Any]]] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: asked.append((self, options)))
    parts = [nn.Linear(1, 1), nn.Linear(1, 1)]
    compile_in_place(parts, False, "compile")
    assert not asked
    compile_in_place(parts, True, "compile")
    assert asked == [(part, {}) for part in parts]
    asked.clear()
    compile_in_place(parts, "reduce-overhead", "compile")
    assert asked == [(part, {"mode": "reduce-overhead", "dynamic": False}) for part in parts]


class OneBuffer(nn.Module):
    """Network that writes all outputs to the same memory, as CUDA graphs do."""

    reuses_output_memory = False

    def __init__(self) -> None:
        super().__init__()
        self.buffer = torch.zeros(1)

    def forward(self, x: Tensor, *_: Any) -> Tensor:
        self.buffer = torch.zeros_like(x) if self.buffer.shape != x.shape else self.buffer
        return self.buffer.copy_(x)


def test_predictions_of_cuda_graphs_stay_after_the_next_call() -> None:
    made = model("lidm")
    network = OneBuffer()
    made._modules["denoiser"] = network

    def two() -> tuple[Tensor, Tensor]:
        x, keep = torch.ones(1, C, H, W), {"class_id": torch.tensor([True])}
        values = {"class_id": torch.tensor([0])}
        first = made(x, torch.zeros(1), values, keep)
        return first, made(2 * x, torch.zeros(1), values, keep)

    first, second = two()
    assert torch.equal(first, second)  # without a copy, the second prediction would overwrite the first prediction
    network.reuses_output_memory = True
    first, second = two()
    assert torch.equal(2 * first, second)


@pytest.mark.parametrize("setting", ["maybe", 1, None, "max-autotune"])
def test_another_value_is_refused(setting: Any) -> None:
    with pytest.raises(UserError, match=r"^model.compile is .*: give true, false or reduce-overhead$"):
        compile_in_place([], setting, "model.compile")


@pytest.mark.parametrize("setting", ["yes", 1, None])
def test_channels_last_is_true_or_false(setting: Any) -> None:
    with pytest.raises(UserError, match=r"^model.channels_last is .*: give true or false$"):
        model("lidm").denoiser.accelerate(False, setting, "model.")


def test_a_machine_without_a_compiler_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    modules = [nn.Linear(1, 1)]
    words = r"^compile=true needs the C\+\+ compiler g\+\+: install it on this machine, or give compile=false$"
    with pytest.raises(UserError, match=words):
        compile_in_place(modules, True, "compile")
    compile_in_place(modules, False, "compile")
