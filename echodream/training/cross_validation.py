"""Several training runs in one command, of folds or seeds: an artifact each, and what they reached together."""

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from echodream import validation
from echodream.artifact import Artifact, write_artifact
from echodream.errors import UserError
from echodream.evaluation.classifier_inference import open_classifier, predict_split
from echodream.metrics.bootstrap import bootstrap_interval, bootstrap_weights
from echodream.metrics.classification import multiclass_metrics, multiclass_patients
from echodream.metrics.regression import regression_metrics
from echodream.networks.classifiers import RUNS_FILE
from echodream.runs.atomic_folder import first_process
from echodream.store.checksums import file_sha256
from echodream.store.schema import CHECKSUMS

log = logging.getLogger(__name__)

Train = Callable[[DictConfig, Path, str, str, str], dict[str, float]]
"""Configuration, folder of the run, its settings, command and version of the code."""


@dataclass(frozen=True)
class Run:
    """One of the runs."""

    name: str
    seed: int
    fold: int | None


def asked(cfg: DictConfig) -> bool:
    """Whether ``cfg`` asks for several runs."""
    runs = cfg.model.get("runs") or {}
    return cfg.datamodule.get("fold") is None and any(value is not None for value in runs.values())


def runs_of(cfg: DictConfig) -> list[Run]:
    """What ``cfg`` asks for, fold by fold and seed by seed. Raises ``UserError`` for seeds that cannot be."""
    folds, seeds = cfg.model.runs.folds, cfg.model.runs.seeds
    if folds is not None:
        validation.whole_number("folds", folds, 3, note=", or null for the study's own splits")
    if seeds is not None and (isinstance(seeds, str | int) or not len(seeds) or len(set(seeds)) < len(seeds)):
        raise UserError(f"seeds is {seeds!r}: give a list of different whole numbers, as [0,1,2]")
    for seed in seeds or ():
        validation.whole_number("an entry of seeds", seed, 0)
    chosen: list[Run] = []
    for fold in range(folds) if folds is not None else [None]:
        for seed in seeds if seeds is not None else [cfg.seed]:
            parts = [f"fold_{fold}"] * (fold is not None) + [f"seed_{seed}"] * (seeds is not None)
            chosen.append(Run("_".join(parts), seed, fold))
    return chosen


def run_all(
    cfg: DictConfig, folder: Path, settings: str, command: str, code_version: str, train: Train
) -> dict[str, float]:
    """Train each run in its own part of ``folder``, then write all of them, and their summary, to ``cfg.dst``.

    A run that is done is not done again. The metrics are means over the runs, with ``_std`` their standard deviation.
    """
    runs, made = runs_of(cfg), {}
    for number, run in enumerate(runs, 1):
        log.info("train: run %d of %d, %s", number, len(runs), run.name)
        one = single(cfg, run, folder / run.name)
        own = hashlib.sha256(f"{settings} {run.name}".encode()).hexdigest()
        made[run.name] = train(one, folder / run.name, own, command, code_version)
    metrics = over_runs(list(made.values()))
    record = {"runs": made, "over runs": metrics}
    if cfg.model.runs.folds is not None:
        record["together"] = together(cfg, folder, runs)
    source = file_sha256(Path(cfg.src) / CHECKSUMS)
    whole = Artifact(cfg.model.name, cfg.data.name, "", settings, metrics, command, code_version, source)

    def save(root: Path) -> None:
        for run in runs:
            shutil.copytree(folder / run.name / "artifact", root / run.name)
        (root / RUNS_FILE).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    if first_process():
        kept = {str(key): value for key, value in cfg.items() if key not in ("logger", "callbacks")}
        write_artifact(cfg.dst, whole, OmegaConf.to_yaml(OmegaConf.create(kept)), save)
        log.info("train: %s done, %d runs\n%s", cfg.dst, len(runs), _said(metrics))
    return metrics


def _said(metrics: dict[str, float]) -> str:
    """Mean and standard deviation of each metric, a line each."""
    names = [name for name in metrics if not name.endswith("_std")]
    spread = {name: f" +- {metrics[f'{name}_std']:.4f}" if f"{name}_std" in metrics else "" for name in names}
    width = max((len(name) for name in names), default=0) + 2
    return "\n".join(f"  {name:<{width}}{metrics[name]:.4f}{spread[name]}" for name in names)


def single(cfg: DictConfig, run: Run, folder: Path) -> DictConfig:
    """``cfg`` of one run, that leaves its artifact in ``folder``."""
    one = cfg.copy()
    one.seed = one.datamodule.seed = run.seed
    one.datamodule.fold, one.datamodule.folds = run.fold, cfg.model.runs.folds
    one.model.runs.seeds = one.model.runs.folds = None
    one.dst, one.callbacks.checkpoint.dirpath = str(folder / "artifact"), str(folder)
    for logger in (one.logger or {}).values():
        if logger is not None and "save_dir" in logger:
            logger.save_dir = str(Path(logger.save_dir) / run.name)
    return one


def over_runs(found: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean of each metric that all runs have, and its standard deviation over runs as ``<name>_std``."""
    names = [name for name in found[0] if all(name in metrics for metrics in found)]
    means = {name: round(float(np.mean([metrics[name] for metrics in found])), 6) for name in names}
    if len(found) > 1:
        means |= {f"{n}_std": round(float(np.std([m[n] for m in found], ddof=1)), 6) for n in names}
    return means


def together(cfg: DictConfig, folder: Path, runs: Sequence[Run]) -> dict[str, Any]:
    """Figures of all test patients at once, each answered by the models that never saw them, with intervals."""
    parts = []
    for run in runs:
        data = instantiate(single(cfg, run, folder / run.name).datamodule)
        model = open_classifier(str(folder / run.name / "artifact"))
        table, out = predict_split(model, data.store, "TEST", data.batch_size)
        parts.append((model.metadata, table, out))
    facts = parts[0][0]
    patients = np.concatenate([table["PatientID"].astype(str).to_numpy() for _, table, _ in parts])
    outs, weights = np.concatenate([out for _, _, out in parts]), bootstrap_weights(patients, cfg.model.repeats)
    truth = np.concatenate([_truth(facts, table) for _, table, _ in parts])
    if facts["task"] == "regression":
        figures, of = regression_metrics(outs[:, 0], truth, weights), {}
    else:
        shares = np.exp(outs - outs.max(axis=1, keepdims=True))
        figures = multiclass_metrics(shares / shares.sum(axis=1, keepdims=True), truth, facts["class_names"], weights)
        of = multiclass_patients(truth, facts["class_names"], patients)
    plain = {
        name: {
            key: value if math.isfinite(value) else None
            for key, value in asdict(bootstrap_interval(values, patients=of.get(name))).items()
        }
        for name, values in figures.items()
    }
    recordings = len({name for _, table, _ in parts for name in table["FileName"]})  # each once for each of seeds
    return {"figures": plain, "recordings": recordings, "patients": len(set(patients.tolist()))}


def _truth(facts: dict[str, Any], table: Any) -> np.ndarray:
    if facts["task"] == "regression":
        return table[facts["column"]].to_numpy(np.float64)
    place = {number: k for k, number in enumerate(facts["class_ids"])}
    return np.array([place[number] for number in table["class_id"].astype(int)])
