"""Weights of networks: reading without running code, strict loading, and fingerprints."""

import hashlib
import json
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from echodream.errors import UserError

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


def fingerprint(network: nn.Module) -> str:
    """SHA-256 over the names, shapes and float32 values of all weights of ``network``."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()


def read_weights(path: str, sha256: str | None = None) -> dict[str, Tensor]:
    """Read a safetensors or torch file. Raises ``UserError`` for a missing or unsafe file, or a wrong ``sha256``."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = Path(path)
    if not file.is_file():
        raise UserError(f"{path} does not exist: give the path of a local weight file")
    if sha256 is not None:
        with file.open("rb") as handle:
            actual = hashlib.file_digest(handle, "sha256").hexdigest()
        if actual != sha256:
            raise UserError(f"{path} has SHA-256 {actual}, expected {sha256}: it is another file, or damaged")
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        with file.open("rb") as handle:
            is_pickle = handle.read(1) in (b"P", b"\x80")  # zip file, or file of torch before 1.6
        if is_pickle and isinstance(error, pickle.UnpicklingError):
            problem = "contains more than weights, and opening it would run code: convert it to safetensors"
        else:
            problem = "is not a readable weight file: it is damaged or of another kind"
        raise UserError(f"{path} {problem}") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} has no state dict of tensors: give a file of weights")
    return state


def save_weights(network: nn.Module, path: Path) -> None:
    """Write the weights of ``network`` to ``path`` as safetensors."""
    from safetensors.torch import save_file

    save_file({name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}, path)


def save_network(network: nn.Module, folder: Path, config: Mapping[str, Any]) -> None:
    """Write the weights of ``network`` and its ``config`` as model.safetensors and config.json in ``folder``."""
    save_weights(network, folder / WEIGHTS_FILE)
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def diffusers_weights_file(folder: Path) -> str:
    """Path of the weights in a ``folder`` that diffusers wrote. Raises ``UserError`` if there are no weights."""
    for suffix in (".safetensors", ".bin"):
        if (file := folder / f"diffusion_pytorch_model{suffix}").is_file():
            return str(file)
    raise UserError(f"{folder} has no diffusion_pytorch_model.safetensors or .bin: give a diffusers folder")


VAE_REMEDY = "check vae.channels, vae.widths and vae.layers"


def load_strictly(network: nn.Module, state: dict[str, Tensor], path: str, remedy: str = VAE_REMEDY) -> None:
    """Load ``state``, the content of the file ``path``, into ``network``.

    Raises ``UserError`` for weights that are missing, unknown, of another shape or not finite. ``remedy`` ends the
    message about weights of another architecture.
    """
    expected = network.state_dict()
    missing, unknown = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    if missing or unknown:
        raise UserError(mismatch_message(path, missing, unknown, remedy))
    for name, value in state.items():
        if value.shape != expected[name].shape:
            shapes = f"{tuple(value.shape)}, this architecture has {tuple(expected[name].shape)}"
            raise UserError(f"{path}: {name} is {shapes}: {remedy}")
        if not torch.isfinite(value).all():
            raise UserError(f"{path}: {name} is not finite: the training failed, use other weights")
    network.load_state_dict(state)


def mismatch_message(path: str, missing: Iterable[str], unknown: Iterable[str], remedy: str = VAE_REMEDY) -> str:
    """Error message about ``missing`` and ``unknown`` weights in the file ``path``, with the ``remedy`` at the end."""
    mismatches = [
        f"{len(names)} weights are {problem} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for problem, names in (("missing", list(missing)), ("unknown", list(unknown)))
        if names
    ]
    return f"{path} does not fit this architecture: {' and '.join(mismatches)}; {remedy}"
