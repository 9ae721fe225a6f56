"""A study of pulsating discs, synthetic sets and a classifier, for tests of ``stage=evaluate``."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from echodream import engine
from echodream.artifact import Artifact, write_artifact
from echodream.config.paths import CONF_DIR
from echodream.networks.classifiers import Classifier
from echodream.store import Dataset, Store, StoreWriter
from echodream.store.video import write_video
from echodream.weights import fingerprint

H, W = 20, 28
IDS, NAMES = [2, 5], ["two", "five"]
SIDES = {"TRAIN": 20, "VAL": 2, "TEST": 18}


def beating(number: int, frames: int) -> np.ndarray:
    """A pulsating dark disc with rate and brightness from ``number``: uint8 (F, H, W, 1)."""
    rng = np.random.default_rng(number)
    rate = 60 + 4 * (number % 7)
    radius = 6 + 1.5 * np.cos(2 * np.pi * rate / 60 * np.arange(frames) / 32.0 + number)
    y, x = np.mgrid[:H, :W]
    inside = np.hypot(y - H / 2, x - W / 2)[None] < radius[:, None, None]
    pixels = np.where(inside, 20, 90 + 6 * (number % 11)) + rng.integers(0, 20, (frames, H, W))
    return pixels[..., None].astype(np.uint8)


def write(
    root: Path, splits: list[str], first: int = 0, synthetic: bool = False, frames: int = 50, **more: Any
) -> Store:
    """Write a store with a row for each of ``splits``; ``more``: column -> function of the row index, or None."""
    dataset = Dataset(kind="video", channels=1, height=H, width=W, synthetic=synthetic)
    columns = {"class_id": lambda k: IDS[k % 2], **more}
    with StoreWriter(root, dataset) as writer:
        for k, split in enumerate(splits):
            pixels = beating(first + k, frames + k % 3)
            write_video(writer.scratch_path(f"r{k:02d}"), pixels, 32.0)
            row = {"FileName": f"r{k:02d}", "Split": split, "PatientID": f"p{first + k}", "FPS": 32.0}
            row |= {"NumberOfFrames": len(pixels), "FrameHeight": H, "FrameWidth": W}
            given = {name: make(k) for name, make in columns.items() if make is not None}
            writer.commit({**row, **given}, writer.scratch_path(f"r{k:02d}"))
        return writer.finish([f"r{k:02d}" for k in range(len(splits))])


def classifier(root: Path, **changes: Any) -> Path:
    """Write a classifier artifact with random weights."""
    torch.manual_seed(1)
    network = Classifier(2, 1, 2, [4, 6, 8, 5], [1, 1, 1, 1], [3, 3], [2, 2], False).eval()
    with torch.no_grad():
        network.head.weight.mul_(30)
    facts = {"class_ids": IDS, "class_names": NAMES, "frames": 4, "stride": 3, "height": H, "width": W, **changes}
    made = Artifact("classifier", "beats", fingerprint(network), "0" * 64)
    write_artifact(root, made, "seed: 0\n", lambda folder: network.save(folder, facts))
    return root


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write(folder / "real", [split for split, count in SIDES.items() for _ in range(count)])
    joins = {"Joins": lambda k: "" if k == 3 else f"{10 + k} 30"}
    write(folder / "videos", ["TRAIN"] * 18, 100, synthetic=True, **joins)
    write(folder / "images", ["TRAIN"] * 30, 200, synthetic=True, frames=1)
    classifier(folder / "classifier")
    return folder


def evaluate(folder: Path, *overrides: str) -> tuple[dict[str, Any], str]:
    """Run ``stage=evaluate``; returns the written record and the printed summary."""
    fixed = ["stage=evaluate", f"real={folder}/real", f"artifact={folder}/classifier", f"dst={folder}/report"]
    fixed += [
        "notes=null",
        "audit=null",
        "autoencoder=null",
        "further=null",
        "then=null",
        'extractors=["encoder:${artifact}"]',
    ]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("sample", [*fixed, f"videos={folder}/videos", *overrides])
    said = str(engine.sample(cfg))
    return json.loads((folder / "report" / "evaluation.json").read_text()), said
