"""The two commands, train.py and sample.py."""

import sys

import hydra
from omegaconf import DictConfig

from echodream.config.error_messages import report_user_errors
from echodream.config.help import options_first, print_help
from echodream.config.launchers import objective_value
from echodream.config.own_studies import check_own_study
from echodream.config.paths import CONF_DIR


@report_user_errors("train")
def train() -> None:
    """Train a model: ``train.py model=<model> data=<study>``."""
    print_help("train")
    check_own_study(sys.argv[1:])
    sys.argv[1:] = options_first(sys.argv[1:])
    hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="train")(_train)()


@report_user_errors("sample")
def sample() -> None:
    """Run one stage: ``sample.py stage=<stage> data=<study>``."""
    print_help("sample")
    check_own_study(sys.argv[1:])
    sys.argv[1:] = options_first(sys.argv[1:])
    hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="sample")(_sample)()


@report_user_errors("train")
def _train(cfg: DictConfig) -> float | None:
    from echodream.engine import train

    return objective_value(cfg.objective, train(cfg))


@report_user_errors("sample")
def _sample(cfg: DictConfig) -> None:
    from echodream.engine import sample

    sample(cfg)
