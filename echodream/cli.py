"""The two commands."""

import sys

import hydra
from omegaconf import DictConfig

from echodream.config.error_messages import plain_errors
from echodream.config.help import answer_help, arranged
from echodream.config.launchers import objective
from echodream.config.paths import CONF_DIR


@plain_errors("train")
def train() -> None:
    """Train one model: ``train.py model=<model> data=<study>``."""
    answer_help("train")
    sys.argv[1:] = arranged(sys.argv[1:])
    hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="train")(_train)()


@plain_errors("sample")
def sample() -> None:
    """Carry out one stage: ``sample.py stage=<stage> data=<study>``."""
    answer_help("sample")
    sys.argv[1:] = arranged(sys.argv[1:])
    hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="sample")(_sample)()


@plain_errors("train")
def _train(cfg: DictConfig) -> float | None:
    from echodream.engine import train

    return objective(cfg.objective, train(cfg))


@plain_errors("sample")
def _sample(cfg: DictConfig) -> None:
    from echodream.engine import sample

    sample(cfg)
