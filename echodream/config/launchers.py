"""Runs that are done elsewhere, and searches: what submitit, SLURM and optuna answer, in one sentence."""

import re
from collections.abc import Mapping
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from echodream.errors import UserError

_PACKAGES = {
    "hydra/launcher": ("launcher=", "hydra-submitit-launcher", "cluster"),
    "hydra/sweeper": ("hparams_search=", "hydra-optuna-sweeper", "search"),
    "hydra/sweeper/sampler": ("hparams_search=", "hydra-optuna-sweeper", "search"),
}
"""Groups that a package brings: who asks for them, the package, and its extra in pyproject.toml."""
_LOG = re.compile(r"\S+_log\.(?:out|err)")


def missing_package_message(group: str) -> str | None:
    """What to tell the user who asks for a choice of hydra's ``group`` that no installed package has."""
    if group not in _PACKAGES:
        return None
    asked, package, extra = _PACKAGES[group]
    return f"{asked} needs the package {package}: install it with python -m pip install 'echodream[{extra}]'"


def launcher_error_message(error: BaseException) -> str | None:
    """What to tell the user about an ``error`` of submitit; None when it is something else."""
    said = str(error).strip()
    if "Could not detect" in said and "srun" in said:
        return "launcher=slurm finds no SLURM here (no srun): run this on the cluster's login node, or without it"
    if type(error).__name__ not in ("FailedJobError", "UncompletedJobError", "FailedSubmissionError"):
        return None
    if "sbatch: error" in said:
        lines = [line.strip() for line in said.splitlines() if "sbatch: error" in line]
        return f"SLURM refused the job ({'; '.join(lines)}): change that hydra.launcher. setting"
    log = _LOG.search(said)
    where = f"read {log[0]}" if log else "read its log below .submitit in the run's folder"
    return (
        "a job ended without a result (cancelled, out of memory, out of time or killed): "
        f"{where}, then run the same command again to go on"
    )


def is_sweep_run() -> bool:
    """Whether this run is one of a sweep, or was handed to a launcher."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def check_objective(name: str | None) -> None:
    """Raise ``UserError`` where a search would compare by patients of the test."""
    if name is not None and not name.startswith("val/"):
        raise UserError(f"objective={name} is no figure on the validation patients: choose one that begins with val/")


def objective_value(name: str | None, metrics: Mapping[str, Any]) -> float | None:
    """The figure ``name`` of ``metrics``, which a search compares; None without a search. Raises ``UserError``.

    None, too, in a process without metrics: another one has them.
    """
    check_objective(name)
    if name is None or not metrics:
        return None
    if name not in metrics:
        raise UserError(f"objective={name} is not among what was measured: choose one of {', '.join(metrics)}")
    return float(metrics[name])
