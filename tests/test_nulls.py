"""null where a stage, or training, cannot do with it, is answered with the key that was typed."""

import inspect
from types import NoneType
from typing import Any, get_args, get_type_hints

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf

from echodream.config.error_messages import refuse_absent
from echodream.config.paths import CONF_DIR
from echodream.errors import UserError

STAGES = sorted(path.stem for path in (CONF_DIR / "stage").glob("*.yaml"))


def composed(config: str, *overrides: str) -> DictConfig:
    """The configuration, with a text for every key that must be given."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose(config, list(overrides))
    OmegaConf.set_struct(cfg, False)
    for key in OmegaConf.missing_keys(cfg):
        OmegaConf.update(cfg, key, "given")
    return cfg


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_takes_null_where_its_type_hints_say_so_and_nowhere_else(stage: str) -> None:
    cfg = composed("sample", f"stage={stage}", "data=phantom")
    refuse_absent(cfg)  # the defaults are possible
    raw: Any = OmegaConf.to_container(cfg.stage, resolve=False)
    function = get_method(cfg.stage._target_)
    hints = get_type_hints(function)
    tried = 0
    for name in inspect.signature(function).parameters:
        value = raw.get(name)
        if not isinstance(value, str | int | float):
            continue
        own = str(value).startswith("${") and str(value).count("$") == 1 and "," not in str(value)
        key = str(value)[2:-1] if own else f"stage.{name}"
        changed = cfg.copy()
        OmegaConf.update(changed, key, None)
        tried += 1
        if NoneType in get_args(hints[name]):
            refuse_absent(changed)
            continue
        with pytest.raises(UserError, match=f"^{key}=null is not possible: give it a value, or leave it out$"):
            refuse_absent(changed)
    assert tried


@pytest.mark.parametrize("model", ["vae", "lidm", "lvdm"])
@pytest.mark.parametrize("key", ["src", "dst", "work", "callbacks.checkpoint"])
def test_training_needs_its_folders_and_its_checkpoints(model: str, key: str) -> None:
    cfg = composed("train", f"model={model}", "data=phantom", "logger.csv.save_dir=x", "callbacks.pictures.folder=x")
    refuse_absent(cfg)
    OmegaConf.update(cfg, key, None)
    with pytest.raises(UserError, match=f"^{key}=null is not possible: give it a value, or leave it out$"):
        refuse_absent(cfg)
