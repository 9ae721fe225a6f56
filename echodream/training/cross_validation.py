"""Cross-validation: one training run per fold and seed, and an artifact with all runs and their pooled metrics."""

import hashlib
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig
from scipy.special import softmax

from echodream import validation
from echodream.artifact import Artifact, write_artifact
from echodream.errors import UserError
from echodream.evaluation.classifier_inference import open_classifier, predict_split
from echodream.metrics.bootstrap import bootstrap_interval, bootstrap_weights
from echodream.metrics.classification import multiclass_metrics, multiclass_patients
from echodream.metrics.regression import regression_metrics
from echodream.networks.classifiers import RUNS_FILE
from echodream.runs.atomic_folder import is_first_process, write_record
from echodream.store.checksums import file_sha256
from echodream.store.schema import CHECKSUMS
from echodream.training.fit import metric_lines, train_model, training_yaml

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingRun:
    """A training run of a cross-validation, named ``fold_<k>_seed_<s>``, ``fold_<k>`` or ``seed_<s>``."""

    name: str
    seed: int
    fold: int | None


def is_cross_validation(cfg: DictConfig) -> bool:
    """Whether ``cfg`` has several folds or seeds."""
    runs = cfg.model.get("runs") or {}
    return cfg.datamodule.get("fold") is None and any(value is not None for value in runs.values())


def list_runs(cfg: DictConfig) -> list[TrainingRun]:
    """Runs of the cross-validation ``cfg``, by fold, then seed. Raises ``UserError`` for invalid folds or seeds."""
    folds, seeds = cfg.model.runs.folds, cfg.model.runs.seeds
    if folds is not None:
        validation.whole_number("folds", folds, 3, note=", or null for the study's own splits")
    if seeds is not None and (isinstance(seeds, str | int) or not len(seeds) or len(set(seeds)) < len(seeds)):
        raise UserError(f"seeds is {seeds!r}: give a list of different whole numbers, such as [0,1,2]")
    for seed in seeds or ():
        validation.whole_number("an entry of seeds", seed, 0)
    runs: list[TrainingRun] = []
    for fold in range(folds) if folds is not None else [None]:
        for seed in seeds if seeds is not None else [cfg.seed]:
            labels = [f"fold_{fold}"] * (fold is not None) + [f"seed_{seed}"] * (seeds is not None)
            runs.append(TrainingRun("_".join(labels), seed, fold))
    return runs


def cross_validate(cfg: DictConfig, folder: Path, settings: str, command: str, code_version: str) -> dict[str, float]:
    """Train each run in a subfolder of ``folder``, then write all artifacts and the metrics to ``cfg.dst``.

    Complete runs are not repeated. Returns the mean of each metric over runs, and its standard deviation as
    ``<metric>_std``.
    """
    runs, run_metrics = list_runs(cfg), {}
    for number, run in enumerate(runs, 1):
        log.info("train: run %d of %d, %s", number, len(runs), run.name)
        run_settings = hashlib.sha256(f"{settings} {run.name}".encode()).hexdigest()
        run_cfg = run_config(cfg, run, folder / run.name)
        run_metrics[run.name] = train_model(run_cfg, folder / run.name, run_settings, command, code_version)
    metrics = mean_and_std(list(run_metrics.values()))
    record = {"runs": run_metrics, "over runs": metrics}
    if cfg.model.runs.folds is not None:
        record["together"] = pooled_metrics(cfg, folder, runs)
    source = file_sha256(Path(cfg.src) / CHECKSUMS)
    artifact = Artifact(cfg.model.name, cfg.data.name, "", settings, metrics, command, code_version, source)

    def save(root: Path) -> None:
        for run in runs:
            shutil.copytree(folder / run.name / "artifact", root / run.name)
        write_record(root / RUNS_FILE, record)

    if is_first_process():
        write_artifact(cfg.dst, artifact, training_yaml(cfg), save)
        log.info("train: %s done, %d runs\n%s", cfg.dst, len(runs), metric_lines(metrics))
    return metrics


def run_config(cfg: DictConfig, run: TrainingRun, folder: Path) -> DictConfig:
    """Configuration of one ``run`` of the cross-validation ``cfg``; the run writes its artifact to ``folder``."""
    run_cfg = cfg.copy()
    run_cfg.seed = run_cfg.datamodule.seed = run.seed
    run_cfg.datamodule.fold, run_cfg.datamodule.folds = run.fold, cfg.model.runs.folds
    run_cfg.model.runs.seeds = run_cfg.model.runs.folds = None
    run_cfg.dst, run_cfg.callbacks.checkpoint.dirpath = str(folder / "artifact"), str(folder)
    for logger in (run_cfg.logger or {}).values():
        if logger is not None and "save_dir" in logger:
            logger.save_dir = str(Path(logger.save_dir) / run.name)
    return run_cfg


def mean_and_std(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean of each metric that all ``runs`` have in common, and its standard deviation as ``<metric>_std``."""
    names = [name for name in runs[0] if all(name in metrics for metrics in runs)]
    summary = {name: round(float(np.mean([metrics[name] for metrics in runs])), 6) for name in names}
    if len(runs) > 1:
        summary |= {f"{n}_std": round(float(np.std([m[n] for m in runs], ddof=1)), 6) for n in names}
    return summary


def pooled_metrics(cfg: DictConfig, folder: Path, runs: Sequence[TrainingRun]) -> dict[str, Any]:
    """Metrics with intervals over the test patients of all folds; no model predicts its training patients."""
    predictions = []
    for run in runs:
        data = instantiate(run_config(cfg, run, folder / run.name).datamodule)
        model = open_classifier(str(folder / run.name / "artifact"))
        table, logits = predict_split(model, data.store, "TEST", data.batch_size)
        predictions.append((model.metadata, table, logits))
    metadata = predictions[0][0]
    patients = np.concatenate([table["PatientID"].astype(str).to_numpy() for _, table, _ in predictions])
    outputs = np.concatenate([logits for _, _, logits in predictions])
    weights = bootstrap_weights(patients, cfg.model.repeats)
    truth = np.concatenate([_true_values(metadata, table) for _, table, _ in predictions])
    if metadata["task"] == "regression":
        metrics, metric_patients = regression_metrics(outputs[:, 0], truth, weights), {}
    else:
        metrics = multiclass_metrics(softmax(outputs, axis=1), truth, metadata["class_names"], weights)
        metric_patients = multiclass_patients(truth, metadata["class_names"], patients)
    intervals = {
        name: asdict(bootstrap_interval(values, patients=metric_patients.get(name))) for name, values in metrics.items()
    }
    recordings = len({name for _, table, _ in predictions for name in table["FileName"]})
    return {"figures": intervals, "recordings": recordings, "patients": len(set(patients.tolist()))}


def _true_values(metadata: dict[str, Any], table: Any) -> np.ndarray:
    """True value (regression) or true class index of each row of ``table``."""
    if metadata["task"] == "regression":
        return table[metadata["column"]].to_numpy(np.float64)
    index = {class_id: index for index, class_id in enumerate(metadata["class_ids"])}
    return np.array([index[class_id] for class_id in table["class_id"].astype(int)])
