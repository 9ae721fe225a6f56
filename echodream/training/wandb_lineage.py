"""What a training run tells its loggers beyond its metrics: how it is configured, what it read, what it made."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from echodream.artifact import FACTS, Artifact
from echodream.callbacks.pictures import send_picture
from echodream.callbacks.tracking import CHARTS, Wandb
from echodream.runs.atomic_folder import read_record
from echodream.runs.redaction import redact_absolute_paths
from echodream.store.checksums import file_sha256
from echodream.store.schema import CHECKSUMS, read_dataset

SHORT = 12
"""Digits of a fingerprint in a name."""


def loggers_of(cfg: DictConfig, folder: Path, artifact: Artifact, recipe: str) -> list[Logger]:
    """The loggers of ``cfg``. Those that keep lineage know the run by its ``folder`` and settings, and its ``recipe``.

    The same command in the same place is the same run. Absolute paths are left out: they may name a patient.
    """
    loggers: list[Logger] = [instantiate(logger) for logger in (cfg.logger or {}).values() if logger]
    for logger in _tracking(loggers):
        logger.known_as(run_id(folder, artifact.settings), configured(recipe, artifact))
        _read(logger, cfg, artifact)
    return loggers


def run_id(folder: Path, settings: str) -> str:
    """A function of where a run is and what it does: a resumed run keeps it."""
    return hashlib.sha256(f"{folder.absolute()} {settings}".encode()).hexdigest()[:16]


def configured(recipe: str, artifact: Artifact) -> dict[str, Any]:
    """The resolved configuration, with the command and the version of the code, without absolute paths."""
    facts = {"command": artifact.command, "code_version": artifact.code_version, "settings": artifact.settings}
    found: Any = OmegaConf.to_container(OmegaConf.create(recipe))
    cleaned: dict[str, Any] = shareable({**found, "run": facts})
    return cleaned


def shareable(value: Any) -> Any:
    """``value``, of mappings, lists and scalars, without absolute paths."""
    if isinstance(value, dict):
        return {str(key): shareable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [shareable(item) for item in value]
    return redact_absolute_paths(value) if isinstance(value, str) else value


def made(loggers: list[Logger], dst: Path) -> None:
    """Record the artifact that the run has left at ``dst``, and the figures that were drawn of it."""
    for path in sorted(dst.glob("*.png")):
        send_picture(loggers, path.stem, np.asarray(Image.open(path).convert("RGB")), 0, CHARTS)
    for logger in _tracking(loggers):
        facts = shareable(read_record(dst / FACTS) or {})
        logger.made(named_model(facts), "model", facts, dst)


def named_model(facts: dict[str, Any]) -> str:
    """What the model of an artifact.json is called: what it is, and the first digits of its weights' fingerprint."""
    return f"{facts['model']}-{facts['fingerprint'][:SHORT]}"


@rank_zero_only
def _read(logger: Wandb, cfg: DictConfig, artifact: Artifact) -> None:
    """Record the stores that are learnt from, and who made them."""
    for folder in filter(None, (cfg.src, cfg.datamodule.get("synthetic"))):
        store_used(logger, Path(folder), cfg.data.name)


def store_used(logger: Wandb, folder: Path, study: str) -> None:
    """Record that the store at ``folder`` was read, and the models that it names as those that made it."""
    dataset = read_dataset(folder)
    fingerprint = file_sha256(folder / CHECKSUMS)
    facts = {"fingerprint": fingerprint, "study": study, "kind": dataset.kind, "synthetic": dataset.synthetic}
    facts |= {"command": redact_absolute_paths(dataset.command), "code_version": dataset.code_version}
    drawn = dataset.settings
    while isinstance(drawn.get("samples"), dict):  # a filter's settings hold those of what it looked at
        drawn = drawn["samples"]
    makers = {"vae": dataset.encoder or dataset.settings.get("decoder"), "source": dataset.settings.get("source")}
    makers |= {"drawn by": drawn.get("model")}
    logger.uses(f"store-{fingerprint[:SHORT]}", "dataset", facts | {"made of": makers})
    if makers["vae"]:
        logger.uses(f"vae-{makers['vae'][:SHORT]}", "model", {"fingerprint": makers["vae"], "study": study})


def _tracking(loggers: list[Logger]) -> list[Wandb]:
    return [logger for logger in loggers if isinstance(logger, Wandb)]
