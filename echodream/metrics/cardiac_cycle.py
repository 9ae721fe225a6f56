"""How a heart beats in a video, from the pixels alone: chamber area, heart rate, periodicity, seams.

Frames are (F, H, W): uint8, or floats in [-1, 1]. Nothing here is trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

MIN_HEART_RATE, FASTEST = 30.0, 220.0
"""Heart rates that are looked for, beats per minute."""
MIN_BEATS = 1.5
"""A clip must show so many beats before it has a heart rate."""
MIN_AUTOCORRELATION = 0.35
"""Least likeness of frames one beat apart; below, the likeness is of something else."""
_LIT = 8.0  # grey levels of 255: darker pixels may lie outside the sector
_SOFT = 20.0  # grey levels over which a pixel on a chamber's border counts in part


@dataclass(frozen=True)
class Rhythm:
    """What repeats in a clip."""

    heart_rate: float
    """Beats per minute; NaN when the clip shows fewer than ``BEATS`` beats, or none that can be told."""
    periodicity: float
    """Likeness of frames that are one beat apart, 0 to 1; NaN with ``heart_rate``."""


def gray_levels(frames: np.ndarray) -> np.ndarray:
    """uint8, or floats in [-1, 1], as float64 grey levels 0..255; any shape.

    Raises ``ValueError`` for other types, and for anything but (F, H, W).
    """
    if frames.ndim != 3:
        raise ValueError(f"frames are {frames.shape}, not (F, H, W)")
    if frames.dtype == np.uint8:
        return frames.astype(np.float64)
    if not np.issubdtype(frames.dtype, np.floating):
        raise ValueError(f"frames are {frames.dtype}, not uint8 or floats in [-1, 1]")
    return (np.clip(frames.astype(np.float64), -1, 1) + 1) * 127.5


def sector(frames: np.ndarray) -> np.ndarray:
    """Where the scanner draws: in each row the span of what is ever lit. Grey levels (F, H, W) to bool (H, W)."""
    lit = ndimage.binary_opening(frames.max(axis=0) > _LIT, iterations=1)
    return np.logical_or.accumulate(lit, axis=1) & np.logical_or.accumulate(lit[:, ::-1], axis=1)[:, ::-1]


def area_curve(frames: np.ndarray, near: float = 1.0) -> np.ndarray:
    """Area of the blood pool in each frame, (F,): the dark pixels' share of the sector, or of its ``near`` part on top.

    Dark is below Otsu's threshold over the whole clip, after smoothing away the speckle. Shadows count too; they do not
    move, so that the curve's swing is the chambers'. NaN where there is no sector.
    """
    levels = gray_levels(frames)
    inside = sector(levels)
    if not inside.any():
        return np.full(len(levels), np.nan)
    smooth = smooth_frames(levels)
    edge = _otsu(smooth[:, inside])
    rows = np.flatnonzero(inside.any(axis=1))
    inside[rows[0] + max(1, round(near * (rows[-1] + 1 - rows[0]))) :] = False
    area: np.ndarray = np.clip((edge - smooth[:, inside]) / _SOFT + 0.5, 0, 1).mean(axis=1)
    return area


def smooth_frames(levels: np.ndarray) -> np.ndarray:
    """Each frame without its speckle, whatever the resolution. Any numbers, (F, H, W)."""
    blurred: np.ndarray = ndimage.gaussian_filter(levels, (0, *_widths(levels)))
    return blurred


def percentile_range(curve: np.ndarray) -> float:
    """How far a curve goes up and down, in its own units: from its 5th to its 95th percentile. (F,)."""
    low, high = np.percentile(curve, [5, 95])
    return float(high - low)


def estimate_rhythm(frames: np.ndarray, fps: float) -> Rhythm:
    """Heart rate and periodicity of a clip at ``fps`` frames per second.

    The likeness of frames ``lag`` apart, as a function of the lag, peaks after each beat; the first high peak is the
    beat, to a fraction of a frame by a parabola through its top.
    """
    likeness = temporal_autocorrelation(frames, int(len(frames) / MIN_BEATS))
    low, high = 60 * fps / FASTEST, 60 * fps / MIN_HEART_RATE
    lags = [
        lag
        for lag in range(2, len(likeness) - 1)
        if likeness[lag - 1] < likeness[lag] >= likeness[lag + 1]
        and low <= lag <= high
        and likeness[lag] > MIN_AUTOCORRELATION
    ]
    if not lags:
        return Rhythm(float("nan"), float("nan"))
    best = max(likeness[lag] for lag in lags)
    lag = next(lag for lag in lags if likeness[lag] > 0.85 * best)
    before, top, after = likeness[lag - 1 : lag + 2]
    exact = lag + 0.5 * (before - after) / (before - 2 * top + after)
    return Rhythm(60 * fps / exact, float(min(top, 1.0)))


def temporal_autocorrelation(frames: np.ndarray, lags: int) -> np.ndarray:
    """Correlation of what moves at one time with what moves ``lag`` frames later, for lags 0 to ``lags``: (lags + 1,).

    Each pixel counts by its departure from its own mean over time, smoothed in space, so that what stands still and
    what flickers say little. All zero where nothing moves.
    """
    levels = gray_levels(frames)
    smooth = smooth_frames(levels)
    moves = (smooth - smooth.mean(axis=0)).reshape(len(levels), -1)
    products = moves @ moves.T
    lags = min(lags, len(levels) - 1)
    found = np.zeros(lags + 1)
    for lag in range(lags + 1):
        energy = np.trace(products[lag:, lag:]) * np.trace(products[: len(levels) - lag, : len(levels) - lag])
        if energy > 1e-6:
            found[lag] = np.trace(products, lag) / np.sqrt(energy)
    return found


def frame_difference_curve(frames: np.ndarray) -> np.ndarray:
    """Mean absolute difference of each frame to the one before, grey levels of 255: (F - 1,)."""
    change: np.ndarray = np.abs(np.diff(gray_levels(frames), axis=0)).mean(axis=(1, 2))
    return change


def jump_ratio(frames: np.ndarray) -> float:
    """The 95th percentile of the change from frame to frame over its median; NaN where the median is 0.

    A heart that beats smoothly changes more in some frames than in others; one that jumps from pose to pose changes in
    few frames only, and has a high ratio, whatever its mean change is.
    """
    low, high = np.percentile(frame_difference_curve(frames), [50, 95])
    return float(high / low) if low > 0 else float("nan")


def seam_ratio(frames: np.ndarray, joins: Sequence[int]) -> float:
    """Mean change at the ``joins`` over mean change elsewhere: 1 where no seam can be seen.

    A join is the number of the first frame after it, 1 to F - 1. NaN without joins, without an elsewhere, or where
    nothing else changes. Raises ``ValueError`` for a join outside the clip.
    """
    if wrong := [join for join in joins if not 1 <= join < len(frames)]:
        raise ValueError(f"a join at frame {wrong[0]} is outside a clip of {len(frames)} frames")
    change = frame_difference_curve(frames)
    at = np.zeros(len(change), bool)
    at[[join - 1 for join in joins]] = True
    if not at.any() or at.all() or not change[~at].mean() > 0:
        return float("nan")
    return float(change[at].mean() / change[~at].mean())


def _widths(levels: np.ndarray) -> tuple[float, float]:
    """Standard deviations of the smoothing down and across, in pixels: speckle's size, whatever the resolution."""
    return max(levels.shape[1] / 64, 0.5), max(levels.shape[2] / 64, 0.5)


def _otsu(values: np.ndarray) -> float:
    """The threshold that parts ``values`` into the two most distinct groups (Otsu 1979). Any shape."""
    counts, edges = np.histogram(values, bins=256)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    total = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (total / below - (total[-1] - total) / above) ** 2
    return float(edges[1:][np.argmax(np.nan_to_num(between[:-1]))])
