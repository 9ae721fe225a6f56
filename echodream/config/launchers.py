"""Sweeps, cluster jobs and hyperparameter searches: error messages of submitit and SLURM, and the objective."""

import re
from collections.abc import Mapping
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from echodream.errors import UserError

_OPTIONAL_PACKAGES = {
    "hydra/launcher": ("launcher=", "hydra-submitit-launcher", "cluster"),
    "hydra/sweeper": ("hparams_search=", "hydra-optuna-sweeper", "search"),
    "hydra/sweeper/sampler": ("hparams_search=", "hydra-optuna-sweeper", "search"),
}
"""Hydra group of an optional package -> key that selects the group, package, and its extra in pyproject.toml."""
_LOG_FILE = re.compile(r"\S+_log\.(?:out|err)")


def missing_package_message(group: str) -> str | None:
    """Message that the package of hydra's ``group`` is not installed; None if the group needs no optional package."""
    if group not in _OPTIONAL_PACKAGES:
        return None
    key, package, extra = _OPTIONAL_PACKAGES[group]
    return f"{key} needs the package {package}: install it with python -m pip install 'echodream[{extra}]'"


def launcher_error_message(error: BaseException) -> str | None:
    """Message about an ``error`` of submitit; None for any other error."""
    text = str(error).strip()
    if "Could not detect" in text and "srun" in text:
        return "launcher=slurm needs SLURM, but srun is not installed: run this on a login node, or omit launcher=slurm"
    if type(error).__name__ not in ("FailedJobError", "UncompletedJobError", "FailedSubmissionError"):
        return None
    if "sbatch: error" in text:
        lines = [line.strip() for line in text.splitlines() if "sbatch: error" in line]
        return f"SLURM refused the job ({'; '.join(lines)}): change this hydra.launcher setting"
    log = _LOG_FILE.search(text)
    where = f"read {log[0]}" if log else "read its log below .submitit in the run's folder"
    problem = "a job ended without a result (cancelled, out of memory, out of time or killed)"
    return f"{problem}: {where}, then run the same command again to resume"


def is_sweep_run() -> bool:
    """Whether this process runs one job of a sweep or of a launcher."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def check_objective(name: str | None) -> None:
    """Raise ``UserError`` if the objective ``name`` is not a metric of the validation patients."""
    if name is not None and not name.startswith("val/"):
        raise UserError(f"objective={name} is not measured on the validation patients: choose a val/ metric")


def objective_value(name: str | None, metrics: Mapping[str, Any]) -> float | None:
    """Value of the metric ``name``; None without name or metrics. Raises ``UserError`` for an unknown name."""
    check_objective(name)
    if name is None or not metrics:
        return None
    if name not in metrics:
        raise UserError(f"objective={name} was not measured: choose one of {', '.join(metrics)}")
    return float(metrics[name])
