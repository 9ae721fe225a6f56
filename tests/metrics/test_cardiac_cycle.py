"""Cardiac cycle metrics of simulated rhythms and of phantoms."""

import math
from functools import lru_cache

import numpy as np
import pytest

from echodream.ingest.phantom import Phantom
from echodream.metrics.cardiac_cycle import (
    Rhythm,
    area_curve,
    estimate_rhythm,
    frame_difference_curve,
    jump_ratio,
    percentile_range,
    seam_ratio,
    sector_mask,
)
from echodream.phantom.render import render
from tests.support.hearts import label_areas

H, W = 48, 64
FPS = 32.0


def chamber(area: np.ndarray, noise: float = 0.0) -> np.ndarray:
    """A dark disc of ``area`` pixels, (F,), on bright speckle in a frame with a black border: uint8 (F, H, W)."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:H, :W]
    inside = np.hypot(y - 20, x - 30)[None] < np.sqrt(area / math.pi)[:, None, None]
    frames = np.where(inside, 20.0, 150 + 30 * rng.standard_normal((H, W)))
    frames[:, :3], frames[:, -3:], frames[:, :, :3], frames[:, :, -3:] = 0, 0, 0, 0
    return np.clip(frames + noise * rng.standard_normal(frames.shape) * (frames > 0), 0, 255).astype(np.uint8)


def beating(rate: float, frames: int, fps: float = FPS, noise: float = 10.0) -> np.ndarray:
    """A chamber that beats ``rate`` times a minute.

    The area curve has a second, lower peak in each beat, like the area curve of a real heart.
    """
    phase = 2 * math.pi * rate / 60 * np.arange(frames) / fps
    return chamber(400 + 150 * np.cos(phase) + 40 * np.cos(2 * phase + 1), noise)


@pytest.mark.parametrize("rate", [41.0, 63.0, 77.7, 100.3, 171.0])
def test_heart_rate_has_subframe_precision(rate: float) -> None:
    """An error of one frame in the period would change the heart rate by 1 to 9 %."""
    found = estimate_rhythm(beating(rate, 150), FPS)
    assert found.heart_rate == pytest.approx(rate, rel=0.006)
    assert found.periodicity > 0.9


def test_heart_rate_depends_on_fps() -> None:
    frames = beating(70, 100)
    assert estimate_rhythm(frames, 2 * FPS).heart_rate == pytest.approx(2 * estimate_rhythm(frames, FPS).heart_rate)


def test_noise_and_drift_lower_the_periodicity() -> None:
    rng = np.random.default_rng(1)
    regular = estimate_rhythm(beating(75, 120), FPS).periodicity
    phase = np.cumsum(2 * math.pi * 75 / 60 / FPS * (1 + 0.5 * np.repeat(rng.standard_normal(12), 10)))
    wandering = estimate_rhythm(chamber(400 + 150 * np.cos(phase), 10.0), FPS)
    assert math.isnan(wandering.periodicity) or wandering.periodicity < regular - 0.1


@pytest.mark.parametrize(
    "still", [np.zeros((60, H, W), np.uint8), np.full((60, H, W), 90, np.uint8), chamber(np.full(60, 400.0))]
)
def test_static_frames_have_no_rhythm(still: np.ndarray) -> None:
    assert math.isnan(estimate_rhythm(still, FPS).heart_rate)
    assert not percentile_range(area_curve(still)) > 1e-9
    assert frame_difference_curve(still).max() == 0


def test_noise_alone_has_no_rhythm() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (90, H, W), dtype=np.uint8)
    assert math.isnan(estimate_rhythm(noise, FPS).heart_rate)


@pytest.mark.parametrize("beats", [0.3, 0.6, 0.8, 1.0, 1.2, 1.4])
def test_less_than_a_beat_and_a_half_has_no_rate(beats: float) -> None:
    length = int(beats * 60 / 75 * FPS)
    whole = beating(75, 60)
    for first in range(0, 26, 5):
        assert math.isnan(estimate_rhythm(whole[first : first + length], FPS).heart_rate)
    assert math.isfinite(estimate_rhythm(whole[: int(1.75 * 60 / 75 * FPS)], FPS).heart_rate)


def test_the_area_is_the_disc_as_a_share_of_the_sector() -> None:
    area = np.linspace(200, 700, 30)
    truth = area / ((H - 6) * (W - 6))
    curve = area_curve(chamber(area, 10.0))
    assert curve == pytest.approx(truth, abs=0.012)
    assert np.corrcoef(curve, truth)[0, 1] > 0.998
    assert percentile_range(curve) == pytest.approx(0.9 * (truth[-1] - truth[0]), rel=0.05)


def test_the_sector_includes_dark_chambers_and_no_border() -> None:
    found = sector_mask(chamber(np.full(5, 400.0)).astype(float))
    assert (~found[3:-3, 3:-3]).sum() <= 4  # only the corners of the sector are missing
    assert found.sum() == found[3:-3, 3:-3].sum()


def test_pixels_and_floats_are_the_same() -> None:
    frames = beating(80, 70)
    floats = frames.astype(np.float32) / 127.5 - 1
    assert estimate_rhythm(floats, FPS).heart_rate == pytest.approx(estimate_rhythm(frames, FPS).heart_rate, rel=1e-4)
    assert area_curve(floats) == pytest.approx(area_curve(frames), abs=1e-4)
    assert frame_difference_curve(floats) == pytest.approx(frame_difference_curve(frames), rel=1e-4)


def test_jump_ratio_by_hand() -> None:
    # of 20 changes, the 95th percentile lies 5 % of the way from the 19th to the 20th
    levels = np.cumsum([0, *[2] * 18, 50, 2])
    frames = np.tile(levels[:, None, None], (1, 3, 4)).astype(np.uint8)
    assert jump_ratio(frames) == pytest.approx((2 + 0.05 * 48) / 2)
    assert jump_ratio(frames[:19]) == 1
    assert math.isnan(jump_ratio(np.zeros((5, 3, 4), np.uint8)))


def test_jump_ratio_separates_pose_switches_from_motion() -> None:
    """The video with smooth motion has a low ratio, the video with pose switches a high ratio."""
    rng = np.random.default_rng(0)
    ends = rng.uniform(0, 255, (2, 16, 16))
    shares = {"smooth": (1 - np.cos(np.arange(64) * 2 * np.pi / 24)) / 2, "switch": (np.arange(64) // 12) % 2}
    found = {}
    for name, share in shares.items():
        clip = ends[0] + share[:, None, None] * (ends[1] - ends[0]) + rng.normal(0, 5, (64, 16, 16))
        found[name] = jump_ratio(clip.clip(0, 255).astype(np.uint8))
    assert found["smooth"] < 2
    assert found["switch"] > 5


def test_frame_differences_and_seam_ratio_by_hand() -> None:
    levels = np.array([10, 12, 14, 30, 32, 34, 30])
    frames = np.broadcast_to(levels[:, None, None], (7, 5, 4)).astype(np.uint8)
    assert frame_difference_curve(frames).tolist() == [2, 2, 16, 2, 2, 4]
    assert seam_ratio(frames, [3]) == pytest.approx(16 / 2.4)
    assert seam_ratio(frames, [3, 6]) == pytest.approx(10 / 2)
    assert seam_ratio(frames, [3, 3]) == pytest.approx(16 / 2.4)
    assert math.isnan(seam_ratio(frames, []))
    assert math.isnan(seam_ratio(frames, range(1, 7)))
    for wrong in (0, 7, -1):
        with pytest.raises(ValueError, match="outside a clip of 7 frames"):
            seam_ratio(frames, [3, wrong])


@pytest.mark.parametrize(
    "wrong", [np.zeros((3, 4), np.uint8), np.zeros((3, 4, 5, 1), np.uint8), np.zeros((3, 4, 5), int)]
)
def test_invalid_frames_are_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"not \(F, H, W\)|not uint8 or floats"):
        frame_difference_curve(wrong)


@lru_cache(maxsize=1)
def phantoms() -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Frames, label areas per frame, and heart rate of phantom recordings of every class."""
    phantom = Phantom(patients=24, seed=5, size=64)
    scenes = [phantom.scene(recording.name) for recording in phantom.recordings(None)[::2]]
    return [(render(scene), label_areas(scene), scene.heart_rate) for scene in scenes]


@pytest.mark.slow
def test_heart_rates_of_phantoms() -> None:
    """The error is below 5 % for at least 95 % of the recordings; each recording has two beats or more."""
    errors = []
    for frames, _, rate in phantoms():
        assert len(frames) / FPS * rate / 60 >= 2
        found: Rhythm = estimate_rhythm(frames, FPS)
        errors.append(abs(found.heart_rate / rate - 1))
        assert found.periodicity > 0.8
    assert len(errors) >= 20
    assert np.mean(np.array(errors) < 0.05) >= 0.95
    assert np.nanmedian(errors) < 0.01


@pytest.mark.slow
def test_area_curves_of_phantoms() -> None:
    """Correlation with the true area of the left ventricle, and with the true area of all four chambers."""
    ventricle = [np.corrcoef(area_curve(frames), area[:, 1])[0, 1] for frames, area, _ in phantoms()]
    chambers = [np.corrcoef(area_curve(frames), area[:, 1:5].sum(axis=1))[0, 1] for frames, area, _ in phantoms()]
    assert np.median(ventricle) > 0.95
    assert np.median(chambers) > 0.97
    assert min(ventricle) > 0.7
    assert min(chambers) > 0.85


@pytest.mark.slow
def test_short_phantom_clips_have_no_rate_or_the_right_one() -> None:
    for frames, _, rate in phantoms():
        for beats in (0.5, 0.9, 1.3, 1.6):
            length = int(beats * 60 / rate * FPS)
            for first in (0, 9, 18):
                found = estimate_rhythm(frames[first : first + length], FPS).heart_rate
                assert math.isnan(found) or found == pytest.approx(rate, rel=0.1)
