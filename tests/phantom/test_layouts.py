"""The phantom written in the EchoNet file layouts and ingested again has the same frames, labels, marks and splits."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from echodream.ingest.echonet import EchoNetDynamic, EchoNetPediatric
from echodream.ingest.phantom import Phantom
from echodream.ingest.source import Limits, Source
from echodream.phantom.layouts import LAYOUTS, echonet_file_name
from echodream.phantom.shape import LV
from echodream.stages.phantom import phantom
from tests.support.hearts import label_areas

STUDY = Phantom(patients=11, size=48, fps=25.0, seconds=(0.9, 1.1), per_patient=(1, 2))
SOURCES: dict[str, Source] = {
    "echonet_dynamic": EchoNetDynamic(),
    "echonet_pediatric_a4c": EchoNetPediatric(view="A4C"),
    "echonet_pediatric_psax": EchoNetPediatric(view="PSAX"),
}


@pytest.fixture(scope="module", params=SOURCES)
def layout(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    root = tmp_path_factory.mktemp(request.param) / "raw"
    phantom(source=STUDY, layout=request.param, dst=str(root), workers=0, command="", code_version="")
    return request.param, root


def home(name: str) -> str:
    return {"echonet_pediatric_a4c": "A4C", "echonet_pediatric_psax": "PSAX"}.get(name, "")


def test_every_layout_is_tested() -> None:
    assert set(LAYOUTS) == {"cardiacnet", *SOURCES}


@pytest.mark.slow
def test_recordings_and_truth_come_back(layout: tuple[str, Path]) -> None:
    name, root = layout
    found = {recording.name: recording for recording in SOURCES[name].recordings(root) if recording.path}
    drawn = {echonet_file_name(recording.name, home(name)): recording for recording in STUDY.recordings(None)}
    assert found.keys() >= drawn.keys()
    of: dict[str, set[str | None]] = {}
    for key, truth in drawn.items():
        recording = found[key]
        assert recording.problem is None
        assert recording.columns["EF"] == truth.columns["EF"]
        of.setdefault(truth.patient, set()).add(recording.split)
        read, exact = (source.read(one, Limits()) for source, one in ((SOURCES[name], recording), (STUDY, truth)))
        assert read.frames.shape[:3] == exact.frames.shape[:3]
        assert np.allclose(read.times, exact.times, atol=1e-6)
        error = read.frames[..., :1].astype(float) - exact.frames
        assert np.sqrt((error**2).mean()) < 3.0  # RMS error of Motion JPEG, in gray levels
        size = label_areas(STUDY.scene(truth.name))[:, LV]
        assert not read.marks or [read.marks[mark][0] for mark in ("ED", "ES")] == pytest.approx(
            [read.times[size.argmax()], read.times[size.argmin()]]
        )
    assert sum(bool(SOURCES[name].read(found[key], Limits()).marks) for key in drawn) >= 0.7 * len(drawn)
    assert all(len(splits) == 1 for splits in of.values()), "a patient is in two splits"
    assert {split for splits in of.values() for split in splits} == {"TRAIN", "VAL", "TEST"}


@pytest.mark.slow
def test_tables_have_the_columns_of_the_study(layout: tuple[str, Path]) -> None:
    name, root = layout
    below = root / home(name)
    table, traced = (pd.read_csv(below / f"{part}.csv") for part in ("FileList", "VolumeTracings"))
    assert set(traced["FileName"].str[:-4]) <= set(table["FileName"].str.removesuffix(".avi"))
    if name == "echonet_dynamic":
        columns = ["FileName", "EF", "ESV", "EDV", "FrameHeight", "FrameWidth", "FPS", "NumberOfFrames", "Split"]
        assert np.allclose(100 * (1 - table["ESV"] / table["EDV"]), table["EF"], atol=0.01)
        assert list(traced) == ["FileName", "X1", "Y1", "X2", "Y2", "Frame"]
        assert not table["FileName"].str.endswith(".avi").any()
    else:
        columns = ["FileName", "EF", "Sex", "Age", "Weight", "Height", "Split"]
        assert set(table["Split"]) == set(range(10))
        assert list(traced) == ["FileName", "X", "Y", "Frame"]
        assert "No Systolic" in set(traced["Frame"])
        assert table["FileName"].str.endswith(".avi").all()
    assert list(table) == columns
    assert {path.stem for path in (below / "Videos").iterdir()} == set(table["FileName"].str.removesuffix(".avi"))
