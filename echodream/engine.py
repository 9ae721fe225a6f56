"""Execution of a composed configuration: stages (``sample``) or a training run (``train``)."""

import logging
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from echodream.config.checks import refuse_incompatible_choices, refuse_missing_and_null, refuse_unknown_keys
from echodream.errors import UserError
from echodream.runs.atomic_folder import is_first_process
from echodream.runs.instantiate_stage import StageCall, stage_call
from echodream.runs.rerun_cache import run_once
from echodream.runs.summary import Summary
from echodream.store.schema import read_dataset
from echodream.training.settings_hash import metrics_of_existing_artifact, settings_hash

log = logging.getLogger(__name__)


def sample(cfg: DictConfig) -> Summary:
    """Run the stages of ``cfg``, and return the summary of the last stage (see ``run_stages``)."""
    return run_stages(cfg)[-1][1]


def run_stages(cfg: DictConfig) -> list[tuple[StageCall, Summary]]:
    """Run the stages ``cfg.stage`` and ``cfg.then``. Raises ``UserError`` if a part of a stage failed."""
    check_and_resolve(cfg)
    require_src(cfg)
    if cfg.get("artifact") is not None and not Path(cfg.artifact).is_dir():
        raise UserError(f"artifact={cfg.artifact} does not exist: train one with train.py, or give its folder")
    origin = {"command": redacted_command("sample.py"), "code_version": code_version()}
    finished = []
    for stage in [stage_call(cfg, key) for key in ("stage", "then") if cfg.get(key)]:
        run = lambda: stage.instantiate()(**origin)  # noqa: B023, E731 (called at once)
        summary = run_once(cfg.get("notes"), stage, run, cfg.get("verified"))
        if is_first_process():
            log.info("%s", summary)
        if summary.problem is not None:
            raise UserError(summary.problem)
        finished.append((stage, summary))
    return finished


def train(cfg: DictConfig) -> dict[str, float]:
    """Train or resume the model of ``cfg``, export its artifact unless it is complete, and return its test metrics."""
    check_and_resolve(cfg)
    settings = settings_hash(cfg)
    if (metrics := metrics_of_existing_artifact(cfg, settings)) is not None:
        return metrics
    require_src(cfg)
    from echodream.training.cross_validation import cross_validate, is_cross_validation
    from echodream.training.fit import train_model

    folder = Path(cfg.work) / settings[:12]
    cfg.callbacks.checkpoint.dirpath = str(folder)
    run = cross_validate if is_cross_validation(cfg) else train_model
    return run(cfg, folder, settings, redacted_command("train.py"), code_version())


def check_and_resolve(cfg: DictConfig) -> None:
    """Refuse impossible settings before slow imports, then resolve the interpolations of ``cfg`` in place."""
    refuse_unknown_keys(cfg, task_overrides())
    if HydraConfig.initialized():
        refuse_incompatible_choices(cfg, HydraConfig.get().runtime.choices)
    refuse_missing_and_null(cfg)
    OmegaConf.resolve(cfg)


def require_src(cfg: DictConfig) -> None:
    """Raise ``StoreError`` if ``cfg.src`` is not a folder. The content of the folder is checked later."""
    if cfg.get("src") is not None and not Path(cfg.src).is_dir():
        read_dataset(Path(cfg.src))


def redacted_command(program: str) -> str:
    """Command line of ``program`` without the paths of raw files and key files, which may contain a patient's name."""
    redacted = [re.sub(r"^(\+*(?:raw|[\w.]*key_file)=).*", r"\1...", override) for override in task_overrides()]
    return " ".join(["python", program, *redacted])


def task_overrides() -> list[str]:
    """Overrides on the command line; empty if the configuration was composed without a command line."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def code_version() -> str:
    """Version of the package and, in a git checkout, the commit."""
    number, root = version("echodream"), Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return number
    git = subprocess.run(["git", "-C", root, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True)
    return f"{number}+{git.stdout.strip()}" if git.returncode == 0 else number
