"""The precision of a trainer, with ``precision=auto``."""

from functools import partial
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from echodream.modules.latent_diffusion import LatentDiffusion
from echodream.modules.reid import Reid
from echodream.modules.vae import VAE
from echodream.runs.trainer import choose_precision, trainer_precision


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


def test_only_generative_models_are_trained_in_bf16_by_default() -> None:
    assert [kind.gpu_precision for kind in (VAE, LatentDiffusion, Reid)] == ["bf16-mixed", "bf16-mixed", "32-true"]
