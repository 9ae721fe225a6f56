"""The two commands, train.py and sample.py."""

import sys
from collections.abc import Callable

import hydra
from omegaconf import DictConfig

from echodream.config.error_messages import report_user_errors
from echodream.config.help import print_help, put_options_first
from echodream.config.launchers import objective_value
from echodream.config.own_studies import check_own_study
from echodream.config.paths import CONF_DIR


@report_user_errors("train")
def train() -> None:
    """Train a model: ``train.py model=<model> data=<study>``."""
    _compose_and_run("train", _run_training)


@report_user_errors("sample")
def sample() -> None:
    """Run one stage: ``sample.py stage=<stage> data=<study>``."""
    _compose_and_run("sample", _run_stages)


def _compose_and_run(config: str, job: Callable[[DictConfig], object]) -> None:
    """Check the command line, compose conf/``config``.yaml with hydra, and call ``job`` with the configuration."""
    from echodream.progress import progress_to_file

    print_help(config)
    check_own_study(sys.argv[1:])
    sys.argv[1:] = put_options_first(sys.argv[1:])
    with progress_to_file():
        hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=config)(job)()


@report_user_errors("train")
def _run_training(cfg: DictConfig) -> float | None:
    from echodream.engine import train

    return objective_value(cfg.objective, train(cfg))


@report_user_errors("sample")
def _run_stages(cfg: DictConfig) -> None:
    from echodream.engine import sample

    sample(cfg)
