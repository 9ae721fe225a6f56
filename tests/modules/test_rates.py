"""Settings of optimizers and schedules: invalid settings are refused with a one-line error, all others are accepted."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.optimization import SchedulerType, get_scheduler
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from echodream import engine
from echodream.config.paths import CONF_DIR
from echodream.diffusion.model import load_diffusion_model
from echodream.errors import UserError
from echodream.modules.trainable import OptimizerGroup, Trainable, check_optimizer_settings, resolve_fused
from tests.support.tiny_diffusion import latent_store, train_cfg

WRONG = [
    ("model.weight_decay=-1", "model.weight_decay is -1: give a number from 0"),
    ("model.weight_decay=abc", "model.weight_decay is 'abc': give a number"),
    ("model.weight_decay=null", "model.weight_decay is null: give a number"),
    ("model.weight_decay=true", "model.weight_decay is true: give a number"),
    ("model.weight_decay=nan", "model.weight_decay is nan: give a number"),
    ("model.weight_decay=inf", "model.weight_decay is inf: give a number"),
    ("model.lr=-1", "model.lr is -1: give a number above 0"),
    ("model.lr=0", "model.lr is 0: give a number above 0"),
    ("model.lr=inf", "model.lr is inf: give a number above 0"),
    ("model.lr=abc", "model.lr is 'abc': give a number above 0"),
    ("+model.module.optimizer.momentum=-1", "model.momentum is -1: give a number from 0 to below 1"),
    ("+model.module.optimizer.momentum=1", "model.momentum is 1: give a number from 0 to below 1"),
    ("+model.module.schedule.power=0", "model.power is 0: give a number above 0"),
    (
        "+model.module.optimizer.betas=[0.9,1.5]",
        "model.module.optimizer: Invalid beta parameter at index 1: 1.5;",
    ),
    ("+model.module.optimizer.eps=-1", r"model.module.optimizer: Invalid epsilon value: -1(\.0)?; change this setting"),
    (
        "+model.module.optimizer.nesterof=true",
        "model.module.optimizer: .*unexpected keyword .*'nesterof'; change",
    ),
    ("model.warmup=-1", "model.warmup is -1: give a whole number from 0"),
    ("model.warmup=abc", "model.warmup is 'abc': give a whole number"),
    ("model.warmup=0.5", "model.warmup is 0.5: give a whole number"),
    ("model.warmup=null", "model.warmup is null: give a whole number"),
    ("model.schedule=foo", "model.schedule is 'foo': choose one of linear, cosine, .*, constant_with_warmup$"),
    ("model.schedule=null", "model.schedule is null: choose one of linear, cosine"),
    ("model.schedule=piecewise_constant", "model.schedule is 'piecewise_constant': choose one of linear, cosine"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("override", "words"), WRONG)
def test_an_invalid_setting_is_a_user_error(tmp_path: Path, override: str, words: str) -> None:
    cfg = train_cfg(tmp_path, "lidm", override)
    engine.check_and_resolve(cfg)
    module = instantiate(cfg.model.module)
    module._trainer = SimpleNamespace(precision="32-true")
    with pytest.raises(UserError, match=f"^{words}"):
        module.configure_optimizers()


@pytest.mark.parametrize("name", [kind.value for kind in SchedulerType])
def test_every_accepted_schedule_can_be_built(name: str) -> None:
    """Every accepted schedule can be built. The refused piecewise_constant can be built with step rules only."""
    schedule: Any = partial(get_scheduler, name=name, num_warmup_steps=0)
    parameters = [torch.nn.Parameter(torch.zeros(1))]
    adam: Any = partial(torch.optim.AdamW, lr=0.1, weight_decay=0)
    if name == "piecewise_constant":
        schedule = partial(schedule, step_rules="1:10,0.1")
    check_optimizer_settings(adam, schedule)
    schedule(optimizer=adam(parameters), num_training_steps=4)


def test_partials_without_keywords_are_accepted() -> None:
    check_optimizer_settings(partial(torch.optim.SGD, lr=0.1), None)
    check_optimizer_settings(lambda parameters: torch.optim.SGD(parameters, 0.1), partial(get_scheduler, "cosine"))


@pytest.mark.parametrize("name", ["identity", "reid", "utility", "classifier", "vae", "lidm", "lvdm"])
def test_error_messages_name_the_configuration_key(name: str) -> None:
    """The settings ``model.lr``, ``model.momentum`` and ``model.power`` are passed to the optimizer or the schedule."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        model: Any = OmegaConf.to_container(compose("train", [f"model={name}", "data=phantom"]).model, resolve=False)
    given = model["module"]["optimizer"] | model["module"]["schedule"]
    for rate in ("lr", "momentum", "power"):
        assert given.get(rate) == (f"${{model.{rate}}}" if rate in model else None)


def test_an_error_of_torch_about_a_schedule_is_a_user_error() -> None:
    """torch's own error: the polynomial schedule ends at 1e-7, so a learning rate of 1e-9 is too small."""
    schedule: Any = partial(get_scheduler, name="polynomial", num_warmup_steps=0)
    trainer = SimpleNamespace(estimated_stepping_batches=4, precision="32-true")
    module: Any = SimpleNamespace(trainer=trainer, make_schedule=schedule, device=torch.device("cpu"))
    module.make_optimizer = partial(torch.optim.SGD, lr=1e-9)
    words = r"^model.module.schedule: lr_end \(1e-07\) must be smaller than initial lr \(1e-09\); change this setting"
    with pytest.raises(UserError, match=words):
        Trainable.build_optimizers(module, [OptimizerGroup([torch.nn.Parameter(torch.zeros(1))])])


def test_an_invalid_schedule_stops_training_without_an_artifact(tmp_path: Path) -> None:
    latent_store(tmp_path / "latents")
    with pytest.raises(UserError, match=r"^model.schedule is 'foo': choose one of"):
        engine.train(train_cfg(tmp_path, "lidm", "model.schedule=foo"))
    assert not (tmp_path / "lidm").exists()


@pytest.mark.parametrize("precision", ["16-true", "bf16-true", "64-true"])
def test_unsupported_precision_is_refused(tmp_path: Path, precision: str) -> None:
    latent_store(tmp_path / "latents")
    with pytest.raises(UserError, match=f"^trainer.precision={precision} .*: use 32-true, bf16-mixed or 16-mixed"):
        engine.train(train_cfg(tmp_path, "lidm", f"trainer.precision={precision}"))
    assert not (tmp_path / "lidm").exists()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_fused_optimizer_trains_to_the_same_weights(
    tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fused and plain optimizers give equal weights, with gradient clipping, also in bf16 mixed precision."""
    latent_store(tmp_path / "latents")
    clipped, clip = [0], torch.nn.utils.clip_grad_norm_

    def counted(*given: Any, **options: Any) -> Any:
        clipped[0] += 1
        return clip(*given, **options)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", counted)
    found, used, step = {}, list[Any](), torch.optim.AdamW.step

    def watched(self: torch.optim.AdamW, *rest: Any, **options: Any) -> Any:
        used.append(self.defaults["fused"])
        return step(self, *rest, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    for fused in ("false", "auto", "true"):
        asked = (f"model.fused={fused}", f"trainer.precision={precision}", "callbacks.pictures=null")
        folders = (f"dst={tmp_path}/{fused}", f"work={tmp_path}/{fused}-runs")
        engine.train(train_cfg(tmp_path, "lidm", *asked, *folders))
        found[fused] = load_diffusion_model(str(tmp_path / fused), "lidm").state_dict()
    assert used == [None] * 6 + [True] * 12
    assert clipped[0] == 18
    for name, truth in found["false"].items():
        assert torch.equal(found["auto"][name], found["true"][name])
        torch.testing.assert_close(found["true"][name], truth, rtol=1e-4, atol=1e-5)
    assert any(not torch.equal(found["true"][name], truth) for name, truth in found["false"].items())


def unfused(params: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr)


@pytest.mark.parametrize(
    ("function", "fused", "device", "precision", "expected"),
    [
        (torch.optim.AdamW, "auto", "cpu", "32-true", {"fused": True}),
        (torch.optim.AdamW, "auto", "mps", "32-true", {}),
        (torch.optim.AdamW, "auto", "cuda", "32-true", {"fused": True}),
        (torch.optim.AdamW, "auto", "cuda", "bf16-mixed", {"fused": True}),
        (torch.optim.AdamW, "auto", "cuda", "16-mixed", {}),
        (torch.optim.AdamW, True, "cpu", "32-true", {"fused": True}),
        (torch.optim.AdamW, True, "cuda", "16-mixed", {}),
        (torch.optim.AdamW, False, "cuda", "32-true", {}),
        (unfused, "auto", "cuda", "32-true", {}),
        (unfused, False, "cuda", "32-true", {}),
    ],
)
def test_where_an_optimizer_is_fused(
    function: Any, fused: Any, device: str, precision: str, expected: dict[str, bool]
) -> None:
    made: Any = resolve_fused(partial(function, lr=0.1, fused=fused), torch.device(device), precision)
    assert (made.func, made.keywords) == (function, {"lr": 0.1, **expected})


def test_fused_settings_that_are_not_possible_are_refused() -> None:
    device = torch.device("cpu")
    with pytest.raises(UserError, match=r"^model.fused is 'yes': give auto, true or false$"):
        resolve_fused(partial(torch.optim.AdamW, fused="yes"), device, "32-true")
    with pytest.raises(UserError, match=r"^model.fused=true is not possible: unfused has no fused version; give auto$"):
        resolve_fused(partial(unfused, fused=True), device, "32-true")
    plain = partial(torch.optim.SGD, lr=0.1)
    assert resolve_fused(plain, device, "32-true") is plain
