"""Lineage of a training run for Weights & Biases: configuration, input stores and models, output artifact."""

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

FINGERPRINT_DIGITS = 12
"""Number of digits of a fingerprint in the name of a W&B artifact."""


def make_loggers(cfg: DictConfig, folder: Path, artifact: Artifact, config: str) -> list[Logger]:
    """Loggers of ``cfg``. The W&B logger receives the yaml ``config``, the input stores, and the run id."""
    loggers: list[Logger] = [instantiate(logger) for logger in (cfg.logger or {}).values() if logger]
    run = {"command": artifact.command, "code_version": artifact.code_version, "settings": artifact.settings}
    resolved: Any = OmegaConf.to_container(OmegaConf.create(config))
    for logger in _wandb_loggers(loggers):
        logger.set_run(run_id(folder, artifact.settings), redact_values({**resolved, "run": run}))
        for store in filter(None, (cfg.src, cfg.datamodule.get("synthetic"))):
            log_store_input(logger, Path(store), cfg.data.name)
    return loggers


def run_id(folder: Path, settings: str) -> str:
    """W&B id of the run in ``folder`` with the hash ``settings``; a resumed run has the same id."""
    return hashlib.sha256(f"{folder.absolute()} {settings}".encode()).hexdigest()[:16]


def redact_values(value: Any) -> Any:
    """Copy of ``value``, nested dicts, lists and scalars, with absolute paths replaced by "..."."""
    if isinstance(value, dict):
        return {str(key): redact_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_values(item) for item in value]
    return redact_absolute_paths(value) if isinstance(value, str) else value


def log_artifact(loggers: list[Logger], folder: Path) -> None:
    """Log plots and metadata of the artifact in ``folder``, which W&B also records as output of the run."""
    for path in sorted(folder.glob("*.png")):
        send_image(loggers, path.stem, np.asarray(Image.open(path).convert("RGB")), 0, CHARTS)
    for logger in _wandb_loggers(loggers):
        metadata = redact_values(read_record(folder / METADATA_FILE) or {})
        logger.log_output(model_name(metadata), "model", metadata, folder)


def model_name(metadata: dict[str, Any]) -> str:
    """Name of a model at W&B: type of model and the first digits of the fingerprint of its weights."""
    return f"{metadata['model']}-{metadata['fingerprint'][:FINGERPRINT_DIGITS]}"


@rank_zero_only
def log_store_input(logger: PrivateWandbLogger, folder: Path, study: str) -> None:
    """Record the store ``folder`` and its VAE as inputs of the W&B run."""
    dataset = read_dataset(folder)
    fingerprint = file_sha256(folder / CHECKSUMS)
    vae, sampler = dataset.encoder or dataset.settings.get("decoder"), dataset.sampling_settings.get("model")
    metadata = {
        "fingerprint": fingerprint,
        "study": study,
        "kind": dataset.kind,
        "synthetic": dataset.synthetic,
        "command": redact_absolute_paths(dataset.command),
        "code_version": dataset.code_version,
        "derived from": {"vae": vae, "source": dataset.settings.get("source"), "sampled by": sampler},
    }
    logger.log_input(f"store-{fingerprint[:FINGERPRINT_DIGITS]}", "dataset", metadata)
    if vae:
        logger.log_input(f"vae-{vae[:FINGERPRINT_DIGITS]}", "model", {"fingerprint": vae, "study": study})


def _wandb_loggers(loggers: list[Logger]) -> list[PrivateWandbLogger]:
    return [logger for logger in loggers if isinstance(logger, PrivateWandbLogger)]
