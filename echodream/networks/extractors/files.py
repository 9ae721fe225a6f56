"""Weights of published extractors, from local files: nothing is downloaded."""

import hashlib
from pathlib import Path

from torch import nn

from echodream.errors import UserError
from echodream.weights import load_exactly, read_weights


def sha256(path: str) -> str:
    """Of a file; of a folder, of its safetensors files by name."""
    given = Path(path)
    files = sorted(given.glob("*.safetensors")) if given.is_dir() else [given]
    digests = []
    for file in files:
        with file.open("rb") as handle:
            digests.append(hashlib.file_digest(handle, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()


def load_file_exactly(network: nn.Module, path: str, where: str) -> None:
    """Load the weights at ``path``, all of them and no others. ``UserError`` ends in ``where`` they are published."""
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist: {where}")
    state, own = read_weights(path), network.state_dict()
    counters = {name: own[name] for name in own if name.endswith("num_batches_tracked") and name not in state}
    load_exactly(network, {**state, **counters}, path, where)
