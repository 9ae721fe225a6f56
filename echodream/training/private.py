"""Preparation of differentially private training (``trainer.privacy.epsilon=``): checks of settings, and secret key."""

import os
import secrets
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from echodream.artifact import METADATA_FILE, Artifact, read_artifact
from echodream.datamodules.datamodule import StoreData
from echodream.datamodules.dataset import ViewDataset
from echodream.datamodules.patient_batches import PatientBatches
from echodream.errors import UserError
from echodream.modules.distillation import Distillation
from echodream.modules.latent_diffusion import LatentDiffusion
from echodream.modules.private_training import PrivateTraining
from echodream.modules.trainable import Trainable
from echodream.privacy.private_steps import PrivacySettings, secret_seed
from echodream.store import Store
from echodream.store.checksums import file_sha256
from echodream.store.schema import CHECKSUMS, read_dataset

KEY_FILE = "privacy.key"
"""File, in the folder of a training run, with the secret key from which its random numbers are derived."""
_KEY_BYTES = 32


def privacy_settings(cfg: DictConfig) -> PrivacySettings | None:
    """Settings of private training of ``cfg``; None without an epsilon. Raises ``UserError`` for invalid settings."""
    settings: Any = OmegaConf.select(cfg, "trainer.privacy")
    if settings is None or settings.get("epsilon") is None:
        return None
    result = PrivacySettings(**settings)
    trainer = cfg.trainer
    if cfg.model.name not in ("lidm", "lvdm"):
        raise UserError(f"trainer.privacy.epsilon goes with model=lidm and model=lvdm, not with model={cfg.model.name}")
    if (trainer.devices, trainer.num_nodes) != (1, 1) or str(trainer.strategy) != "auto":
        raise UserError("trainer.privacy.epsilon is for one process: use trainer=default with trainer.devices=1")
    if str(trainer.precision) == "16-mixed" or trainer.get("accumulate_grad_batches", 1) != 1:
        remedy = "use trainer.precision=32-true or bf16-mixed, and trainer.privacy.patients for larger batches"
        raise UserError(f"trainer.privacy.epsilon cannot be combined with gradient scaling or accumulation: {remedy}")
    return result


def set_up_privacy(module: Trainable, data: StoreData, settings: PrivacySettings, cfg: DictConfig, work: Path) -> None:
    """Prepare ``module`` and ``data`` for differentially private training. Raises ``UserError`` if impossible."""
    if not isinstance(module, LatentDiffusion) or isinstance(module, Distillation):
        raise UserError("trainer.privacy.epsilon and distill= are incompatible: distill the model on public recordings")
    if module.auxiliary is not None:
        raise UserError("trainer.privacy.epsilon needs loss.auxiliary.weight=0: the auxiliary loss is not private")
    if any(isinstance(part, torch.nn.modules.batchnorm._BatchNorm) for part in module.modules()):
        raise UserError("trainer.privacy.epsilon needs a denoiser without batch normalization: choose another denoiser")
    if data.on_device:
        raise UserError("trainer.privacy.epsilon cannot be combined with datamodule.cache=device: give cache=true")
    _check_initial_models(cfg, data)
    samples = data.samples("TRAIN")
    sampling_rate = settings.sampling_rate(len(samples.rows.rows_by_patient))
    key = secret_key(work / KEY_FILE)
    own = ViewDataset(samples.rows, samples.view, secret_seed(key, "views"), data.columns, samples.augment)
    data.private_batches = PatientBatches(own, sampling_rate, settings.examples, key)
    module.use_private_steps(PrivateTraining(settings, sampling_rate, key))


def privacy_record(module: Trainable, cfg: DictConfig) -> dict[str, Any] | None:
    """The guarantee of the trained ``module``, for its artifact; None if its training was not private."""
    steps = module.private if isinstance(module, LatentDiffusion) else None
    if not isinstance(steps, PrivateTraining):
        return None
    return steps.guarantee_record(read_artifact(cfg.model.module.initial, cfg.model.name).fingerprint)


def _check_initial_models(cfg: DictConfig, data: StoreData) -> None:
    """Raise ``UserError`` unless the records of initial model and autoencoder exclude training on ``data``."""
    store, initial = data.store, OmegaConf.select(cfg, "model.module.initial")
    protected = _source_store_checksums(store)
    if initial is None:
        raise UserError(
            "trainer.privacy.epsilon needs model.initial=, a model that was trained on public recordings: its "
            "statistics and classes are not protected, and few patients cannot train a model from random weights"
        )
    public = read_artifact(initial, cfg.model.name)
    if _training_checksums(public, f"model.initial={initial}") & protected:
        raise UserError(f"model.initial={initial} was trained on {store.root}, the patients to protect")
    vae = str(cfg.model.vae)
    known = (Path(vae) / METADATA_FILE).is_file()
    artifact = read_artifact(vae, "vae") if known else None
    if artifact is None or artifact.fingerprint != store.dataset.encoder:
        problem = f"model.vae={vae} is not the autoencoder that encoded {store.root}"
        raise UserError(f"{problem}: give that autoencoder, whose training patients are known")
    if _training_checksums(artifact, f"model.vae={vae}") & protected or not store.dataset.settings.get("source"):
        problem = f"model.vae={vae}, which encoded {store.root}, may have been trained on the same patients"
        raise UserError(f"{problem}: encode with an autoencoder of public recordings (stage=encode artifact=...)")


def _training_checksums(artifact: Artifact, what: str) -> set[str]:
    """Checksums of the training stores of ``artifact`` and its initial models. Raises ``UserError`` if not recorded."""
    records = artifact.lineage()
    if not all(record["source"] for record in records):
        raise UserError(f"{what} does not record all its training patients: give a model that train.py trained")
    return {str(record[name]) for record in records for name in ("source", "origin")} - {""}


def _source_store_checksums(store: Store) -> set[str]:
    """Checksums of ``store`` and of its source stores, by dataset.json of ``store`` and of the stores next to it."""
    folders = {file_sha256(path): path.parent for path in sorted(store.root.resolve().parent.glob(f"*/{CHECKSUMS}"))}
    found, waiting = set[str](), [(store.checksum, store.dataset.settings)]
    while waiting:
        checksum, settings = waiting.pop()
        found.add(checksum)
        records = [settings, *(settings.get(name) for name in ("keyframes", "labels"))]
        names = ("source", "videos", "onto", "selected_from")
        parents = [record.get(name) for record in records if isinstance(record, dict) for name in names]
        for parent in {value for value in parents if isinstance(value, str) and value} - found:
            waiting.append((parent, read_dataset(folders[parent]).settings if parent in folders else {}))
    return found


def secret_key(path: Path) -> bytes:
    """Read the key in the file ``path``, which is created with random bytes if it does not exist."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(_KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: remove its folder, and train again") from error
    if len(key) != _KEY_BYTES:
        raise UserError(f"{path} is not a key of {_KEY_BYTES} bytes: remove its folder, and train again")
    return key
