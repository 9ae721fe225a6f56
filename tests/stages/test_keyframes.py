"""Tests of ``stage=keyframes``: the new columns, the unchanged rest of the store, and error messages."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from echodream import engine
from echodream.config.paths import CONF_DIR
from echodream.datamodules.dataset import ViewDataset
from echodream.datamodules.key_frames import find_key_frame_triples
from echodream.datamodules.recordings import Recordings
from echodream.datamodules.views import Clips
from echodream.errors import UserError
from echodream.metrics.key_frames import detect_key_frames
from echodream.runs.summary import Summary
from echodream.stages import keyframes as stage
from echodream.store import Store, verify
from echodream.store.checksums import file_sha256
from tests.support.hearts import heart, heart_store, truth
from tests.support.stores import make_latent_store, row

CLIPS = {"a": heart(61, 23.4), "b": heart(70, 30.0, 0.8), "c": heart(64, 26.0, 0.1, seed=2)}


def run(folder: Path, *overrides: str) -> Summary:
    """Run ``sample.py stage=keyframes`` on the store ``folder``/videos."""
    fixed = ["stage=keyframes", f"src={folder}/videos", "workers=0", f"notes={folder}/notes", *overrides]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return engine.sample(compose("sample", fixed))


def still(frames: int = 40) -> np.ndarray:
    return np.repeat(heart(1, 30.0), frames, axis=0)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_copy_has_the_key_frames_and_the_same_videos(tmp_path: Path) -> None:
    source = heart_store(tmp_path / "videos", CLIPS, class_id=[2, 0, 1], EF=[50.5, 61.25, 40.0])
    before = bytes_of(tmp_path / "videos")
    said = run(tmp_path)
    assert bytes_of(tmp_path / "videos") == before
    made = Store(tmp_path / "videos_keyframes")
    verify(made.root)
    assert made.table.drop(columns=["ED", "ES", "KeyFrames"]).equals(source.table)
    for name, clip in CLIPS.items():
        found, cells = detect_key_frames(clip, 30.0), made.table.set_index("FileName").loc[name]
        assert (cells["ED"], cells["ES"]) == (" ".join(map(str, found.ed)), " ".join(map(str, found.es)))
        assert made.path(name).read_bytes() == source.path(name).read_bytes()
    assert said.facts["recordings"] == "3, 3 with key frames"
    assert made.dataset.settings["source"] == "5" * 64
    assert made.dataset.settings["keyframes"]["videos"] == file_sha256(source.root / "SHA256SUMS")
    assert "already complete" in run(tmp_path).title


def test_key_frames_serve_as_references(tmp_path: Path) -> None:
    heart_store(tmp_path / "videos", CLIPS)
    run(tmp_path)
    rows = Recordings(Store(tmp_path / "videos_keyframes"), "TRAIN")
    beats = [find_key_frame_triples(rows, number) for number in range(3)]
    assert all(beats)
    assert all(ed < es < after for beat in beats for ed, es, after in beat)
    sample: Any = ViewDataset(rows, Clips(frames=8, reference="keyframes", references=3), seed=0)[0]
    assert sample["reference"].shape == (1, 3, 56, 48)


def test_key_frames_can_be_written_to_latents(tmp_path: Path) -> None:
    heart_store(tmp_path / "videos", CLIPS)
    latents = make_latent_store(tmp_path / "latents", [row(name, name, len(CLIPS[name])) for name in ("c", "a")])
    run(tmp_path, f"onto={tmp_path}/latents")
    made = Store(tmp_path / "latents_keyframes", kind="latent", encoder=latents.dataset.encoder)
    verify(made.root)
    assert made.dataset.statistics == latents.dataset.statistics
    assert made.table["FileName"].tolist() == ["c", "a"]
    assert made.table["ED"].tolist() == [
        " ".join(map(str, detect_key_frames(CLIPS[name], 30.0).ed)) for name in ("c", "a")
    ]


@pytest.mark.slow
def test_existing_key_frames_are_compared_and_replaced(tmp_path: Path) -> None:
    ed, es = zip(*(truth(len(CLIPS[name]), beat, start) for name, beat, start in
                   (("a", 23.4, 0.3), ("b", 30.0, 0.8), ("c", 26.0, 0.1))), strict=True)  # fmt: skip
    wrong = [ed[0], [ed[1][0] + 9], ed[2]]  # recording b has a single ED, shifted by 9 frames
    texts = {kind: [" ".join(map(str, one)) for one in marks] for kind, marks in (("ED", wrong), ("ES", es))}
    heart_store(tmp_path / "videos", CLIPS, **texts)
    said = run(tmp_path).facts
    count = sum(map(len, wrong))
    assert f"{100 * (count - 1) / count:.1f} % of {count} key frames of src in 3 recordings were detected" in str(
        said["ED, TRAIN"]
    )
    assert f"1 missed, {len(ed[1])} other detections" in str(said["ED, TRAIN"])
    assert f"100.0 % of {sum(map(len, es))} key frames of src in 3 recordings were detected" in str(said["ES, TRAIN"])
    assert Store(tmp_path / "videos_keyframes").table["ED"][1] != texts["ED"][1]


def test_recordings_without_a_heartbeat_are_listed(tmp_path: Path) -> None:
    heart_store(tmp_path / "videos", {"a": CLIPS["a"], "b": still(), "c": CLIPS["b"][:20]})
    said = run(tmp_path).facts
    assert said["recordings"] == "3, 1 with key frames"
    assert said["without: no rhythm of at least 1.5 beats"] == "2: b, c"
    made = Store(tmp_path / "videos_keyframes").table
    assert made["ED"][1:].tolist() == ["", ""]
    assert made["KeyFrames"].tolist() == ["found", *["no rhythm of at least 1.5 beats"] * 2]


def test_a_study_without_a_heartbeat_is_refused(tmp_path: Path) -> None:
    heart_store(tmp_path / "videos", {"a": still(), "b": still(30)})
    with pytest.raises(UserError, match=r"none of the 2 recordings of src=.* shows a beating heart \(no rhythm"):
        run(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["videos"]


@pytest.mark.slow
def test_an_interrupted_run_resumes_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heart_store(tmp_path / "videos", CLIPS)
    run(tmp_path, f"dst={tmp_path}/whole")
    detected: list[str] = []
    detect = stage.detect_in_recording

    def dies(job: stage.DetectionJob) -> Any:
        detected.append(job.name)
        if len(detected) == 2:
            raise KeyboardInterrupt
        return detect(job)

    monkeypatch.setattr(stage, "detect_in_recording", dies)
    with contextlib.suppress(KeyboardInterrupt):
        run(tmp_path)
    assert not (tmp_path / "videos_keyframes").exists()
    run(tmp_path)
    assert detected == ["a", "b", "b", "c"]
    whole, again = bytes_of(tmp_path / "whole"), bytes_of(tmp_path / "videos_keyframes")
    assert again == whole


@pytest.mark.slow
def test_workers_give_the_same_result(tmp_path: Path) -> None:
    heart_store(tmp_path / "videos", CLIPS)
    run(tmp_path)
    run(tmp_path, "workers=2", f"dst={tmp_path}/two")
    assert Store(tmp_path / "two").table.equals(Store(tmp_path / "videos_keyframes").table)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["dst={0}/videos"], r"dst=.*videos is also src= or onto=: choose another dst="),
        (["onto={0}/latents"], r"onto=.*latents has a with 9 frames, but src=.*videos has 61: give the latents"),
        (["onto={0}/nowhere"], r"nowhere does not exist"),
        (["workers=-1"], r"workers is -1: give a whole number from 0"),
        (["src={0}/latents"], r"latents is a latent store, but a video store is needed"),
    ],
)
def test_invalid_settings_are_refused(tmp_path: Path, overrides: list[str], says: str) -> None:
    heart_store(tmp_path / "videos", {"a": CLIPS["a"]})
    make_latent_store(tmp_path / "latents", [row("a", "A", 9)])
    with pytest.raises(UserError, match=says):
        run(tmp_path, *(override.format(tmp_path) for override in overrides))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latents", "videos"]
