"""A rerun of ``stage=image`` or ``stage=video`` with any changed setting does not reuse the existing samples."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from echodream.errors import UserError
from echodream.store import Store
from tests.support.sampling_study import image, study, video, write_csv
from tests.support.tiny_diffusion import artifact, model

AUTO = {
    "guidance.auto": ["guidance.auto.artifact=null", "guidance.auto.scale=1"],
    "guidance.auto.model": ["guidance.auto.artifact=DIR/other_KIND"],
    "guidance.auto.scale": ["guidance.auto.scale=3"],
}
BOTH = {
    "model": ["artifact=DIR/other_KIND"],
    "seed": ["seed=1"],
    "steps": ["steps=2"],
    "sampler": ["sampler=dpmpp_2m"],
    "spacing": ["spacing=trailing"],
    "guidance.scales.class_id": ["guidance.class_id=3"],
    "guidance.interval": ["guidance.interval=[0.1,0.6]"],
    "guidance.rescale": ["guidance.rescale=0.25"],
    "precision": ["trainer.precision=bf16-mixed"],
    **AUTO,
}
IMAGE = BOTH | {"n": ["n=3"], "labels": ["labels=DIR/labels.csv"]}
VIDEO = BOTH | {
    "guidance.scales.reference": ["guidance.reference=2"],
    "source": ["src=DIR/elsewhere"],
    "labels": ["labels=DIR/labels.csv"],
    "frames": ["frames=14"],
    "join": ["join=continue"],
    "overlap": ["overlap=2"],
    "n": ["n=3"],
}
GUIDED = ["guidance.class_id=2", "guidance.interval=[0.1,0.7]", "guidance.rescale=0.5", "guidance.auto.scale=2"]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with two generated images and two generated videos, sampled with all guidance settings."""
    folder = study(tmp_path_factory.mktemp("drawn"))
    for kind, conditions in (("lidm", ("class_id",)), ("lvdm", ("reference", "class_id"))):
        for number, name in enumerate(("weak", "other"), 1):
            artifact(folder / f"{name}_{kind}", model(kind, conditions, seed=number), kind)
    write_csv(folder / "labels.csv", "class_id", "3", "3")
    image(folder, *asked(folder, "image"))
    image(folder, "n=2", "steps=1", "seed=5", at="elsewhere")
    video(folder, *asked(folder, "video"))
    return folder


def asked(folder: Path, stage: str, *overrides: str) -> list[str]:
    kind = {"image": "lidm", "video": "lvdm"}[stage]
    given = [f"guidance.auto.artifact={folder}/weak_{kind}", *GUIDED, "n=2", "steps=1"]
    given += ["frames=13", "overlap=3", "repeat=true"] if stage == "video" else []
    return given + [override.replace("DIR", str(folder)).replace("KIND", kind) for override in overrides]


def leaves(settings: Mapping[str, Any], above: str = "") -> set[str]:
    """Names of all settings. Nested settings have a dotted name, such as guidance.scale."""
    return {
        name
        for key, value in settings.items()
        for name in (leaves(value, f"{above}{key}.") if isinstance(value, Mapping) else [f"{above}{key}"])
    }


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "table"), [("image", IMAGE), ("video", VIDEO)])
def test_every_setting_is_tried_below(drawn: Path, stage: str, table: dict[str, list[str]]) -> None:
    assert leaves(Store(drawn / f"{stage}s").dataset.settings) == set(table) - {"guidance.auto"}


@pytest.mark.slow
@pytest.mark.parametrize("setting", IMAGE)
def test_images_with_another_setting_are_not_taken(drawn: Path, setting: str) -> None:
    with pytest.raises(UserError, match=told("images", setting)):
        image(drawn, *asked(drawn, "image", *IMAGE[setting]))


@pytest.mark.slow
@pytest.mark.parametrize("setting", VIDEO)
def test_videos_with_another_setting_are_not_taken(drawn: Path, setting: str) -> None:
    with pytest.raises(UserError, match=told("videos", setting)):
        video(drawn, *asked(drawn, "video", *VIDEO[setting]))


def told(final: str, setting: str) -> str:
    """Regex of the expected error. Another number of images also changes the labels, so the error may name labels."""
    named = r"(n|labels)" if (final, setting) == ("images", "n") else setting.replace(".", r"\.")
    return rf"{final} already exists with other settings \(settings\.{named}( |\.)"


@pytest.mark.slow
def test_the_same_settings_are(drawn: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        image(drawn, *asked(drawn, "image"))
        video(drawn, *asked(drawn, "video"))
    assert "images already complete" in caplog.text
    assert "videos already complete" in caplog.text
