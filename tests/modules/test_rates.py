"""Settings of the optimiser and its schedule that cannot be are one sentence, and the others are taken."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.optimization import SchedulerType, get_scheduler
from hydra.utils import instantiate

from echodream import engine
from echodream.errors import UserError
from echodream.modules.trainable import check_rates
from tests.tiny_diffusion import latent_store, train_cfg

WRONG = [
    ("model.weight_decay=-1", "model.weight_decay is -1: give a number, 0 or more"),
    ("model.weight_decay=abc", "model.weight_decay is 'abc': give a number"),
    ("model.weight_decay=null", "model.weight_decay is None: give a number"),
    ("model.weight_decay=true", "model.weight_decay is True: give a number"),
    ("model.weight_decay=nan", "model.weight_decay is nan: give a number"),
    ("model.weight_decay=inf", "model.weight_decay is inf: give a number"),
    ("model.warmup=-1", "model.warmup is -1: give a whole number of steps, 0 or more"),
    ("model.warmup=abc", "model.warmup is 'abc': give a whole number"),
    ("model.warmup=0.5", "model.warmup is 0.5: give a whole number"),
    ("model.warmup=null", "model.warmup is None: give a whole number"),
    ("model.schedule=foo", "model.schedule is 'foo': choose one of linear, cosine, .*, constant_with_warmup$"),
    ("model.schedule=null", "model.schedule is None: choose one of linear, cosine"),
    ("model.schedule=piecewise_constant", "model.schedule is 'piecewise_constant': choose one of linear, cosine"),
]


@pytest.mark.parametrize(("override", "words"), WRONG)
def test_a_setting_that_cannot_be_is_one_sentence(tmp_path: Path, override: str, words: str) -> None:
    cfg = train_cfg(tmp_path, "lidm", override)
    engine.prepare(cfg)
    module = instantiate(cfg.model.module)
    with pytest.raises(UserError, match=f"^{words}"):
        module.configure_optimizers()


@pytest.mark.parametrize("name", [kind.value for kind in SchedulerType])
def test_every_schedule_that_is_let_through_can_be_made(name: str) -> None:
    """And what is refused cannot, but for the one that wants rules of its own."""
    schedule: Any = partial(get_scheduler, name=name, num_warmup_steps=0)
    parameters = [torch.nn.Parameter(torch.zeros(1))]
    adam: Any = partial(torch.optim.AdamW, lr=0.1, weight_decay=0)
    if name == "piecewise_constant":
        schedule = partial(schedule, step_rules="1:10,0.1")
    check_rates(adam, schedule)
    schedule(optimizer=adam(parameters), num_training_steps=4)


def test_partials_that_say_nothing_are_taken() -> None:
    check_rates(partial(torch.optim.SGD, lr=0.1), None)
    check_rates(lambda parameters: torch.optim.SGD(parameters, 0.1), partial(get_scheduler, "cosine"))


def test_training_ends_with_that_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    latent_store(tmp_path / "latents")
    with pytest.raises(UserError, match=r"^model.schedule is 'foo': choose one of"):
        engine.train(train_cfg(tmp_path, "lidm", "model.schedule=foo"))
    assert not (tmp_path / "lidm").exists()


@pytest.mark.parametrize("precision", ["16-true", "bf16-true", "64-true"])
def test_a_precision_that_diffusion_is_not_trained_in(tmp_path: Path, precision: str) -> None:
    latent_store(tmp_path / "latents")
    with pytest.raises(UserError, match=f"^trainer.precision={precision} .*: take 32-true, bf16-mixed or 16-mixed"):
        engine.train(train_cfg(tmp_path, "lidm", f"trainer.precision={precision}"))
    assert not (tmp_path / "lidm").exists()
