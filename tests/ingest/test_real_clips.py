"""Ingest of real recordings: frame counts, durations, labels and pixels equal the values from independent readers."""

import os
from pathlib import Path

import av
import numpy as np
import pytest

from echodream.ingest.source import Limits
from echodream.ingest.videos import Videos

LUNG = {"FileName": "file", "PatientID": "patient", "class_name": "label", "Probe": "probe"}
CLASSES = ("regular", "COVID-19", "Viral pneumonia", "Bacterial pneumonia")


@pytest.fixture
def real() -> Path:
    folder = os.environ.get("ECHODREAM_TEST_DATA")
    if not folder:
        pytest.skip("ECHODREAM_TEST_DATA names no folder")
    return Path(folder)


def _counted(path: Path) -> tuple[int, float]:
    """Number of frames and duration in seconds, computed with PyAV alone."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        times = [frame.time for frame in container.decode(stream) if frame.time is not None]
        assert stream.average_rate is not None
        return len(times), max(times) - min(times) + float(1 / stream.average_rate)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize(
    ("folder", "source", "count"),
    [
        ("echo_mit", Videos(patient_from="all"), 6),
        ("lung_ultrasound_ccby", Videos(csv="labels.csv", columns=LUNG, classes=CLASSES), 43),
    ],
)
def test_frames_and_seconds_equal_an_independent_count(
    real: Path, folder: str, source: Videos, count: int, part: int
) -> None:
    listed = [recording for recording in source.recordings(real / folder) if recording.counted]
    assert len(listed) == count
    assert all(recording.problem is None for recording in listed)
    for recording in listed[part::4]:
        assert recording.path is not None
        video = source.read(recording, Limits())
        frames, seconds = _counted(recording.path)
        assert len(video.frames) == frames
        assert video.times[-1] + 1 / video.fps == pytest.approx(seconds, abs=1e-3)
    if count == 43:
        assert len({recording.patient for recording in listed}) == 13
        assert sum(recording.columns["class_id"] == 0 for recording in listed) == 32


@pytest.mark.data
def test_chest_x_rays_are_what_their_table_says(real: Path) -> None:
    import pandas as pd
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate
    from PIL import Image

    from echodream.config.paths import CONF_DIR

    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        config = compose("sample", ["stage=ingest", "data=chest_xray"])
    source, limits = (instantiate(config.stage[key]) for key in ("source", "limits"))
    root = real / "chest_xray_ccby"
    table = pd.read_csv(root / "data.csv", dtype=str).set_index("image_id")
    listed = {recording.name: recording for recording in source.recordings(root) if recording.counted}
    assert set(listed) == set(table.index)
    for name, row in table.iterrows():
        recording = listed[str(name)]
        assert recording.problem is None
        assert recording.patient == row["patient_id"]
        assert (recording.columns["PA"], recording.columns["Male"]) == (row["projection"] == "pa", row["sex"] == "m")
        assert (recording.columns["ICU"], recording.columns["Survived"]) == (int(row["icu"]), int(row["survived"]))
    for name in sorted(listed)[::40]:
        frames = source.read(listed[name], limits).frames
        with Image.open(root / "images" / f"{name}.png") as image:
            assert (frames[0, ..., 0] == np.asarray(image)).all()
