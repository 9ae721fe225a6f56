"""The learning rates of the autoencoder and the discriminator follow the schedule in each batch."""

import math
from functools import partial
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from diffusers.optimization import get_scheduler
from pytorch_lightning.callbacks import Callback
from torch.utils.data import DataLoader

from echodream.losses.adversarial import PatchAdversarial
from echodream.losses.autoencoder import L1
from echodream.modules.vae import VAE
from echodream.networks.autoencoder import build_autoencoder

RATE, WARMUP, STEPS, EPOCHS = 0.1, 2, 5, 2


class Rates(Callback):
    """Records the learning rate of each optimizer at each batch."""

    def __init__(self) -> None:
        self.seen: list[list[float]] = []

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.seen.append([optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers])


@pytest.mark.parametrize("adversarial", [False, True])
def test_the_learning_rate_has_warm_up_and_cosine_decay(adversarial: bool) -> None:
    torch.manual_seed(0)
    judge = PatchAdversarial(1, width=4, layers=1, start=0, weight=0.5, adaptive=False) if adversarial else None
    schedule = partial(get_scheduler, "cosine", num_warmup_steps=WARMUP)
    sgd = partial(torch.optim.SGD, lr=RATE)
    module = VAE(
        build_autoencoder(1, [4], layers=1, latent=2, groups=2),
        {"l1": L1(1.0), "adversarial": judge},
        sgd,
        schedule=schedule,
    )
    rates = Rates()
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[rates],
    )
    batches = [{"x": torch.zeros(2, 1, 16, 24), "name": ["a", "b"], "columns": {}}] * STEPS
    trainer.fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    total = STEPS * EPOCHS
    for step, seen in enumerate(rates.seen):
        rest = (step - WARMUP) / (total - WARMUP)
        expected = RATE * (step / WARMUP if step < WARMUP else (1 + math.cos(math.pi * rest)) / 2)
        assert seen == pytest.approx([expected] * (1 + adversarial))
    assert len(rates.seen) == total
