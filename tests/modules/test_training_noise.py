"""A training step: each row of a batch has its own noise and its own noise level."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from torch import Tensor
from torch.utils.data import default_collate

from echodream import engine
from echodream.diffusion.processes.ddpm import DDPM
from echodream.errors import UserError
from echodream.modules.latent_diffusion import LatentDiffusion
from tests.support.tiny_diffusion import WINDOW, C, H, W, latent_store, train_cfg

ROWS = 8
CASES = [
    ("lidm", ["process=ddpm"]),
    ("lidm", ["process=flow"]),
    ("lidm", ["process=flow", "process.times=uniform"]),
    ("lvdm", ["process=ddpm"]),
    ("lvdm", ["process=flow", "model.shared_noise=0.5"]),
]


def steps(
    patch: pytest.MonkeyPatch, folder: Path, kind: str, overrides: list[str], count: int
) -> list[tuple[Tensor, Tensor]]:
    """The noise, (B, C, *rest), and the times, (B,), of several training steps on the same batch."""
    latent_store(folder / "latents")
    cfg = train_cfg(folder, kind, *overrides)
    engine.check_and_resolve(cfg)
    torch.manual_seed(0)
    module: LatentDiffusion = instantiate(cfg.model.module)
    data = instantiate(cfg.datamodule, columns=list(module.columns))
    module.configure_from_data(data)
    samples, seen = data.samples("TRAIN"), list[tuple[Tensor, Tensor]]()
    corrupt = module.process.corrupt

    def corrupting(x: Tensor, t: Tensor, noise: Tensor) -> Any:
        assert noise.shape == x.shape
        seen.append((noise, t))
        return corrupt(x, t, noise)

    patch.setattr(module.process, "corrupt", corrupting)
    patch.setattr(module, "log", lambda *_, **how: None)
    patch.setattr(LatentDiffusion, "logs_this_step", False)
    for step in range(count):
        module.training_step(default_collate([samples[number % len(samples)] for number in range(ROWS)]), step)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "overrides"), CASES)
def test_no_two_rows_and_no_two_steps_have_the_same_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, overrides: list[str]
) -> None:
    found = steps(monkeypatch, tmp_path, kind, overrides, 4)
    rest = (H, W) if kind == "lidm" else (WINDOW, H, W)
    assert all(noise.shape == (ROWS, C, *rest) for noise, _ in found)
    rows = np.concatenate([noise.flatten(1).numpy() for noise, _ in found]).astype(np.float64)
    apart = np.corrcoef(rows)[~np.eye(len(rows), dtype=bool)]
    # rows have at least 72 independent numbers: standard error of a correlation at most 0.12
    assert np.abs(apart).max() < 0.6
    assert rows.mean() == pytest.approx(0, abs=0.1)
    assert rows.std() == pytest.approx(1, abs=0.06)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "overrides"), CASES)
def test_the_rows_of_a_batch_have_noise_levels_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, overrides: list[str]
) -> None:
    found = steps(monkeypatch, tmp_path, kind, overrides, 4)
    for _, t in found:
        assert t.shape == (ROWS,)
        # of 1,000 levels: three coincidences in one step have a probability of about 1e-6
        assert len(set(t.tolist())) >= ROWS - 2
    every = torch.cat([t for _, t in found]).double()
    assert len(set(every.tolist())) > 3 * ROWS
    assert every.min() < 400 < 600 < every.max() < 1000


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("noise_offset", value) for value in (-0.1, float("inf"), float("nan"), True, "much")],
        *[("shared_noise", value) for value in (-0.1, 1, float("nan"), True, "much")],
    ],
)
def test_a_setting_that_is_no_valid_number_is_refused(key: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"^model\.{key} is .*: give a number from 0"):
        LatentDiffusion(lambda **sizes: None, {}, 8, DDPM(), torch.optim.Adam, **{key: value})  # type: ignore[arg-type]
