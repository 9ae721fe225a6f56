"""Lineage of a training run for its loggers: configuration, input stores and models, output artifact."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from echodream.artifact import METADATA_FILE, Artifact
from echodream.callbacks.image_logging import send_image
from echodream.callbacks.wandb_logger import CHARTS, PrivateWandbLogger
from echodream.runs.atomic_folder import read_record
from echodream.runs.redaction import redact_absolute_paths
from echodream.store.checksums import file_sha256
from echodream.store.schema import CHECKSUMS, read_dataset

SHORT = 12
"""Digits of a fingerprint in the name of a W&B artifact."""


def make_loggers(cfg: DictConfig, folder: Path, artifact: Artifact, config: str) -> list[Logger]:
    """The loggers of ``cfg``; W&B gets ``config`` (yaml), inputs, and an id that depends on folder and settings."""
    loggers: list[Logger] = [instantiate(logger) for logger in (cfg.logger or {}).values() if logger]
    run = {"command": artifact.command, "code_version": artifact.code_version, "settings": artifact.settings}
    resolved: Any = OmegaConf.to_container(OmegaConf.create(config))
    for logger in _wandb_loggers(loggers):
        logger.set_run(run_id(folder, artifact.settings), redact_values({**resolved, "run": run}))
        _log_inputs(logger, cfg)
    return loggers


def run_id(folder: Path, settings: str) -> str:
    """The id of a run in ``folder`` with the hash ``settings``; a resumed run has the same id."""
    return hashlib.sha256(f"{folder.absolute()} {settings}".encode()).hexdigest()[:16]


def redact_values(value: Any) -> Any:
    """``value``, made of mappings, lists and scalars, without absolute paths."""
    if isinstance(value, dict):
        return {str(key): redact_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_values(item) for item in value]
    return redact_absolute_paths(value) if isinstance(value, str) else value


def log_artifact(loggers: list[Logger], folder: Path) -> None:
    """Log the trained artifact in ``folder`` and its plots."""
    for path in sorted(folder.glob("*.png")):
        send_image(loggers, path.stem, np.asarray(Image.open(path).convert("RGB")), 0, CHARTS)
    for logger in _wandb_loggers(loggers):
        metadata = redact_values(read_record(folder / METADATA_FILE) or {})
        logger.log_output(model_name(metadata), "model", metadata, folder)


def model_name(metadata: dict[str, Any]) -> str:
    """Name of a model at W&B: kind of model, and the first digits of the fingerprint of its weights."""
    return f"{metadata['model']}-{metadata['fingerprint'][:SHORT]}"


@rank_zero_only
def _log_inputs(logger: PrivateWandbLogger, cfg: DictConfig) -> None:
    """Log the stores that the training reads, and the models that made them."""
    for folder in filter(None, (cfg.src, cfg.datamodule.get("synthetic"))):
        log_store_input(logger, Path(folder), cfg.data.name)


def log_store_input(logger: PrivateWandbLogger, folder: Path, study: str) -> None:
    """Log that the run has read the store in ``folder``, and the models that made it."""
    dataset = read_dataset(folder)
    fingerprint = file_sha256(folder / CHECKSUMS)
    metadata = {"fingerprint": fingerprint, "study": study, "kind": dataset.kind, "synthetic": dataset.synthetic}
    metadata |= {"command": redact_absolute_paths(dataset.command), "code_version": dataset.code_version}
    sampling = dataset.settings
    while isinstance(sampling.get("samples"), dict):  # the settings of a filter contain those of its input
        sampling = sampling["samples"]
    makers = {"vae": dataset.encoder or dataset.settings.get("decoder"), "source": dataset.settings.get("source")}
    makers |= {"drawn by": sampling.get("model")}
    logger.log_input(f"store-{fingerprint[:SHORT]}", "dataset", metadata | {"made of": makers})
    if makers["vae"]:
        logger.log_input(f"vae-{makers['vae'][:SHORT]}", "model", {"fingerprint": makers["vae"], "study": study})


def _wandb_loggers(loggers: list[Logger]) -> list[PrivateWandbLogger]:
    return [logger for logger in loggers if isinstance(logger, PrivateWandbLogger)]
