"""What a rerun is told at once, before anything heavy is imported: the store is there, and made as asked for.

Each function returns None where that is not certain: the stage itself then looks closer, and refuses other settings.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from echodream.errors import UserError
from echodream.stages.folder import RANKS
from echodream.stages.summary import Summary
from echodream.store import Store
from echodream.store.schema import CHECKSUMS, partial, read_dataset
from echodream.store.verify import digest


def encoded(*, src: str, dst: str, artifact: str, precision: str) -> Summary | None:
    """For ``stage=encode``: the latents at ``dst`` are those of ``src`` by the VAE at ``artifact``."""
    try:
        vae = _fingerprint(Path(artifact))
        settings = {"source": digest(Path(src) / CHECKSUMS), "precision": str(precision)}
        return _summary("encode", dst, {"kind": "latent", "encoder": vae, "settings": settings}, {"encoder": vae})
    except (UserError, OSError, ValueError):
        return None


def decoded(*, src: str, dst: str, artifact: str, grey: bool, precision: str) -> Summary | None:
    """For ``stage=decode``: the videos at ``dst`` are those of the latents ``src`` by the VAE at ``artifact``."""
    try:
        folder = Path(artifact)
        channels = 1 if grey else json.loads((folder / "config.json").read_text(encoding="utf-8")).get("out_channels")
        settings = {
            "source": digest(Path(src) / CHECKSUMS),
            "decoder": _fingerprint(folder),
            "precision": str(precision),
        }
        return _summary("decode", dst, {"kind": "video", "channels": channels, "settings": settings}, {})
    except (UserError, OSError, ValueError):
        return None


def _summary(stage: str, dst: str, asked: Mapping[str, Any], facts: Mapping[str, object]) -> Summary | None:
    made = read_dataset(Path(dst))
    if any(getattr(made, name) != value for name, value in asked.items()):
        return None
    if partial(Path(dst)).exists() or any(name in os.environ for name in RANKS):
        return None  # there is something to tidy up, or there are processes that wait for each other
    table = Store(dst).table
    counts = {"recordings": len(table), "frames": int(table["NumberOfFrames"].sum())}
    return Summary(f"{stage}: {dst} already complete, nothing to do", {**counts, **facts})


def _fingerprint(folder: Path) -> str:
    """``weights.fingerprint`` of a network as diffusers saves it, without torch. Raises ``ValueError``, ``OSError``."""
    from safetensors import SafetensorError, safe_open

    found = hashlib.sha256()
    try:
        with safe_open(folder / "diffusion_pytorch_model.safetensors", "numpy") as file:
            for name in sorted(file.keys()):
                value = file.get_tensor(name)
                found.update(f"{name} {tuple(value.shape)}\n".encode())
                found.update(value.astype("float32").tobytes())
    except (SafetensorError, TypeError, KeyError) as error:  # a damaged file, or numbers that numpy has not
        raise ValueError(f"{folder}: {error}") from error
    return found.hexdigest()
