"""What the two commands do with a composed configuration. Undecorated, so that tests and launchers call the same."""

import logging
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from echodream.config_errors import refuse_silent_keys
from echodream.errors import UserError

if TYPE_CHECKING:
    from echodream.stages.summary import Summary

log = logging.getLogger(__name__)


def sample(cfg: DictConfig) -> "Summary":
    """Carry out the stage that ``cfg`` names and print its summary. Raises ``UserError`` when not all was done."""
    refuse_silent_keys(cfg, task_overrides())
    OmegaConf.resolve(cfg)
    stage = instantiate(cfg.stage)
    summary: Summary = stage(command=command("sample.py"), code_version=code_version())
    log.info("%s", summary)
    if summary.problem is not None:
        raise UserError(summary.problem)
    return summary


def command(program: str) -> str:
    """The command line as it was typed, as far as it decides what is made."""
    return " ".join(["python", program, *task_overrides()])


def task_overrides() -> list[str]:
    """The overrides of the command line; none when the configuration was composed without one."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def code_version() -> str:
    """The package's version, with the commit where it runs from a checkout."""
    number = version("echodream")
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return number
    asked = ["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"]
    found = subprocess.run(asked, capture_output=True, text=True, check=False)
    return f"{number}+{found.stdout.strip()}" if found.returncode == 0 else number
