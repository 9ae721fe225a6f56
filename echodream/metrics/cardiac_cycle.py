"""Cardiac cycle of a video from its pixels, without a model: chamber area, heart rate, periodicity, frame differences.

Frames are (F, H, W): uint8, or floats in [-1, 1].
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage, signal

MIN_HEART_RATE, MAX_HEART_RATE = 30.0, 220.0
"""Range of heart rates that are detected, in beats per minute."""
MIN_BEATS = 1.5
"""Minimum number of beats in a clip for a heart rate."""
MIN_AUTOCORRELATION = 0.35
"""Minimum autocorrelation at a lag of one beat; lower peaks are not a heart rhythm."""
_SECTOR_THRESHOLD = 8.0  # gray level, 0 to 255: darker pixels may lie outside the sector
_EDGE_WIDTH = 20.0  # width in gray levels of the linear transition between chamber and tissue


@dataclass(frozen=True)
class Rhythm:
    """Heart rhythm of a clip."""

    heart_rate: float
    """Beats per minute; NaN if the clip has fewer than ``MIN_BEATS`` beats, or no clear rhythm."""
    periodicity: float
    """Autocorrelation at a lag of one beat, 0 to 1; NaN if ``heart_rate`` is NaN."""


def gray_levels(frames: np.ndarray) -> np.ndarray:
    """Frames (F, H, W) as float64 gray levels 0..255. Raises ``ValueError`` for other types and shapes."""
    if frames.ndim != 3:
        raise ValueError(f"frames are {frames.shape}, not (F, H, W)")
    if frames.dtype == np.uint8:
        return frames.astype(np.float64)
    if not np.issubdtype(frames.dtype, np.floating):
        raise ValueError(f"frames are {frames.dtype}, not uint8 or floats in [-1, 1]")
    return (np.clip(frames.astype(np.float64), -1, 1) + 1) * 127.5


def sector_mask(frames: np.ndarray) -> np.ndarray:
    """Mask of the ultrasound sector, bool (H, W): in each row, the pixels from the first to the last bright pixel."""
    bright = ndimage.binary_opening(frames.max(axis=0) > _SECTOR_THRESHOLD, iterations=1)
    return np.logical_or.accumulate(bright, axis=1) & np.logical_or.accumulate(bright[:, ::-1], axis=1)[:, ::-1]


def area_curve(frames: np.ndarray, depth: float = 1.0) -> np.ndarray:
    """Area of the blood pool in each frame, (F,): share of dark pixels in the top fraction ``depth`` of the sector.

    A pixel is dark below the Otsu threshold of the smoothed clip. Shadows count as dark, but they do not move, so the
    range of the curve comes from the chambers. The area is NaN if no sector is found.
    """
    levels = gray_levels(frames)
    inside = sector_mask(levels)
    if not inside.any():
        return np.full(len(levels), np.nan)
    smooth = smooth_frames(levels)
    threshold = _otsu_threshold(smooth[:, inside])
    rows = np.flatnonzero(inside.any(axis=1))
    inside[rows[0] + max(1, round(depth * (rows[-1] + 1 - rows[0]))) :] = False
    return np.asarray(np.clip((threshold - smooth[:, inside]) / _EDGE_WIDTH + 0.5, 0, 1).mean(axis=1))


def smooth_frames(levels: np.ndarray) -> np.ndarray:
    """Frames (F, H, W) after a spatial Gaussian filter with a sigma of 1/64 of the image size, similar to speckle."""
    widths = (max(size / 64, 0.5) for size in levels.shape[1:])
    return np.asarray(ndimage.gaussian_filter(levels, (0, *widths)))


def percentile_range(curve: np.ndarray) -> float:
    """Difference between the 95th and the 5th percentile of ``curve``, (F,)."""
    low, high = np.percentile(curve, [5, 95])
    return float(high - low)


def estimate_rhythm(frames: np.ndarray, fps: float) -> Rhythm:
    """Heart rate and periodicity of a clip at ``fps`` frames per second.

    The autocorrelation has peaks at multiples of the duration of a beat. The duration is the lag of the first high
    peak, interpolated between frames by a parabola.
    """
    correlation = temporal_autocorrelation(frames, int(len(frames) / MIN_BEATS))
    low, high = 60 * fps / MAX_HEART_RATE, 60 * fps / MIN_HEART_RATE
    peaks, _ = signal.find_peaks(correlation, height=MIN_AUTOCORRELATION)
    lags = peaks[(peaks > 1) & (peaks >= low) & (peaks <= high)]
    if not len(lags):
        return Rhythm(float("nan"), float("nan"))
    lag = lags[np.argmax(correlation[lags] > 0.85 * correlation[lags].max())]
    before, top, after = correlation[lag - 1 : lag + 2]
    exact = lag + 0.5 * (before - after) / (before - 2 * top + after)
    return Rhythm(60 * fps / exact, float(min(top, 1.0)))


def temporal_autocorrelation(frames: np.ndarray, lags: int) -> np.ndarray:
    """Autocorrelation of the frames at lags 0 to ``lags``, in frames: (lags + 1,).

    Pixels are smoothed in space, and their mean over time is subtracted, so that static pixels and speckle contribute
    little. The autocorrelation of a static clip is 0.
    """
    levels = gray_levels(frames)
    smooth = smooth_frames(levels)
    deviations = (smooth - smooth.mean(axis=0)).reshape(len(levels), -1)
    products = deviations @ deviations.T
    lags = min(lags, len(levels) - 1)
    correlation = np.zeros(lags + 1)
    for lag in range(lags + 1):
        energy = np.trace(products[lag:, lag:]) * np.trace(products[: len(levels) - lag, : len(levels) - lag])
        if energy > 1e-6:
            correlation[lag] = np.trace(products, lag) / np.sqrt(energy)
    return correlation


def frame_difference_curve(frames: np.ndarray) -> np.ndarray:
    """Mean absolute difference of each frame from the previous frame, in gray levels 0..255: (F - 1,)."""
    return np.asarray(np.abs(np.diff(gray_levels(frames), axis=0)).mean(axis=(1, 2)))


def jump_ratio(frames: np.ndarray) -> float:
    """Ratio of the 95th percentile to the median of the frame differences; NaN if the median is 0.

    A video that jumps between poses changes only in a few frames, which gives a high ratio.
    """
    median, high = np.percentile(frame_difference_curve(frames), [50, 95])
    return float(high / median) if median > 0 else float("nan")


def seam_ratio(frames: np.ndarray, joins: Sequence[int]) -> float:
    """Ratio of the mean frame difference at ``joins`` to the mean frame difference elsewhere; 1 without visible seams.

    A join is the first frame of a generated window, 1 to F - 1. The ratio is NaN if there is no join, if every frame is
    a join, or if no frame differs elsewhere. Raises ``ValueError`` for a join outside the clip.
    """
    if outside := [join for join in joins if not 1 <= join < len(frames)]:
        raise ValueError(f"a join at frame {outside[0]} is outside a clip of {len(frames)} frames")
    differences = frame_difference_curve(frames)
    at_join = np.zeros(len(differences), bool)
    at_join[[join - 1 for join in joins]] = True
    if not at_join.any() or at_join.all() or not differences[~at_join].mean() > 0:
        return float("nan")
    return float(differences[at_join].mean() / differences[~at_join].mean())


def _otsu_threshold(values: np.ndarray) -> float:
    """Threshold with the largest variance between the two groups of ``values``, of any shape (Otsu 1979)."""
    counts, edges = np.histogram(values, bins=256)
    centers = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    total = np.cumsum(counts * centers)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (total / below - (total[-1] - total) / above) ** 2
    return float(edges[1:][np.argmax(np.nan_to_num(between[:-1]))])
