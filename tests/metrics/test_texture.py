"""Spectra and speckle statistics compared with closed forms."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from echodream.metrics.texture import (
    log_spectral_estimate,
    radial_power,
    speckle_snr,
    speckle_width,
    temporal_power,
)

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(48, 48), (40, 64)])
@pytest.mark.parametrize("radius", [5, 12])
def test_a_wave_has_its_power_at_its_radius(shape: tuple[int, int], radius: int) -> None:
    rows, _ = np.mgrid[: shape[0], : shape[1]]
    wave = np.cos(2 * np.pi * radius * rows / min(shape))
    power = radial_power(wave[None])[0]
    assert power.shape == (min(shape) // 2 - 1,)
    assert int(power.argmax()) == radius - 1
    assert power[radius - 2 : radius + 1].sum() > 0.99 * power.sum()


def test_the_mean_gray_level_has_no_power() -> None:
    frames = RNG.normal(size=(2, 32, 32))
    assert np.allclose(radial_power(frames), radial_power(frames + 90))


def test_halved_contrast_is_six_decibels() -> None:
    power = radial_power(RNG.normal(size=(6, 32, 32)))
    assert log_spectral_estimate(power / 4, power).value == pytest.approx(20 * np.log10(2), abs=1e-6)
    assert log_spectral_estimate(power, power).value == 0


def test_log_spectral_distance_is_the_root_mean_square_difference_in_decibels() -> None:
    x, y = np.array([[1.0, 8.0], [3.0, 12.0]]), np.array([[20.0, 1.0]])
    # the means (2, 10) and (20, 1) differ by -10 and 10 dB
    assert log_spectral_estimate(x, y).value == pytest.approx(10.0)


def test_influences_are_the_derivative_by_the_weight_of_a_row() -> None:
    x, y = RNG.gamma(3.0, size=(5, 4)), RNG.gamma(4.0, size=(7, 4))
    estimate, step = log_spectral_estimate(x, y), 1e-6
    for influence, rows, other in ((estimate.x, x, y), (estimate.y, y, x)):
        for row in range(len(rows)):
            weights = np.full(len(rows), (1 - step) / len(rows))
            weights[row] += step
            moved = np.sqrt(np.mean((10 * np.log10(weights @ rows / other.mean(axis=0))) ** 2))
            assert influence[row] == pytest.approx((moved - estimate.value) / step, rel=1e-3, abs=1e-4)


def test_temporal_power_of_a_static_clip_is_zero_and_of_white_noise_flat() -> None:
    frame = RNG.normal(size=(16, 16))
    assert np.allclose(temporal_power(np.stack([frame] * 20)), 0)
    power = temporal_power(RNG.normal(size=(32, 64, 64)))
    assert power.shape == (15,)
    assert power[1:].max() / power[1:].min() < 1.15  # the first frequency is lower, because the mean is removed


def test_a_flicker_every_second_frame_is_at_the_highest_frequencies() -> None:
    flicker = (-1.0) ** np.arange(32)[:, None, None] * np.ones((32, 8, 8)) + 5
    power = temporal_power(flicker)
    assert power[-1] > 100 * power[:8].max()


def test_fully_developed_speckle_has_snr_1_91() -> None:
    """Rayleigh amplitudes have mean / std = sqrt(pi / (4 - pi)) = 1.91; windows of 49 pixels add a small bias."""
    frames = RNG.rayleigh(60.0, size=(200, 42, 42))
    ratios = speckle_snr(frames)
    assert ratios == pytest.approx([np.sqrt(np.pi / (4 - np.pi))] * 3, rel=0.05)
    smoother = speckle_snr(gaussian_filter(frames, (0, 1, 1)))
    assert (smoother > 2 * ratios).all()


def test_depth_bands_are_separate_and_black_is_no_tissue() -> None:
    frames = np.full((1, 63, 63), 0.0)
    frames[:, :21] = RNG.uniform(90, 110, size=(1, 21, 63))
    near, middle, far = speckle_snr(frames)
    assert near == pytest.approx(100 / (20 / np.sqrt(12)), rel=0.1)
    assert np.isnan([middle, far]).all()


def test_speckle_width_is_that_of_the_smoothing() -> None:
    """White noise smoothed by a Gaussian of std s has a Gaussian autocorrelation of std sqrt(2) s."""
    noise = gaussian_filter(RNG.normal(size=(40, 64, 64)), (0, 0.8, 1.2)) * 40 + 128
    axial, lateral = speckle_width(noise)
    factor = 2 * np.sqrt(2 * np.log(2)) * np.sqrt(2)
    assert (axial, lateral) == pytest.approx((factor * 0.8, factor * 1.2), rel=0.2)
    assert lateral > 1.2 * axial


def test_black_frames_have_no_width() -> None:
    assert np.isnan(speckle_width(np.zeros((2, 32, 32)))).all()
