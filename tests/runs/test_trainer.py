"""Selection of the trainer precision with ``precision=auto``."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from echodream.modules.classifier import ClipClassifier
from echodream.modules.latent_diffusion import LatentDiffusion
from echodream.modules.reid import Reid
from echodream.modules.vae import VAE
from echodream.runs import trainer
from echodream.runs.trainer import choose_precision, trainer_precision

USES_BF16_CPU = trainer._uses_bf16_cpu
"""The real function ``_uses_bf16_cpu``, which conftest.py replaces in tests by a mock that returns False."""


@pytest.mark.parametrize(
    ("settings", "gpu", "bf16", "expected"),
    [
        ({"precision": "auto"}, True, True, "bf16-mixed"),
        ({"precision": "auto", "accelerator": "gpu"}, True, True, "bf16-mixed"),
        ({"precision": "auto", "accelerator": "cpu"}, True, True, "32-true"),
        ({"precision": "auto"}, True, False, "32-true"),
        ({"precision": "auto"}, False, False, "32-true"),
        ({"precision": "16-mixed"}, True, True, "16-mixed"),
        ({}, True, True, "32-true"),
    ],
)
def test_auto_is_bf16_on_a_gpu_that_has_it(
    settings: dict[str, Any], gpu: bool, bf16: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16 or including_emulation)
    chosen = choose_precision(partial(pl.Trainer, max_epochs=3, **settings), "bf16-mixed")
    assert trainer_precision(chosen) == expected
    assert chosen.keywords["max_epochs"] == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("accelerator", "gpu", "instructions", "expected"),
    [
        ("auto", False, ["avx512_bf16"], "bf16-mixed"),
        ("cpu", True, ["amx_bf16"], "bf16-mixed"),
        ("cpu", False, ["avx512_f"], "32-true"),
        ("auto", True, ["avx512_bf16"], "32-true"),  # trains on the GPU, which has no bf16
        ("mps", False, ["avx512_bf16"], "32-true"),
    ],
)
def test_auto_is_bf16_on_a_cpu_that_has_it(
    accelerator: str, gpu: bool, instructions: list[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("echodream.runs.trainer._uses_bf16_cpu", USES_BF16_CPU)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(instructions, True))
    settings = partial(pl.Trainer, precision="auto", accelerator=accelerator)
    assert trainer_precision(choose_precision(settings, "bf16-mixed", "bf16-mixed")) == expected
    assert trainer_precision(choose_precision(settings, "bf16-true")) == "32-true"


def test_models_that_are_trained_in_bf16_by_default() -> None:
    kinds = (VAE, LatentDiffusion, Reid, ClipClassifier)
    assert [kind.auto_precision for kind in kinds] == ["bf16-mixed", "bf16-mixed", "32-true", "32-true"]


@pytest.mark.parametrize(("side", "expected"), [(8, "bf16-mixed"), (4, "bf16-mixed"), (2, "32-true")])
def test_small_images_are_trained_in_float32_on_a_cpu(side: int, expected: str) -> None:
    """Here two convolutions halve the size; that of one pixel would have gradients that are not initialized."""
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3, stride=2), torch.nn.Conv2d(1, 1, 3, stride=2))
    model = torch.nn.Module()
    model.network, model.is_video, model.metadata = network, False, SimpleNamespace(height=side, width=9)
    training = SimpleNamespace(model=model)
    assert LatentDiffusion.cpu_precision.fget(training) == expected  # type: ignore[attr-defined]
    model.is_video = True
    assert LatentDiffusion.cpu_precision.fget(training) == "32-true"  # type: ignore[attr-defined]
