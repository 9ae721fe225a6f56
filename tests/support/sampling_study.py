"""Helpers that sample stores by stage=image and stage=video and check the samples."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from echodream import engine
from echodream.diffusion.model import DiffusionModel
from echodream.diffusion.processes.rectified_flow import RectifiedFlow
from echodream.errors import UserError
from echodream.store import Statistics, Store
from tests.support.tiny_diffusion import STATISTICS, C, Gaussian, artifact, latent_store, model, sample_cfg
from tests.support.tiny_vae import tiny_autoencoder
from tests.support.tiny_vae import write_vae_artifact as vae_artifact

ROOT = Path(__file__).resolve().parents[2]
MEAN, STD = np.reshape(STATISTICS.mean, (C, 1, 1)), np.reshape(STATISTICS.std, (C, 1, 1))
CONDITIONS = ("class_id", "EF", "view")


def study(folder: Path, conditions: tuple[str, ...] = ("class_id",), latents: bool = False, **more: Any) -> Path:
    """Write artifacts of an image model (lidm) and a video model (lvdm), and with ``latents`` a latent store."""
    folder.mkdir(exist_ok=True)
    artifact(folder / "lidm", model("lidm", conditions, **more), "lidm")
    artifact(folder / "lvdm", model("lvdm", ("reference", *conditions), **more), "lvdm")
    if latents:
        latent_store(folder / "latents")
    return folder


def image(folder: Path, *overrides: str, at: str = "images") -> Store:
    engine.sample(sample_cfg(folder, "image", f"dst={folder}/{at}", *overrides))
    return Store(folder / at)


def video(folder: Path, *overrides: str, at: str = "videos") -> Store:
    engine.sample(sample_cfg(folder, "video", f"dst={folder}/{at}", *overrides))
    return Store(folder / at)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def whitened(store: Store) -> list[np.ndarray]:
    """Whitened latents of each recording, float64 (F, C, H, W)."""
    found = [store.latents(name)[0].numpy().astype(np.float64) for name in store.table["FileName"]]
    return [(latents - MEAN) / STD for latents in found]


def planted(patch: pytest.MonkeyPatch, mean: Callable[..., Tensor], std: float) -> Gaussian:
    stands = Gaussian(mean, std)
    patch.setattr(DiffusionModel, "forward", lambda own, *given: stands(own, *given))
    return stands


def same(left: Store, right: Store) -> None:
    """Check equal rows and latents, up to one unit in the last place of float16 (kernels depend on the batch size)."""
    assert left.table.equals(right.table)
    for name in left.table["FileName"]:
        (a, b), (c, d) = left.latents(name), right.latents(name)
        assert torch.allclose(a.float(), c.float(), rtol=2.0**-10, atol=1e-5)
        assert torch.equal(b, d)


def write_csv(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(rows) + "\n")
    return path


def command(folder: Path, stage: str, *overrides: str) -> list[str]:
    kind, places = {"image": ("lidm", []), "video": ("lvdm", [f"src={folder}/images"])}[stage]
    places += [f"dst={folder}/{stage}s", f"artifact={folder}/{kind}", f"paths.runs={folder}/runs"]
    fixed = [f"stage={stage}", "data=phantom", "workers=0", "trainer.accelerator=cpu"]
    return [sys.executable, str(ROOT / "sample.py"), *fixed, *places, *overrides]


def refused(words: str, run: Callable[[], Any], folder: Path, final: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        run()
    assert "\n" not in str(caught.value)
    assert not (folder / final).exists()


def ready_study(folder: Path) -> Path:
    """Models with class_id and EF, three images, and models with another process, encoder or statistics."""
    study(folder, ("class_id", "EF"), latents=True)
    image(folder, "n=3", "steps=1")
    artifact(folder / "flow", model("lidm", ("class_id", "EF"), process=RectifiedFlow()), "lidm")
    artifact(folder / "foreign", model("lidm", ("class_id", "EF"), encoder="ef" * 32), "lidm")
    other = Statistics((0.0,) * C, (1.0,) * C)
    made = model("lidm", ("class_id", "EF"))
    object.__setattr__(made.metadata, "statistics", other)
    artifact(folder / "scaled", made, "lidm")
    vae_artifact(folder / "vae", tiny_autoencoder())
    return folder
