"""Key frames of phantoms, of simulated hearts, and of clips without a heartbeat."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from echodream.metrics.key_frames import KeyFrameMatch, detect_key_frames, match_key_frames
from echodream.phantom.render import render
from echodream.phantom.scene import key_frame_times, sample_scene
from tests.support.hearts import heart, truth

RECORDINGS = [  # columns: class, patient, size, fps, heart rate, gain in dB
    (0, 71, 48, 25.0, 58.0, 0.0),
    (1, 72, 40, 32.0, 95.0, 6.0),
    (2, 73, 56, 50.0, 75.0, -6.0),
    (3, 74, 48, 30.0, 125.0, 0.0),
]


def test_key_frames_of_phantoms_are_within_a_frame_of_the_truth() -> None:
    hits = marks = found = 0
    for class_id, patient, size, fps, rate, gain in RECORDINGS:
        scene = sample_scene((9, class_id, patient, 1), size, fps, (2.2, 2.2))
        scene = replace(scene, anatomy=replace(scene.anatomy, heart_rate=rate))
        scene = replace(scene, settings=replace(scene.settings, gain=gain))
        seen = detect_key_frames(render(scene), fps)
        assert seen.heart_rate == pytest.approx(scene.heart_rate, rel=0.05)
        for kind, frames in (("ED", seen.ed), ("ES", seen.es)):
            true = [round(at * fps) for at in key_frame_times(scene)[kind].tolist()]
            pairs = match_key_frames(frames, true)
            hits, marks, found = hits + pairs.matched, marks + len(true), found + len(frames)
    assert marks == 25
    assert hits >= 0.95 * marks
    assert hits >= 0.95 * found


@pytest.mark.parametrize("start", [0.02, 0.3, 0.55, 0.9, 0.97])
@pytest.mark.parametrize(("frames", "beat", "fps"), [(61, 23.4, 30.0), (75, 31.0, 30.0), (80, 44.3, 48.0)])
def test_key_frames_of_a_heart_in_closed_form(frames: int, beat: float, fps: float, start: float) -> None:
    found = detect_key_frames(heart(frames, beat, start), fps)
    ed, es = truth(frames, beat, start)
    assert found.problem is None
    assert found.heart_rate == pytest.approx(60 * fps / beat, rel=0.05)
    # marks near the ends are not checked: noise decides there
    inner = [[at for at in kind if 2 <= at < frames - 2] for kind in (ed, es)]
    assert all(any(abs(at - mark) <= 1 for at in found.ed) for mark in inner[0]), (found, ed)
    assert all(any(abs(at - mark) <= 1 for at in found.es) for mark in inner[1]), (found, es)
    assert abs(len(found.ed) - len(ed)) <= 1
    assert abs(len(found.es) - len(es)) <= 1


@pytest.mark.parametrize("beat", [20.0, 33.0])
def test_large_atrial_motion_does_not_exchange_ed_and_es(beat: float) -> None:
    clip = heart(70, beat, atrium=0.5)
    dark = (clip < 60).sum(axis=(1, 2))
    ed, es = truth(70, beat)
    assert dark[es].mean() > dark[ed].mean()  # the area of all dark pixels alone would exchange ED and ES
    found = detect_key_frames(clip, 30.0)
    assert match_key_frames(found.es, es).matched == len(es)
    assert match_key_frames(found.ed, ed).matched == len(ed)


def test_a_sliding_probe_has_little_effect() -> None:
    ed, es = truth(75, 26.0, 0.45)
    found = detect_key_frames(heart(75, 26.0, 0.45, slide=3.0), 30.0)
    assert match_key_frames(found.ed, ed) == KeyFrameMatch(3, 0, 0)
    assert match_key_frames(found.es, es) == KeyFrameMatch(2, 0, 0)


def test_size_and_type_of_the_frames_do_not_matter() -> None:
    clip = heart(70, 24.0)
    plain = detect_key_frames(clip, 30.0)
    assert plain.ed
    assert detect_key_frames(clip / 127.5 - 1, 30.0) == plain
    assert detect_key_frames(clip.repeat(3, axis=1).repeat(3, axis=2), 30.0) == plain
    assert detect_key_frames(np.pad(clip.repeat(2, axis=1).repeat(2, axis=2), ((0, 0), (0, 1), (0, 1))), 30.0) == plain
    with pytest.raises(ValueError, match="not uint8"):
        detect_key_frames(clip.astype(np.int64), 30.0)


@pytest.mark.parametrize("what", ["noise", "still", "slides", "one beat", "irregular", "one frame"])
def test_clips_without_a_heartbeat_have_no_key_frames(what: str) -> None:
    rng = np.random.default_rng(3)
    still = np.repeat(heart(1, 30.0), 90, axis=0)
    clips = {
        "noise": rng.integers(0, 255, (90, 56, 48), dtype=np.uint8),
        "still": still,
        "slides": np.stack([np.roll(frame, k // 9, axis=1) for k, frame in enumerate(still)]),
        "one beat": heart(40, 36.0),
        "irregular": heart(90, 30.0)[np.cumsum(rng.integers(-20, 21, 90)) % 90],
        "one frame": still[:1],
    }
    found = detect_key_frames(clips[what], 30.0)
    assert found.problem == "no rhythm of at least 1.5 beats"
    assert found.ed == found.es == ()
    assert np.isnan(found.heart_rate)


def test_matching_is_optimal() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        found, true = (sorted(rng.choice(25, rng.integers(0, 9), replace=False).tolist()) for _ in range(2))
        near = np.abs(np.subtract.outer(found, true)) <= 2
        rows, columns = linear_sum_assignment(~near)
        hits = int(near[rows, columns].sum())
        assert match_key_frames(found, true, tolerance=2) == KeyFrameMatch(hits, len(true) - hits, len(found) - hits)
