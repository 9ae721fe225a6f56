"""A study in which each patient has a different texture, with all records that ``stage=report`` reads."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir

from echodream import engine
from echodream.config.paths import CONF_DIR
from echodream.runs.summary import Summary
from echodream.store import Dataset, Store, StoreWriter
from echodream.store.checksums import file_sha256
from echodream.store.latents import write_latents
from echodream.store.schema import CHECKSUMS
from echodream.store.video import write_video
from tests.support.stores import ENCODER

SIDE, FRAMES = 32, 9
CLASSES = ("ASD", "Non-ASD")
STATEMENT = "A copy passes with probability at most 5 %, with confidence 95 %. It is not differential privacy."


def texture(seed: int, frames: int = FRAMES) -> np.ndarray:
    """uint8 (F, H, W, 1): blocks of 4 x 4 pixels that H.264 preserves, with a small motion."""
    blocks = np.random.default_rng([11, seed]).integers(0, 256, (SIDE // 4, SIDE // 4)).repeat(4, 0).repeat(4, 1)
    return np.stack([np.roll(blocks, frame % 3, axis=1) for frame in range(frames)])[..., None].astype(np.uint8)


def _row(name: str, patient: str, split: str, kind: int, **more: Any) -> dict[str, Any]:
    size = {"NumberOfFrames": FRAMES, "FPS": 25.0, "FrameHeight": SIDE, "FrameWidth": SIDE}
    return {
        "FileName": name,
        "Split": split,
        "PatientID": patient,
        **size,
        "class_id": kind,
        "class_name": CLASSES[kind],
        **more,
    }


def real_store(root: Path) -> Store:
    """Write a store of ten patients with one recording each: six of TRAIN, four of TEST."""
    rows = [_row(f"rec{k:02}x", f"Doe-{k:03}q", "TRAIN" if k < 6 else "TEST", k % 2) for k in range(10)]
    with StoreWriter(
        root, Dataset(kind="video", channels=1, command="python sample.py stage=ingest data=phantom")
    ) as writer:
        for number, row in enumerate(rows):
            write_video(writer.scratch_path(row["FileName"]), texture(number), 25.0)
            writer.commit(row, writer.scratch_path(row["FileName"]))
        return writer.finish([row["FileName"] for row in rows])


def synthetic_stores(samples: Path, /, count: int = 6, passed: bool = True, command: str = "", **told: Any) -> Store:
    """Write the latents that passed the filter, and the decoded videos; ``told``: recorded settings of the filter."""
    rows = [_row(f"video-{k:06}", f"S{k:06}", "TRAIN", k % 2, PrivacyScore=0.5) for k in range(count)]
    settings: dict[str, Any] = {"decision": {"passed": passed}, **told}
    latent = Dataset(
        kind="latent",
        channels=4,
        layout="F,C,H,W",
        fidelity="float16",
        encoder=ENCODER,
        synthetic=True,
        settings=settings,
    )
    with StoreWriter(samples / "private_videos", latent) as writer:
        for row in rows:
            mean = np.zeros((FRAMES, 4, 4, 4), np.float16)
            write_latents(writer.scratch_path(row["FileName"]), mean, mean)
            writer.commit({**row, "FrameHeight": 4, "FrameWidth": 4}, writer.scratch_path(row["FileName"]))
        writer.finish([row["FileName"] for row in rows])
    source = {"source": file_sha256(samples / "private_videos" / CHECKSUMS)}
    made = Dataset(
        kind="video", channels=1, synthetic=True, settings=source, command=command or "python sample.py stage=decode"
    )
    with StoreWriter(samples / "videos", made) as writer:
        for number, row in enumerate(rows):
            write_video(writer.scratch_path(row["FileName"]), texture(1000 + number), 25.0)
            writer.commit(row, writer.scratch_path(row["FileName"]))
        return writer.finish([row["FileName"] for row in rows])


def number(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high}


def decision(**changed: Any) -> dict[str, Any]:
    """A filter decision as in filter.json; ``changed`` replaces values."""
    rows = [
        {"transform": name, "controls": 120, "passes": passes, "rate": passes / 120, "bound": bound, "lower": 0.0}
        for name, passes, bound in (("flip", 0, 0.025), ("shift", 1, 0.039), ("weakest of all", 1, 0.039))
    ]
    other = {"transform": "sdedit_50", "controls": 120, "passes": 99, "rate": 0.825, "bound": 0.88, "lower": 0.76}
    found = {"rule": "calibrated", "passed": True, "drawn": 8, "kept": 6, "rejected": 2, "tau": 0.8, "tries": 1}
    found |= {"statement": STATEMENT, "settings": {"alpha": 0.1, "beta": 0.05, "delta": 0.05}, "table": rows}
    return {**found, "reported": [other], "sizes": {"calibration_patients": 4}, **changed}


def records(reports: Path, **changed: Any) -> None:
    """Write filter_video, audit, evaluation.json and utility.json; ``changed``: values of the filter decision."""
    folder = reports / "filter_video"
    folder.mkdir(parents=True)
    controls = {"flip": {"kind": "pixels", "flip": True}, "shift": {"kind": "pixels", "shift": 0.04}}
    controls["sdedit_50"] = {"kind": "regenerated", "strength": 0.5}
    command = "python sample.py stage=filter data=phantom on=video"
    _json(
        folder / "filter.json",
        {"decision": decision(**changed), "controls": controls, "command": command, "code_version": "1"},
    )
    head = ["FileName", "Score", "PValue", "Kept", "NearestPatient", "NearestRecording", "NearestFrame"]
    nearest = [[f"video-{k:06}", 0.4 + 0.05 * k, 0.6, "true", f"Doe-{k:03}q", f"rec{k:02}x", 5] for k in range(6)]
    _csv(folder / "scores.csv", [head, *nearest, ["video-000090", 0.93, 0.2, "false", "Doe-001q", "rec01x", 2]])
    scored = [["calibration", f"Doe-{k:03}q", 0.3 + 0.1 * k] for k in range(4)] + [
        ["flip", f"Doe-{k:03}q", 0.95] for k in range(6)
    ]
    _csv(folder / "evidence.csv", [["Kind", "PatientID", "Score"], *scored])
    measure = {
        "name": "authenticity",
        "about": "privacy",
        "means": "share of samples",
        "harmless": "as new patients",
        "details": {},
    }
    measure |= {"value": number(0.1, 0.05, 0.2), "expected": number(0.1, 0.0, 0.3), "stands_out": False}
    drift = {"curve": [1.0, 0.9, 0.8, 0.7], "low": [1.0, 0.8, 0.7, 0.6], "high": [1.0, 0.95, 0.9, 0.8]}
    lost = {**measure, "name": "identity lost along a sample", "about": "quality", "details": {"samples": drift}}
    _json(
        reports / "audit" / "audit.json",
        {"measures": [measure, lost], "command": "python sample.py stage=audit data=phantom"},
    )
    near = {
        **number(2.0, 1.5, 2.5),
        "floor": number(1.0, 0.8, 1.2),
        "count": 50,
        "dimensions": 64,
        "warning": "Few videos.",
    }
    agreement = {**number(0.94, 0.87, 1.0), "floor": number(1.0, 0.9, 1.0), "warning": None}
    kernel = {**number(0.14, -0.3, 0.6), "floor": number(-0.2, -0.4, -0.1), "warning": None}
    beat = {"heart rate": {**number(70.0, 66.0, 74.0), "floor": number(72.0, 68.0, 76.0)}}
    beat["seam ratio"] = {**number(1.0, 0.9, 1.1), "floor": {"value": None, "low": None, "high": None}}
    videos = {"class agreement": agreement, "class agreement, ASD": agreement, "frechet[lite0]": near}
    videos["kernel[classifier]"] = kernel
    line = {"value": [3.0, 4.0, 3.0], "low": [2.0, 3.0, 2.0], "high": [4.0, 5.0, 4.0]}
    curves = {"frame difference": {"synthetic": line, "real": line}}
    _json(reports / "evaluation.json", {"protocol": {}, "videos": videos, "beat": beat, "curves": curves})
    sides = {
        side: {"auc": number(value, value - 0.1, 1.0)}
        for side, value in (("real", 0.9), ("synthetic", 0.81), ("both", 0.92))
    }
    ratio = {"synthetic": {"auc": number(0.9, 0.8, 0.97)}, "both": {"auc": number(1.02, 0.95, 1.1)}}
    _json(
        reports / "utility.json",
        {"tasks": {"ASD": {**sides, "ratio": ratio, "note": ""}}, "sizes": {"test": {"patients": 4}}},
    )


def _json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _csv(path: Path, rows: list[list[Any]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def study(root: Path) -> Path:
    """Write all inputs of stage=report below ``root``."""
    real_store(root / "data/phantom/videos")
    synthetic_stores(root / "samples/phantom")
    records(root / "reports/phantom")
    return root


def run(root: Path, *overrides: str) -> Summary:
    """Run ``stage=report`` on the study below ``root``."""
    paths = [f"paths.{name}={root}/{name}" for name in ("data", "models", "samples", "runs", "reports")]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return engine.sample(compose("sample", ["stage=report", "data=phantom", "notes=null", *paths, *overrides]))
