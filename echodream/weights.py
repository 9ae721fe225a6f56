"""Weights: read from files without running code, loaded exactly, and fingerprinted."""

import hashlib
import json
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from echodream.errors import UserError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


def fingerprint(network: nn.Module) -> str:
    """SHA-256 over the names, shapes and values (as float32) of all weights: what a latent store calls its encoder."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()


def read_weights(path: str, sha256: str | None = None) -> dict[str, Tensor]:
    """A state dict from a safetensors file, or from a pickle that needs no code, checked against ``sha256``.

    Raises ``UserError`` when the file is absent, changed, or would run code when opened.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = Path(path)
    if not file.is_file():
        raise UserError(f"{path} does not exist: give the path of a local weight file")
    if sha256 is not None:
        with file.open("rb") as handle:
            found = hashlib.file_digest(handle, "sha256").hexdigest()
        if found != sha256:
            raise UserError(f"{path} has SHA-256 {found}, expected {sha256}: it is another file, or damaged")
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        with file.open("rb") as handle:
            is_pickle = handle.read(1) in (b"P", b"\x80")  # zipped, or as torch wrote it before 1.6
        if is_pickle and isinstance(error, pickle.UnpicklingError):
            what = "holds more than weights (opening it would run code): convert it to safetensors"
        else:
            what = "is not a readable weight file: it is damaged or of another kind"
        raise UserError(f"{path} {what}") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds no state dict of tensors")
    return state


def save_network(network: nn.Module, folder: Path, config: Mapping[str, Any]) -> None:
    """Write the weights of ``network`` to model.safetensors, and ``config`` to config.json."""
    from safetensors.torch import save_file

    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    save_file(state, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


VAE_REMEDY = "check vae.channels, vae.widths and vae.layers"


def load_exactly(network: nn.Module, state: dict[str, Tensor], path: str, remedy: str = VAE_REMEDY) -> None:
    """Load ``state``, read from ``path``. Raises ``UserError`` naming missing, extra, misshapen or infinite weights.

    ``remedy`` says what to do about an architecture that does not fit.
    """
    own = network.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or extra:
        raise UserError(mismatch(path, missing, extra, remedy))
    for name, value in state.items():
        if value.shape != own[name].shape:
            raise UserError(
                f"{path}: {name} is {tuple(value.shape)}, this architecture has {tuple(own[name].shape)}: {remedy}"
            )
        if not torch.isfinite(value).all():
            raise UserError(f"{path}: {name} is not finite: the weights are of a failed training, take others")
    network.load_state_dict(state)


def mismatch(path: str, missing: Iterable[str], extra: Iterable[str], remedy: str = VAE_REMEDY) -> str:
    """Which weights of the file ``path`` are missing and which are not known, as a sentence that ends in ``remedy``."""
    parts = [
        f"{len(names)} weights are {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in (("missing", list(missing)), ("not known", list(extra)))
        if names
    ]
    return f"{path} does not fit this architecture: {' and '.join(parts)}; {remedy}"
