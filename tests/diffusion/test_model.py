"""A saved diffusion model loads with identical weights; a damaged artifact is refused with a one-line error."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from echodream.diffusion.model import DiffusionModel, load_diffusion_model
from echodream.diffusion.processes.rectified_flow import RectifiedFlow
from echodream.errors import UserError
from tests.support.tiny_diffusion import WINDOW, C, H, W, artifact, model, published
from tests.support.tiny_vae import tiny_autoencoder
from tests.support.tiny_vae import write_vae_artifact as vae_artifact

ALL = ("class_id", "EF", "view")


def told(made: DiffusionModel, count: int = 4) -> dict[str, Tensor]:
    """Encoded conditions with missing values, and reference frames for a video model."""
    asked = {"class_id": [0, 3, None, 1], "EF": [45.0, None, 60.5, 41.0], "View": ["A4C", "A2C", "", "A4C"]}
    values = made.conditioner.encode_request({name: asked[name][:count] for name in made.conditioner.columns})
    if "reference" in made.conditioner.names:
        values |= {"reference": torch.randn(count, C, 2, H, W), "reference_time": torch.tensor([[0.0, 5.0]] * count)}
    return values


def noisy(made: DiffusionModel, count: int = 4) -> tuple[Tensor, Tensor]:
    rest = (WINDOW, H, W) if made.is_video else (H, W)
    return torch.randn(count, made.denoiser.channels, *rest), torch.tensor([999, 500, 3, 77][:count])


@pytest.mark.parametrize(
    ("kind", "conditions", "more"),
    [
        ("lidm", ALL, {}),
        ("lidm", (), {"process": RectifiedFlow(shift=2.0)}),
        ("lidm", ("class_id",), {"frames": 3}),
        ("lvdm", ("reference", *ALL), {"reference_times": (0.0, 3.5, 7.25)}),
    ],
)
def test_an_artifact_comes_back_bit_for_bit(tmp_path: Path, kind: str, conditions: tuple[str, ...], more: Any) -> None:
    made = model(kind, conditions, **more)
    found = load_diffusion_model(str(artifact(tmp_path / kind, made, kind)), kind)
    assert found.metadata == made.metadata
    assert found.process.settings() == made.process.settings()
    assert found.conditioner.names == made.conditioner.names
    assert (found.is_video, found.fingerprint()) == (kind == "lvdm", made.fingerprint())
    assert not any(p.requires_grad for p in found.parameters())
    (x, t), values = noisy(made), told(made)
    kept = [frozenset(conditions), frozenset[str]()]
    assert torch.equal(found.predictor(values)(x, t, kept), made.predictor(values)(x, t, kept))
    if kind == "lidm":
        unet = UNet2DConditionModel.from_pretrained(tmp_path / kind)
        state = made.denoiser.unet.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in unet.state_dict().items())


def test_the_published_conditions_come_back(tmp_path: Path) -> None:
    made = published()
    found = load_diffusion_model(str(artifact(tmp_path / "lvdm", made, "lvdm")), "lvdm")
    values = {**found.conditioner.encode_request({"class_id": [1, 3]}), "reference": torch.randn(2, C, 1, H, W)}
    values["reference_time"] = torch.zeros(2, 1)
    (x, t), kept = noisy(made, 2), [frozenset({"reference", "class_id"})]
    with torch.no_grad():
        assert torch.equal(found.predictor(values)(x, t, kept), made.predictor(values)(x, t, kept))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "conditions"), [("lidm", ALL), ("lvdm", ("reference", *ALL))])
def test_all_sets_of_conditions_in_one_call_are_those_of_a_call_each(
    monkeypatch: pytest.MonkeyPatch, kind: str, conditions: tuple[str, ...]
) -> None:
    made = model(kind, conditions)
    (x, t), values = noisy(made), told(made)
    kept = [frozenset(conditions[:count]) for count in range(len(conditions) + 1)] + [frozenset({"EF"})]
    wanted = [
        torch.cat(
            [
                made(
                    x[row : row + 1],
                    t[row : row + 1],
                    {name: value[row : row + 1] for name, value in values.items()},
                    {name: torch.tensor([name in some]) for name in conditions},
                )
                for row in range(4)
            ]
        )
        for some in kept
    ]
    calls: list[int] = []
    forward = DiffusionModel.forward
    monkeypatch.setattr(
        DiffusionModel, "forward", lambda own, x_t, *rest: (calls.append(len(x_t)), forward(own, x_t, *rest))[1]
    )
    found = made.predictor(values)(x, t, kept)
    assert calls == [4 * len(kept)]
    assert torch.allclose(found, torch.stack(wanted), atol=1e-5)
    assert all(not torch.allclose(a, b, atol=1e-3) for a, b in itertools.pairwise(found))


def refused(words: str, folder: Path, name: str = "lidm") -> None:
    with pytest.raises(UserError, match=words) as caught:
        load_diffusion_model(str(folder), name)
    assert "\n" not in str(caught.value)


def change(key: str, value: Any) -> Callable[[Any], None]:
    """Function that sets a nested entry of diffusion.json, or deletes the entry if ``value`` is None."""

    def changed(written: Any) -> None:
        *path, last = key.split(".")
        for part in path:
            written = written[part]
        if value is None:
            del written[last]
        else:
            written[last] = value

    return changed


@pytest.mark.parametrize(
    "damage",
    [
        change("facts", None),
        change("process", None),
        change("conditioning", None),
        change("facts.statistics", None),
        change("facts.statistics.std", [1.0, 0.0, 1.0]),
        change("facts.statistics", {"mean": [0.0], "std": [1.0]}),
        change("facts.channels", "3"),
        change("facts.height", 0),
        change("facts.frames", 1.5),
        change("facts.fps", "fast"),
        change("facts.encoder", "zz"),
        change("facts.fps", -1.0),
        change("facts.reference_times", 7),
        change("facts.colour", "blue"),
        change("facts.beat_spread", -0.1),
        change("facts.beat_spread", 0.1),
        change("facts.shared_noise", 1.0),
        change("facts.residual", [0.5]),
        change("facts.residual", [0.5, 0.0, 0.5]),
        change("process", {"name": "ddpm", "colour": "blue"}),
        change("process.name", "brownian"),
        change("conditioning.conditions", 3),
        change("conditioning.width", "wide"),
        change("conditioning.width", 9),
        change("facts.frames", 3),
    ],
)
def test_a_damaged_json_is_one_sentence(tmp_path: Path, damage: Callable[[Any], None]) -> None:
    file = artifact(tmp_path / "lidm", model("lidm"), "lidm") / "diffusion.json"
    written = json.loads(file.read_text())
    damage(written)
    file.write_text(json.dumps(written))
    refused("diffusion.json", tmp_path / "lidm")


def test_a_json_that_is_cut_short_or_gone(tmp_path: Path) -> None:
    file = artifact(tmp_path / "lidm", model("lidm"), "lidm") / "diffusion.json"
    file.write_text(file.read_text()[:200])
    refused(r"diffusion.json is not readable: train the lidm again", tmp_path / "lidm")
    file.write_text("[]")
    refused(r"diffusion.json is not readable", tmp_path / "lidm")
    file.unlink()
    refused(r"diffusion.json is not readable", tmp_path / "lidm")


@pytest.mark.parametrize(
    "other",
    [
        change("process.prediction", "sample"),
        change("process.spacing", "leading"),
        change("facts.height", 9),
        change("facts.statistics.mean", [1.0, 2.0, 3.0]),
    ],
)
def test_settings_that_are_not_those_of_training(tmp_path: Path, other: Callable[[Any], None]) -> None:
    """Each changed setting is valid, but the fingerprint shows that the model was trained with another setting."""
    file = artifact(tmp_path / "lidm", model("lidm"), "lidm") / "diffusion.json"
    written = json.loads(file.read_text())
    other(written)
    file.write_text(json.dumps(written))
    refused(r"weights or diffusion\.json have changed since training", tmp_path / "lidm")


@pytest.mark.parametrize("file", ["diffusion_pytorch_model", "conditioner"])
def test_weights_that_are_not_finite_or_not_those_of_training(tmp_path: Path, file: str) -> None:
    path = artifact(tmp_path / "lidm", model("lidm"), "lidm") / f"{file}.safetensors"
    whole = load_file(path)
    name = sorted(whole)[0]
    changed = r"weights or diffusion\.json have changed since training"
    for value, words in ((torch.nan, f"{name} is not finite"), (0.125, changed)):
        state = {key: tensor.clone() for key, tensor in whole.items()}
        state[name].view(-1)[0] = value
        save_file(state, path)
        refused(words, tmp_path / "lidm")
    save_file({key: tensor for key, tensor in whole.items() if key != name}, path)
    refused("1 weights are missing", tmp_path / "lidm")
    path.write_bytes(path.read_bytes()[:100])
    refused("is damaged|is not a readable weight file", tmp_path / "lidm")


def test_the_artifact_of_another_model(tmp_path: Path) -> None:
    vae_artifact(tmp_path / "vae", tiny_autoencoder())
    refused("vae contains a vae model: give the folder of a lidm model", tmp_path / "vae")
    refused("none has no lidm: train one with train.py model=lidm", tmp_path / "none")
    refused(
        "lidm contains a lidm model: give the folder of a lvdm model",
        artifact(tmp_path / "lidm", model("lidm"), "lidm"),
        "lvdm",
    )
