"""What the two commands do with a composed configuration. Undecorated, so that tests and launchers call the same."""

import logging
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from echodream.artifact import FACTS, read_artifact
from echodream.config.error_messages import refuse_absent, refuse_impossible_pairs, refuse_silent_keys
from echodream.errors import UserError
from echodream.runs.atomic_folder import first_process
from echodream.runs.instantiate_stage import stage_call
from echodream.runs.rerun_cache import run_once
from echodream.runs.summary import Summary
from echodream.store.schema import read_dataset
from echodream.training.settings_hash import settings_hash

log = logging.getLogger(__name__)


def sample(cfg: DictConfig) -> Summary:
    """Carry out the stage that ``cfg`` names, and what comes ``then``; say so. ``UserError`` when not all was done."""
    prepare(cfg)
    if cfg.get("src") is not None and not Path(cfg.src).is_dir():
        read_dataset(Path(cfg.src))  # raises an error before anything heavy is imported
    if cfg.get("artifact") is not None and not Path(cfg.artifact).is_dir():
        raise UserError(f"artifact={cfg.artifact} does not exist: train one with train.py, or give its folder")
    facts = {"command": command("sample.py"), "code_version": code_version()}
    for stage in [stage_call(cfg, key) for key in ("stage", "then") if cfg.get(key)]:
        summary = run_once(cfg.get("notes"), stage, lambda: stage.instantiate()(**facts))  # noqa: B023 (called at once)
        if first_process():  # the others of a distributed run say the same
            log.info("%s", summary)
        if summary.problem is not None:
            raise UserError(summary.problem)
    return summary


def train(cfg: DictConfig) -> dict[str, float]:
    """Train the model that ``cfg`` names, export it as an artifact and return its metrics on the test patients.

    A run that was interrupted goes on from its last checkpoint; one that is done does nothing.
    """
    prepare(cfg)
    settings = settings_hash(cfg)
    found = _finished(Path(cfg.dst), cfg.model.name, settings)
    if found is not None:
        log.info("train: %s already complete, nothing to do", cfg.dst)
        return found
    read_dataset(Path(cfg.src))
    from echodream.training.fit import run

    folder = Path(cfg.work) / settings[:12]
    cfg.callbacks.checkpoint.dirpath = str(folder)
    return run(cfg, folder, settings, command("train.py"), code_version())


def prepare(cfg: DictConfig) -> None:
    """Refuse what cannot work while nothing heavy is imported, then resolve ``cfg`` in place."""
    refuse_silent_keys(cfg, task_overrides())
    if HydraConfig.initialized():
        refuse_impossible_pairs(cfg, HydraConfig.get().runtime.choices)
    refuse_absent(cfg)
    OmegaConf.resolve(cfg)


def _finished(dst: Path, model: str, settings: str) -> dict[str, float] | None:
    if not dst.exists():
        return None
    if not (dst / FACTS).is_file():
        raise UserError(f"{dst} is there and is no artifact: remove it, or choose another dst=")
    artifact = read_artifact(dst, model)
    if artifact.settings != settings:
        raise UserError(f"{dst} was trained with other settings: choose another dst=, or remove it")
    return artifact.metrics


def command(program: str) -> str:
    """The command line as it was typed, but for where raw files and keys lie: such a path may name a patient."""
    typed = [re.sub(r"^(\+*(?:raw|[\w.]*key_file)=).*", r"\1...", override) for override in task_overrides()]
    return " ".join(["python", program, *typed])


def task_overrides() -> list[str]:
    """The overrides of the command line; none when the configuration was composed without one."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def code_version() -> str:
    """The package's version, with the commit where it runs from a checkout."""
    number, root = version("echodream"), Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return number
    found = subprocess.run(["git", "-C", root, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True)
    return f"{number}+{found.stdout.strip()}" if found.returncode == 0 else number
