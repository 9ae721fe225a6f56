"""Models that are accepted as the weaker model of autoguidance."""

from pathlib import Path
from typing import Any

import pytest

from echodream.diffusion.model import load_diffusion_model
from echodream.diffusion.processes.ddpm import DDPM
from echodream.diffusion.processes.rectified_flow import RectifiedFlow
from echodream.errors import UserError
from echodream.sampling.sample_store import load_weak_model
from echodream.store import Statistics
from tests.support.tiny_diffusion import artifact, model

TIMES = {"reference_times": (0.0, 3.0, 8.0)}
FITS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("lidm", {}, {"seed": 1}),
    ("lidm", {}, {"process": DDPM(min_snr=None)}),
    ("lidm", {}, {"process": DDPM(spacing="quadratic")}),
    ("lidm", {}, {"process": DDPM(least_weight=0.1)}),
    ("lidm", {"process": RectifiedFlow()}, {"process": RectifiedFlow(times="uniform", shift=3.0)}),
    ("lvdm", {"residual": (0.5, 0.25, 2.0)}, {"residual": (0.5, 0.26, 1.9)}),
    ("lvdm", {"beat_spread": 0.1, **TIMES}, {"beat_spread": 0.12, "reference_times": (0.0, 3.1, 8.2)}),
    ("lvdm", {}, {"frames": 5}),
]
DIFFERS: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("lidm", {}, {"process": RectifiedFlow()}, "process.name"),
    ("lidm", {}, {"process": DDPM("sample")}, "process.prediction"),
    ("lidm", {}, {"process": DDPM(schedule="cosine")}, "process.schedule"),
    ("lidm", {}, {"process": DDPM(beta_start=2e-4)}, "process.beta_start"),
    ("lidm", {}, {"process": DDPM(beta_end=0.03)}, "process.beta_end"),
    ("lidm", {}, {"process": DDPM(steps=500)}, "process.steps"),
    ("lidm", {}, {"process": DDPM(zero_snr=False)}, "process.zero_snr"),
    ("lidm", {}, {"encoder": "ef" * 32}, "encoder"),
    ("lidm", {}, {"statistics": Statistics((0.0,) * 3, (1.0,) * 3)}, "statistics"),
    ("lidm", {}, {"frames": 3}, "frames"),
    ("lidm", {}, {"height": 5}, "height"),
    ("lidm", {}, {"conditions": ("class_id", "EF")}, "conditioning"),
    ("lvdm", {}, {"shared_noise": 0.5}, "shared_noise"),
    ("lvdm", {}, {"residual": (0.5, 0.25, 2.0)}, "residual"),
    ("lvdm", {"residual": (0.5, 0.25, 2.0)}, {"residual": (0.6, 0.25, 2.0)}, "residual, by more than a tenth"),
    ("lvdm", {"residual": (0.5, 0.25, 2.0)}, {}, "residual"),
    ("lvdm", {"beat_spread": 0.1, **TIMES}, TIMES, "beat_spread"),
]


def parent_folder(root: Path, kind: str, **told: Any) -> str:
    conditions = told.pop("conditions", ("class_id",))
    late = {name: told.pop(name) for name in ("statistics", "height") if name in told}
    made = model(kind, ("reference", *conditions) if kind == "lvdm" else conditions, **told)
    for name, value in late.items():
        object.__setattr__(made.metadata, name, value)
    return str(artifact(root, made, kind))


def asked(folder: str) -> dict[str, Any]:
    return {"auto": {"artifact": folder, "scale": 2.0}}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "own", "other"), FITS)
def test_a_model_that_was_trained_otherwise_fits(
    tmp_path: Path, kind: str, own: dict[str, Any], other: dict[str, Any]
) -> None:
    strong = load_diffusion_model(parent_folder(tmp_path / "own", kind, **own), kind)
    weak = parent_folder(tmp_path / "weak", kind, **other)
    found = load_weak_model(asked(weak), strong, kind)
    assert found is not None
    assert found.fingerprint() == load_diffusion_model(weak, kind).fingerprint()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "own", "other", "key"), DIFFERS)
def test_a_model_whose_predictions_mean_something_else_is_refused(
    tmp_path: Path, kind: str, own: dict[str, Any], other: dict[str, Any], key: str
) -> None:
    strong = load_diffusion_model(parent_folder(tmp_path / "own", kind, **own), kind)
    weak = parent_folder(tmp_path / "weak", kind, **other)
    reason = f"differs from the model in {key}: train the weak model with the same settings"
    with pytest.raises(UserError, match=f"^guidance.auto.artifact={weak} {reason}"):
        load_weak_model(asked(weak), strong, kind)
