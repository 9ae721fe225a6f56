"""The hash of the training settings: settings that change the hash, and settings that do not."""

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from echodream import engine
from echodream.config.paths import CONF_DIR
from echodream.training.settings_hash import settings_hash
from tests.support.tiny_vae import moving_disc_store, train_cfg


def test_a_class_may_be_moved_and_not_exchanged(tmp_path: Path) -> None:
    moving_disc_store(tmp_path / "videos")
    cfg = train_cfg(tmp_path)
    engine.check_and_resolve(cfg)
    before = settings_hash(cfg)
    target = cfg.model.module._target_
    assert target.startswith("echodream.modules.")
    cfg.model.module._target_ = f"echodream.elsewhere.{target.rpartition('.')[2]}"
    assert settings_hash(cfg) == before
    cfg.model.module._target_ = f"{target}2"
    assert settings_hash(cfg) != before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "value", "changes"),
    [
        ("model.lr", 0.5, True),
        ("seed", 9, True),
        ("datamodule.workers", 7, False),
        ("datamodule.cache", True, False),
        ("datamodule.cache", "device", True),
        ("trainer.log_every_n_steps", 7, False),
        ("trainer.precision", "32-true", False),
        ("trainer.precision", "bf16-mixed", True),
        ("model.fused", True, False),
        ("model.module.optimizer.fused", True, False),
        ("model.compile", True, False),
        ("model.module.channels_last", True, False),
        ("model.module.optimizer.lr", 0.5, True),
    ],
)
def test_only_what_decides_the_weights_is_hashed(tmp_path: Path, key: str, value: float, changes: bool) -> None:
    moving_disc_store(tmp_path / "videos")
    cfg = train_cfg(tmp_path)
    engine.check_and_resolve(cfg)
    before = settings_hash(cfg)
    OmegaConf.update(cfg, key, value)
    assert (settings_hash(cfg) != before) == changes


def test_no_two_classes_of_the_configuration_share_a_name() -> None:
    found = re.findall(r"_target_: (echodream[\w.]+)", "\n".join(path.read_text() for path in CONF_DIR.rglob("*.yaml")))
    names = [target.rpartition(".")[2] for target in set(found)]
    assert len(names) == len(set(names))
