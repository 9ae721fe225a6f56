"""The experiment file of a plan (``experiment=plan``), and the commands that use this file."""

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from echodream.config.paths import CONF_DIR
from echodream.planning.timing import ModelTiming
from echodream.privacy.certifiable_bounds import CertifiableBounds
from echodream.privacy.rules import Calibrated
from echodream.runs.atomic_folder import write_text

EXPERIMENT = "plan"
"""Name of the experiment of a plan."""
_YAML_HEADER = "# @package _global_\n# Written by stage=plan.\n"
_MEMORY_SHARE = 0.9
"""Share of a GPU's memory that a training may use."""


def planned_rule(rule: Calibrated, bounds: CertifiableBounds, target: float) -> dict[str, float]:
    """Settings of the rule: alpha and beta are ``target``, or the smallest values for these patients, rounded up."""
    alpha, beta = (math.ceil(max(target, value) * 10_000 - 1e-9) / 10_000 for value in (bounds.alpha, bounds.beta))
    levels = {"alpha": alpha, "alpha_max": max(rule.alpha_max, alpha), "beta": beta}
    return {**levels, "delta": rule.delta, "choose": rule.choose}


def planned_batch(timing: ModelTiming, memory: float | None) -> int:
    """The batch size of the experiment, or the largest that fits into ``memory`` gigabytes; 0: not even one fits."""
    if memory is None or timing.gigabytes <= _MEMORY_SHARE * memory or not timing.gigabytes_per_sample:
        return timing.batch
    fixed = timing.gigabytes - timing.batch * timing.gigabytes_per_sample
    return max(0, math.floor((_MEMORY_SHARE * memory - fixed) / timing.gigabytes_per_sample))


def write_experiment(folder: Path, arguments: Sequence[str], sections: Mapping[str, Mapping[str, Any]]) -> None:
    """Write an experiment to ``folder``, for --config-dir, which extends an experiment in ``arguments``.

    ``sections``: settings of the experiment, by "train/<model>" or "sample/<stage>".
    """
    chosen = dict(text.split("=", 1) for text in arguments if text.startswith(("experiment=", "preset=")))
    base = chosen.get("experiment")
    defaults: list[Any] = [] if base is None else [base]
    defaults += [{"override /preset": chosen["preset"]}] if "preset" in chosen else []
    _write_yaml(folder / "experiment" / f"{EXPERIMENT}.yaml", {"defaults": defaults} if defaults else {})
    inherited = {f"{part}/{name}" for part in ("train", "sample") for name in _section_names(part, base)}
    for section in sorted({*sections, *inherited}):
        part, _, name = section.partition("/")
        start = {"defaults": [f"{base}_{name}"]} if section in inherited else {}
        _write_yaml(folder / "experiment" / part / f"{EXPERIMENT}_{name}.yaml", {**start, **sections.get(section, {})})


def _section_names(part: str, experiment: str | None) -> list[str]:
    file = CONF_DIR / "experiment" / part / f"{experiment}.yaml"
    return [str(name) for name in OmegaConf.load(file)] if file.is_file() else []


def _write_yaml(path: Path, content: Mapping[str, Any]) -> None:
    write_text(path, _YAML_HEADER + (OmegaConf.to_yaml(OmegaConf.create(dict(content))) if content else ""))


def planned_commands(
    folders: Sequence[str], arguments: Sequence[str], raw: str | None, models: Sequence[str], gpus: int | None
) -> list[str]:
    """All commands for the study, with the configurations in ``folders``; several ``gpus`` train data parallel."""
    data = [text for text in arguments if text.lstrip("+~").startswith(("data=", "data."))]
    if len(folders) > 1:
        paths = ",".join(f"file://{Path(path).absolute()}" for path in folders)
        config = [f"hydra.searchpath=[{paths}]"]
    else:
        config = ["--config-dir", folders[0]]
    parallel = ["trainer=ddp", f"trainer.devices={gpus}"] if gpus is not None and gpus > 1 else []
    lines = [["sample", "stage=ingest", *([] if raw is None else [f"raw={raw}"])]]
    for model in models:
        lines.append(["train", f"model={model}", *parallel])
        lines += [["sample", *stage.split()] for stage in _STAGES_AFTER.get(model, ())]
    return [
        shlex.join(["python", f"{program}.py", *rest, *data, *config, f"experiment={EXPERIMENT}"])
        for program, *rest in lines
    ]


_STAGES_AFTER = {
    "vae": ["stage=encode"],
    "reid": ["stage=image", "stage=filter", "stage=audit"],
    "lvdm": ["stage=video", "stage=filter on=video", "stage=decode"],
    "classifier": ["stage=utility", "stage=evaluate"],
}
"""Stages that follow the training of a model."""
