"""A setting that must not be null is refused with an error that names the key, in stages and trainings."""

from functools import cache
from types import NoneType
from typing import Any, get_args, get_type_hints

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf

from echodream.config.checks import refuse_missing_and_null
from echodream.config.paths import CONF_DIR
from echodream.config.stage_signature import parameter_hints
from echodream.errors import UserError
from echodream.runs.instantiate_stage import stage_call

STAGES = sorted(path.stem for path in (CONF_DIR / "stage").glob("*.yaml"))


def composed(config: str, *overrides: str) -> DictConfig:
    """A copy of the composed configuration, with a text for each required key."""
    return _composed(config, *overrides).copy()


@cache
def _composed(config: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose(config, list(overrides))
    OmegaConf.set_struct(cfg, False)
    for key in OmegaConf.missing_keys(cfg):
        OmegaConf.update(cfg, key, "given")
    return cfg


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_takes_null_where_its_type_hints_say_so_and_nowhere_else(stage: str) -> None:
    cfg = composed("sample", f"stage={stage}", "data=phantom")
    refuse_missing_and_null(cfg)  # the default settings are accepted
    given: Any = OmegaConf.to_container(cfg.stage, resolve=False)
    function = get_method(cfg.stage._target_)
    hints = get_type_hints(function)
    tried = 0
    for name in parameter_hints(cfg.stage._target_):
        if name in given:
            raw = given[name]
            key = (
                raw[2:-1] if isinstance(raw, str) and raw.startswith("${") and raw.count("$") == 1 else f"stage.{name}"
            )
        else:
            key = name
        if OmegaConf.is_config(OmegaConf.select(cfg, key)):  # a group of settings, not a single value
            continue
        changed = cfg.copy()
        OmegaConf.update(changed, key, None)
        tried += 1
        if NoneType in get_args(hints[name]):
            refuse_missing_and_null(changed)
            continue
        with pytest.raises(UserError, match=f"^{key}=null is not possible: give it a value, or leave it out$"):
            refuse_missing_and_null(changed)
    assert tried


@pytest.mark.parametrize("key", ["src", "dst", "work", "callbacks.checkpoint"])
@pytest.mark.parametrize("model", ["vae", "lidm", "lvdm"])
def test_training_needs_its_folders_and_its_checkpoints(model: str, key: str) -> None:
    cfg = composed("train", f"model={model}", "data=phantom", "logger.csv.save_dir=x", "callbacks.pictures.folder=x")
    refuse_missing_and_null(cfg)
    OmegaConf.update(cfg, key, None)
    with pytest.raises(UserError, match=f"^{key}=null is not possible: give it a value, or leave it out$"):
        refuse_missing_and_null(cfg)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_every_setting_of_a_stage_is_a_key_and_paths_are_declared_as_such(stage: str) -> None:
    """The settings of a stage decide whether its output is up to date; every path must have a type hint of a path."""
    call = stage_call(composed("sample", f"stage={stage}", "data=phantom"))
    assert call.arguments.keys() == call.type_hints.keys()
    assert call.name == stage
    for name, hint in call.type_hints.items():
        value = call.arguments[name]
        if isinstance(value, str) and value.startswith(("data/", "models/", "samples/", "reports/", "raw/")):
            assert "Path" in hint, name
    assert (call.type_hints.get("dst") == "OutputPath") == (stage not in ("doctor", "verify", "track"))
