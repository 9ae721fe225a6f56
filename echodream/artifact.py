"""Artifacts: folders with the weights and metadata of a trained model, readable without echodream and without pickle.

models/<study>/<model>/
  config.json, diffusion_pytorch_model.safetensors   as diffusers saves a network
  artifact.json                                       model, study, fingerprint, metrics, command, code version
  training.yaml                                       the resolved configuration
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from echodream.errors import UserError

METADATA_FILE = "artifact.json"
TRAINING_FILE = "training.yaml"


@dataclass(frozen=True)
class Artifact:
    """Metadata of a trained model: the content of ``artifact.json``."""

    model: str
    study: str
    fingerprint: str
    """SHA-256 of the weights (``weights.fingerprint``)."""
    settings: str
    """SHA-256 of the training settings (``settings_hash``); a model with equal settings is not trained again."""
    metrics: dict[str, float] = field(default_factory=dict)
    command: str = ""
    code_version: str = ""
    source: str = ""
    """SHA-256 of the checksums of the training store, which identifies the training patients."""
    origin: str = ""
    """SHA-256 of the checksums of the store from which the training store was encoded or decoded; "" if unknown."""
    canaries: str = ""
    """Digest of the canaries (patients who are in training at random, ``Canaries.digest``); "" without canaries."""
    privacy: dict[str, Any] | None = None
    """Epsilon, delta, accountant and noise of a differentially private training (``PrivateTraining.record``)."""
    initial: dict[str, Any] | None = None
    """``lineage_record()`` of the artifact whose weights the training began with; None is not written."""

    def lineage_record(self) -> dict[str, Any]:
        """Record of this model for the artifact of a model that is trained from the weights of this model."""
        return {name: getattr(self, name) for name in ("fingerprint", "source", "origin", "initial")}

    def lineage(self) -> list[dict[str, Any]]:
        """Records of this model, of its initial model, of the initial model of the initial model, and so on."""
        found: list[dict[str, Any]] = []
        record: dict[str, Any] | None = self.lineage_record()
        while record:
            found.append(record)
            record = record.get("initial")
        return found


def write_artifact(root: str | Path, artifact: Artifact, config: str, save: Callable[[Path], None]) -> None:
    """Write an artifact atomically; ``save(folder)`` writes the network. Raises ``UserError`` if ``root`` exists."""
    root = Path(root)
    if root.exists():
        raise UserError(f"{root} was meanwhile written by another run: run the same command with another dst=")
    partial = root.with_name(root.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save(partial)
    (partial / TRAINING_FILE).write_text(config, encoding="utf-8")
    record = asdict(artifact)
    if artifact.initial is None:
        del record["initial"]
    (partial / METADATA_FILE).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    partial.rename(root)


def read_artifact(root: str | Path, *models: str) -> Artifact:
    """Read ``artifact.json`` in ``root``. Raises ``UserError`` for an unreadable file or another model."""
    path = Path(root) / METADATA_FILE
    try:
        artifact = Artifact(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        remedy = f"train one with train.py model={models[0]}, or give its folder"
        raise UserError(f"{root} has no {models[0]}: {remedy}") from error
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read: train the {models[0]} again") from error
    if artifact.model not in models:
        raise UserError(f"{root} contains a {artifact.model} model: give the folder of a {' or '.join(models)} model")
    return artifact
