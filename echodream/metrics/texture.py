"""Texture and motion of ultrasound videos: spatial and temporal power spectra, speckle statistics."""

import numpy as np
from scipy.ndimage import uniform_filter

from echodream.metrics.bootstrap import Estimate

PATCH_SIZE = 7
"""Height and width of the patches of ``speckle_snr``, in pixels."""
DEPTH_BANDS = ("near", "middle", "far")
"""Names of the three thirds of the image depth, from the probe downward."""
_MIN_TISSUE_LEVEL = 8
"""Minimum mean gray level, 0 to 255, of a patch of tissue."""
_MIN_POWER = 1e-12
"""Constant that is added to powers before the logarithm, because black frames have power 0."""


def radial_power(frames: np.ndarray) -> np.ndarray:
    """Radially averaged power spectra of Hann-windowed, mean-free ``frames``: (N, H, W) to (N, n/2 - 1).

    n is the smaller of H and W. The spatial frequencies are 1 to n/2 - 1 cycles per n pixels.
    """
    height, width = frames.shape[1:]
    n = min(height, width)
    window = np.outer(np.hanning(height), np.hanning(width))
    centered = frames - frames.mean(axis=(1, 2), keepdims=True)
    power = np.abs(np.fft.fft2(centered * window)) ** 2
    frequencies = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)) * n
    radius = np.rint(frequencies).astype(int).ravel()
    counts = np.bincount(radius)
    sums = np.stack([np.bincount(radius, spectrum) for spectrum in power.reshape(len(power), -1)])
    return np.asarray((sums / counts)[:, 1 : n // 2])


def temporal_power(clip: np.ndarray) -> np.ndarray:
    """Temporal power spectrum of a clip, averaged over pixels: (F, H, W) to (F/2 - 1,).

    The frequencies are 1 to F/2 - 1 cycles per F frames. The time series of each pixel is centered and Hann-windowed.
    Flicker (new noise in every frame) increases the power at high frequencies; a static texture decreases it.
    """
    centered = clip - clip.mean(axis=0)
    spectrum = np.fft.rfft(centered * np.hanning(len(clip))[:, None, None], axis=0)
    return np.asarray((np.abs(spectrum) ** 2).mean(axis=(1, 2))[1 : len(clip) // 2])


def log_spectral_estimate(x: np.ndarray, y: np.ndarray) -> Estimate:
    """Log-spectral distance D between the mean power spectra P_x and P_y of two sets, (N, R) and (M, R), in dB.

    D is the root mean square over the R frequencies r of d_r = 10 log10 P_x - 10 log10 P_y. The influence of row i with
    spectrum p_i is the derivative of D by the weight of the row: mean_r(d_r * 10 / ln 10 * (p_ir / P_r - 1)) / D.
    """
    x, y = np.asarray(x, np.float64) + _MIN_POWER, np.asarray(y, np.float64) + _MIN_POWER
    means = x.mean(axis=0), y.mean(axis=0)
    difference = 10 * np.log10(means[0] / means[1])
    value = float(np.sqrt(np.mean(difference**2)))
    if value == 0:
        return Estimate(0.0, np.zeros(len(x)), np.zeros(len(y)), bounds=(0.0, np.inf))
    influence_x, influence_y = (
        sign * (10 / np.log(10) * (rows / mean - 1) * difference).mean(axis=1) / value
        for sign, rows, mean in ((1, x, means[0]), (-1, y, means[1]))
    )
    return Estimate(value, influence_x, influence_y, bounds=(0.0, np.inf))


def speckle_snr(frames: np.ndarray) -> np.ndarray:
    """Signal-to-noise ratio of speckle: mean over standard deviation of gray levels in 7x7 patches of tissue.

    ``frames``: (N, H, W), gray levels 0 to 255. Returns the mean in each of ``DEPTH_BANDS``, (3,), or NaN. Fully
    developed speckle has a ratio of 1.91 before log compression (Burckhardt 1978).
    """
    n, height, width = frames.shape
    rows, columns = height // PATCH_SIZE, width // PATCH_SIZE
    patches = frames[:, : rows * PATCH_SIZE, : columns * PATCH_SIZE].reshape(n, rows, PATCH_SIZE, columns, PATCH_SIZE)
    mean, std = patches.mean(axis=(2, 4)), patches.std(axis=(2, 4))
    tissue = (mean >= _MIN_TISSUE_LEVEL) & (patches.min(axis=(2, 4)) > 0) & (std > 0)
    ratio = np.ma.array(np.divide(mean, std, out=np.zeros_like(mean), where=tissue), mask=~tissue)
    bands = np.array_split(np.arange(rows), len(DEPTH_BANDS))
    return np.array([np.ma.filled(ratio[:, band].mean(), np.nan) for band in bands])


def speckle_width(frames: np.ndarray) -> np.ndarray:
    """Full width at half maximum of the autocorrelation of speckle, axial and lateral, in pixels: (N, H, W) to (2,).

    Speckle is the frame minus its mean over 9x9 pixels, where the frame is not black.
    """
    values = frames.astype(np.float64)
    residual = (values - uniform_filter(values, size=(0, 9, 9))) * (values > 0)
    power = (np.abs(np.fft.fft2(residual)) ** 2).mean(axis=0)
    correlation = np.fft.ifft2(power).real
    if correlation[0, 0] <= 0:
        return np.full(2, np.nan)
    correlation /= correlation[0, 0]
    return np.array([_full_width_at_half_maximum(correlation[:, 0]), _full_width_at_half_maximum(correlation[0])])


def _full_width_at_half_maximum(correlation: np.ndarray) -> float:
    """Twice the lag at which ``correlation``, 1 at lag 0, first falls to 1/2, interpolated; NaN without such a lag."""
    half = correlation[: len(correlation) // 2]
    below = np.flatnonzero(half < 0.5)
    if not len(below):
        return float("nan")
    lag = int(below[0])
    return 2 * (lag - (0.5 - half[lag]) / (half[lag - 1] - half[lag]))
