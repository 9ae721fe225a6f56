"""Exponential moving average of the weights: compared with a plain loop; used in validation and in the final module."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from echodream.callbacks.ema import EMA
from echodream.errors import UserError

X = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))


class Toy(pl.LightningModule):
    """Module of two linear layers, each with its own optimizer, as a generator and a discriminator."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Linear(3, 1, bias=False)
        self.other = torch.nn.Linear(3, 1, bias=False)
        self.automatic_optimization = False
        self.validated: list[Tensor] = []

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.Adam(self.net.parameters(), 0.1), torch.optim.SGD(self.other.parameters(), 0.1)]

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        for optimizer, net in zip(self.optimizers(), (self.net, self.other), strict=True):  # type: ignore[arg-type]
            optimizer.zero_grad()
            self.manual_backward((net(batch) - 1).square().mean())
            optimizer.step()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        if batch_idx == 0:
            self.validated.append(self.net.weight.detach().clone())


class Record(Callback):
    def __init__(self) -> None:
        self.weights: list[Tensor] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.weights.append(pl_module.net.weight.detach().clone())


def fit(folder: Path, epochs: int, record: Record, decay: float = 0.6) -> Toy:
    module = Toy()
    last = folder / "last.ckpt"
    checkpoint = ModelCheckpoint(folder, "last", enable_version_counter=False)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        callbacks=[EMA(decay), record, checkpoint],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    loader = DataLoader(X, batch_size=2)  # type: ignore[arg-type]
    trainer.fit(module, loader, loader, ckpt_path=str(last) if last.exists() else None, weights_only=True)
    return module


def averaged(weights: list[Tensor], decay: float = 0.6) -> list[Tensor]:
    """Expected average after each batch: the first weights, then a decay of min(decay, (1 + n) / (10 + n))."""
    found = [weights[0]]
    for number, weight in enumerate(weights[1:], 1):
        keep = min(decay, (1 + number) / (10 + number))
        found.append(keep * found[-1] + (1 - keep) * weight)
    return found


def test_average_equals_a_plain_loop(tmp_path: Path) -> None:
    record = Record()
    module = fit(tmp_path, 3, record)
    truth = averaged(record.weights)
    assert len(truth) == 9
    assert torch.allclose(module.net.weight, truth[-1], atol=1e-6)
    assert not torch.allclose(module.net.weight, record.weights[-1], atol=1e-3)


def test_average_is_validated(tmp_path: Path) -> None:
    record = Record()
    module = fit(tmp_path, 3, record)
    truth = averaged(record.weights)
    for epoch, seen in enumerate(module.validated):
        assert torch.allclose(seen, truth[3 * epoch + 2], atol=1e-6)


def test_resumed_run_restores_weights_and_average(tmp_path: Path) -> None:
    whole, parts = Record(), Record()
    straight = fit(tmp_path / "a", 4, whole)
    fit(tmp_path / "b", 2, parts)
    resumed = fit(tmp_path / "b", 4, parts)
    assert all(torch.equal(a, b) for a, b in zip(whole.weights, parts.weights, strict=True))
    assert torch.equal(straight.net.weight, resumed.net.weight)


def test_finished_run_started_again_has_the_average(tmp_path: Path) -> None:
    record = Record()
    module = fit(tmp_path, 3, record)
    again = fit(tmp_path, 3, record)
    assert len(record.weights) == 9
    assert torch.equal(again.net.weight, module.net.weight)


def test_warm_up_of_the_decay(tmp_path: Path) -> None:
    record = Record()
    module = fit(tmp_path, 3, record, decay=0.9999)
    assert torch.allclose(module.net.weight, averaged(record.weights, 0.9999)[-1], atol=1e-6)


@pytest.mark.parametrize("decay", [1, -0.1])
def test_impossible_decay_is_refused(decay: float) -> None:
    with pytest.raises(UserError, match=r"callbacks.ema.decay"):
        EMA(decay)
