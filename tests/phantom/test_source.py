"""The phantom as a source of ingest: listed recordings, reproducible pixels, and consistent anatomy per patient."""

import hashlib
import pickle
import subprocess
import sys
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from echodream.errors import Rejected, UserError
from echodream.ingest.phantom import Phantom
from echodream.ingest.source import Limits, Recording
from echodream.phantom.anatomy import CLASSES, sample_anatomy
from echodream.phantom.render import render_labels
from echodream.phantom.scene import Scene, sample_scene
from echodream.phantom.shape import LA, LV, RA, RV


def test_listing_says_the_truth_and_names() -> None:
    listed = Phantom(patients=24, seed=3).recordings(None)
    names = [r.name for r in listed]
    assert len(set(names)) == len(names)
    assert len({r.patient for r in listed}) == 24
    for class_id, name in enumerate(CLASSES):
        mine = [r for r in listed if r.columns["class_name"] == name]
        assert [r.name for r in mine] == [f"{name}-{k:03d}" for k in range(1, len(mine) + 1)]
        assert len({r.patient for r in mine}) == 6
        assert all(r.columns["class_id"] == class_id and r.patient.startswith(f"{name}-P") for r in mine)
    for r in listed:
        assert r.split is None
        assert r.path is None
        assert r.problem is None
        assert 30 < float(r.columns["EF"]) < 80
        assert 40 < float(r.columns["HeartRate"]) < 130
        assert r.columns["View"] == "A4C"
        assert r.columns["Cohort"] == ("ASD" if int(r.columns["class_id"]) < 2 else "PAH")
        assert float(r.columns["LVArea_ED"]) > float(r.columns["LVArea_ES"]) > 2


def test_recordings_per_patient_and_shares_follow_the_arguments() -> None:
    listed = Phantom(patients=40, per_patient=(2, 3), shares=(1, 1, 2, 0)).recordings(None)
    patients = {r.patient: [q for q in listed if q.patient == r.patient] for r in listed}
    assert {len(v) for v in patients.values()} == {2, 3}
    counts = [sum(p.startswith(f"{name}-P") for p in patients) for name in CLASSES]
    assert counts == [10, 10, 20, 0]


def test_read_gives_a_video_of_the_asked_shape() -> None:
    phantom = Phantom(patients=4, size=64, fps=25.0, seconds=(1.0, 1.5))
    recording = phantom.recordings(None)[0]
    video = phantom.read(recording, Limits())
    frames = len(video.frames)
    assert 25 <= frames <= 38
    assert video.frames.shape == (frames, 64, 64, 1)
    assert video.frames.dtype == np.uint8
    assert video.fps == 25.0
    np.testing.assert_array_equal(video.times, np.arange(frames) / 25.0)
    for name in ("ED", "ES"):
        assert len(video.marks[name]) >= 1
        assert all(0 <= t <= video.times[-1] for t in video.marks[name])


@pytest.mark.slow
def test_pixels_are_the_same_in_another_process() -> None:
    phantom = Phantom(patients=4, size=48, seconds=(0.5, 0.5))
    here = hashlib.sha256(phantom.read(Recording("PAH-001", ""), Limits()).frames.tobytes()).hexdigest()
    code = (
        "import sys, pickle, hashlib; from echodream.ingest.source import Limits, Recording\n"
        "phantom = pickle.loads(sys.stdin.buffer.read())\n"
        "video = phantom.read(Recording('PAH-001', ''), Limits())\n"
        "print(hashlib.sha256(video.frames.tobytes()).hexdigest())"
    )
    there = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(phantom), capture_output=True, check=True)
    assert there.stdout.decode().strip() == here


@pytest.mark.slow
def test_more_patients_leave_the_others_as_they_were() -> None:
    small = Phantom(patients=6, size=32, seconds=(0.1, 0.2))
    large = Phantom(patients=15, size=32, seconds=(0.1, 0.2))
    after = {r.name: r for r in large.recordings(None)}
    for recording in small.recordings(None):
        assert after[recording.name] == recording
        ours, theirs = small.read(recording, Limits()), large.read(recording, Limits())
        np.testing.assert_array_equal(ours.frames, theirs.frames)


def test_seed_and_recording_change_the_pixels() -> None:
    def frames(seed: int, name: str) -> np.ndarray:
        phantom = Phantom(patients=4, seed=seed, size=32, seconds=(0.2, 0.2), per_patient=(2, 2))
        return phantom.read(Recording(name, ""), Limits()).frames

    base = frames(0, "ASD-001")
    assert (base != frames(1, "ASD-001")).any()
    assert (base != frames(0, "ASD-002")).any()


def measure(scene: Scene) -> np.ndarray:
    """Sizes of the four heart chambers in the end-diastolic frame: a width and a length for each chamber, (8,)."""
    frame = render_labels(replace(scene, start_phase=0.0, frame_count=1))[0]
    sizes = []
    for chamber in (LV, RV, LA, RA):
        row, column = np.nonzero(frame == chamber)
        x, v = scene.to_heart(column.astype(float), row.astype(float))
        sizes += [x.std(), v.std() * scene.settings.foreshortening]
    return np.array(sizes)


@pytest.mark.parametrize("class_id", [0, 3, *(pytest.param(normal, marks=pytest.mark.slow) for normal in (1, 2))])
def test_a_patient_is_recognised_in_another_recording(class_id: int) -> None:
    count = 16
    first, second = (
        np.stack([measure(sample_scene((0, class_id, p, n), 112, 32.0, (1.0, 1.0))) for p in range(1, count + 1)])
        for n in (1, 2)
    )
    spread = first.std(axis=0)
    apart = np.linalg.norm((first[:, None] - second[None]) / spread, axis=-1)
    same, other = np.diag(apart), apart[~np.eye(count, dtype=bool)]
    assert same.mean() < 0.5 * other.mean()
    assert (apart.argmin(axis=1) == np.arange(count)).mean() >= 0.8


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("patients", 0),
        ("patients", 2.5),
        ("seed", -1),
        ("size", 16),
        ("size", 4096),
        ("fps", 0),
        ("fps", "fast"),
        ("fps", float("nan")),
        ("seconds", (3.0, 2.0)),
        ("seconds", (0.01, 2.0)),
        ("seconds", 2.0),
        ("seconds", (1.0, float("inf"))),
        ("per_patient", (0, 3)),
        ("per_patient", (2, 1)),
        ("per_patient", (1.5, 3)),
        ("shares", (1, 1, 1)),
        ("shares", (0, 0, 0, 0)),
        ("shares", (1, -1, 1, 1)),
        ("shares", "abcd"),
    ],
)
def test_bad_arguments_are_refused_by_name(argument: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"phantom's {argument}"):
        Phantom(**{argument: value})


def test_lists_are_taken_as_tuples() -> None:
    phantom = Phantom(seconds=[1, 2], per_patient=[1, 1], shares=[1, 1, 1, 1])  # type: ignore[arg-type]
    assert phantom == Phantom(seconds=(1.0, 2.0), per_patient=(1, 1))


def test_a_raw_tree_is_refused() -> None:
    with pytest.raises(UserError, match="data=cardiacnet"):
        Phantom().recordings(Path("somewhere"))


@pytest.mark.parametrize("name", ["", "ASD", "ASD-000", "ASD-999", "ASD--1", "XYZ-001", "Non-ASD-1e3", "../ASD-001"])
def test_an_unknown_recording_is_rejected(name: str) -> None:
    with pytest.raises(Rejected):
        Phantom(patients=4).read(Recording(name, ""), Limits())


def test_limits_are_held() -> None:
    phantom = Phantom(patients=4, size=64)
    with pytest.raises(Rejected, match="too large"):
        phantom.read(phantom.recordings(None)[0], Limits(max_side=32))


@pytest.mark.parametrize("class_id", [0, 3])
def test_severity_interpolates_between_a_healthy_heart_and_the_disease(class_id: int) -> None:
    none, half, full = (
        np.array(astuple(sample_anatomy(class_id, np.random.default_rng(4), severity))) for severity in (0.0, 0.5, 1.0)
    )
    healthy = np.array(astuple(sample_anatomy(1, np.random.default_rng(4))))
    assert np.array_equal(none, healthy)
    assert np.array_equal(full, np.array(astuple(sample_anatomy(class_id, np.random.default_rng(4)))))
    positive = (none > 0) & (full > 0)  # anatomy fields that become negative are clipped to 0
    assert half[positive] == pytest.approx((none[positive] + full[positive]) / 2)
    assert np.abs(full - none).max() > 5


def test_severity_is_between_0_and_1() -> None:
    with pytest.raises(UserError, match="the phantom's severity"):
        Phantom(severity=1.5)
