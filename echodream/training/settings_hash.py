"""Hash of the settings that determine the weights of a model; an artifact with the same hash is not trained again."""

import hashlib
import logging
from functools import reduce
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from echodream import validation
from echodream.artifact import METADATA_FILE, TRAINING_FILE, read_artifact
from echodream.errors import UserError
from echodream.store.checksums import file_sha256
from echodream.store.schema import CHECKSUMS

log = logging.getLogger(__name__)

_HASHED_KEYS = ("model", "vae", "loss", "denoiser", "conditioning", "process", "view", "datamodule", "trainer", "seed")
_ADDITIONAL_STORE_KEYS = ("synthetic", "anonymised")
"""Keys of a datamodule that name stores other than src."""
_UNHASHED_SETTINGS = {
    "datamodule": ("src", "workers", "cache", *_ADDITIONAL_STORE_KEYS),
    "trainer": ("log_every_n_steps",),
    "model": ("vae", "fused", "module.optimizer.fused"),
}
"""Settings of the hashed groups that do not determine the weights, or whose files are hashed instead."""
_UNHASHED_VAE_SETTINGS = ("compile", "channels_last", "module.compile", "module.channels_last")
"""Settings of model=vae that change rounding only."""


def settings_hash(cfg: DictConfig) -> str:
    """SHA-256 of the recordings and of all settings that determine the weights, without output folders and logging."""
    paths = (OmegaConf.select(cfg, f"{network}.weights") for network in ("vae", "embedder", "denoiser", "backbone"))
    weights, checksums = Path(next(filter(None, paths), "/nowhere")), Path(cfg.src) / CHECKSUMS
    hashed: dict[str, Any] = {"source": file_sha256(checksums) if checksums.is_file() else cfg.src}
    for key in _HASHED_KEYS:
        hashed[key] = OmegaConf.to_container(cfg[key]) if OmegaConf.is_config(cfg.get(key)) else cfg.get(key)
    if hashed["datamodule"].get("cache") == "device":  # the device cache samples other noise
        hashed["device_cache"] = True
    for key, names in _UNHASHED_SETTINGS.items():
        for name in (*names, *_UNHASHED_VAE_SETTINGS * (key == "model" and cfg.model.name == "vae")):
            *parents, last = name.split(".")
            reduce(lambda node, parent: node.get(parent) or {}, parents, hashed[key]).pop(last, None)
    files = [*sorted([weights, *weights.glob("*")]), *(store / CHECKSUMS for store in _additional_stores(cfg))]
    hashed["weights"] = [file_sha256(path) for path in files if path.is_file()]
    if (teacher := OmegaConf.select(cfg, "model.module.teacher")) is not None:
        hashed["teacher"] = read_artifact(teacher, cfg.model.name).fingerprint
        del hashed["model"]["module"]["teacher"]
    if hashed["trainer"].get("precision") == "auto":
        hashed["trainer"]["precision"] = "32-true"  # the former default; training.yaml has the actual precision
    if (hashed["trainer"].get("privacy") or {}).get("epsilon") is None:
        hashed["trainer"].pop("privacy", None)
    hashed["model"].pop("initial", None)
    if (initial := hashed["model"].get("module", {}).pop("initial", None)) is not None:
        hashed["initial"] = read_artifact(initial, cfg.model.name).fingerprint
    if cfg.get("canaries") is not None:
        hashed["canaries"] = cfg.canaries
    hashed["ema"] = OmegaConf.select(cfg, "callbacks.ema.decay")
    if early_stopping := OmegaConf.select(cfg, "callbacks.early_stopping"):
        hashed["early_stopping"] = str(early_stopping)
    text = OmegaConf.to_yaml(OmegaConf.create(_with_class_names(hashed)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def metrics_of_existing_artifact(cfg: DictConfig, settings: str) -> dict[str, float] | None:
    """Metrics of the artifact ``cfg.dst``; None if absent. Raises ``UserError`` for another ``settings`` hash."""
    dst = Path(cfg.dst)
    if not dst.exists():
        return None
    if not (dst / METADATA_FILE).is_file():
        raise UserError(f"{dst} exists and is not an artifact: remove it, or choose another dst=")
    artifact = read_artifact(dst, cfg.model.name)
    if artifact.settings != settings:
        raise UserError(f"{dst} was trained with other settings: choose another dst=, or remove it")
    precision, trained = str(cfg.trainer.get("precision")), _recorded_precision(dst)
    if precision != "auto" and trained not in (None, "auto", precision):
        raise UserError(f"{dst} was trained with trainer.precision={trained}: choose another dst=, or remove it")
    log.info("train: %s already complete, nothing to do", dst)
    return artifact.metrics


def _recorded_precision(folder: Path) -> str | None:
    """Precision in the training configuration of the artifact in ``folder``; None if it is not recorded."""
    file = folder / TRAINING_FILE
    config = OmegaConf.load(file) if file.is_file() else OmegaConf.create()
    precision = OmegaConf.select(config, "trainer.precision")
    return None if precision is None else str(precision)


def training_stores(cfg: DictConfig) -> list[Path]:
    """Stores that a training run reads."""
    return [Path(cfg.datamodule.src), *_additional_stores(cfg)]


def _additional_stores(cfg: DictConfig) -> list[Path]:
    return [Path(path) for key in _ADDITIONAL_STORE_KEYS for path in validation.path_list(cfg.datamodule.get(key))]


def _with_class_names(value: Any) -> Any:
    """Replace import paths of echodream's classes by class names, so that moving a class does not change the hash."""
    if isinstance(value, list):
        return [_with_class_names(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    replaced = {key: _with_class_names(entry) for key, entry in value.items()}
    if str(value.get("_target_")).startswith("echodream."):
        replaced["_target_"] = value["_target_"].rpartition(".")[2]
    return replaced
