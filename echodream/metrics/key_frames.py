"""Detection of end diastole (ED) and end systole (ES) in echocardiography videos from their pixels, without a model.

Frames are (F, H, W): uint8, or floats in [-1, 1]. The ventricles move most, so the first principal component of the
smoothed frames follows the contraction of the ventricles. The extrema of this component are ED and ES. Two facts decide
whether ED are the maxima or the minima: ventricles are larger at ED, and systole is shorter than diastole.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage, signal

from echodream.metrics.cardiac_cycle import MIN_BEATS, area_curve, estimate_rhythm, gray_levels, smooth_frames

MIN_SIDE = 48
"""Minimum number of pixels on the shorter side of frames after downsampling by an integer factor."""
VENTRICLE_DEPTH = 0.5
"""Fraction of the height of the sector, from the probe, in which the blood pool belongs to the ventricles."""
MIN_PERIODICITY = 0.5
"""Minimum autocorrelation at a lag of one beat; videos of breathing lungs have lower values."""
_COMPONENTS = 6  # number of principal components
_SMOOTHING = 0.012  # standard deviation, in seconds, of the Gaussian filter of the first component
_PROMINENCE = 0.4  # minimum prominence of a peak, as a fraction of the range of the component
_END_DROP = 0.2  # maximum drop of a peak near an end below the median of inner peaks, as a fraction of the range
_MIN_DISTANCE = 0.6  # minimum distance of two peaks of one kind, in beats
_MIN_END_DISTANCE = 0.85  # minimum distance of a peak at an end of the clip from the other peaks, in beats
_LEVELS = (0.03, 0.12)  # two levels below a peak, as fractions of the range, from which its time is extrapolated
_EXTRAPOLATION = {"ED": 0.5, "ES": 1.0}  # extrapolated time after the upper level, in units of the time between levels
_END_TOLERANCE = 0.25  # maximum distance of frames at an end of the clip from another beat, as a fraction of the range
_MIN_BEATS_WITH_PEAK = 0.5  # minimum share of beats with a peak
_SYSTOLE_WEIGHT = 8.0  # weight of the share of systole in a beat, relative to the correlation with the blood pool


@dataclass(frozen=True)
class KeyFrames:
    """Frame numbers of end diastoles, ``ed``, and end systoles, ``es``, of a clip; none if there is a ``problem``."""

    ed: tuple[int, ...] = ()
    es: tuple[int, ...] = ()
    heart_rate: float = float("nan")
    """Heart rate in beats per minute."""
    problem: str | None = None
    """Reason for missing key frames, as a clause of a message."""


@dataclass(frozen=True)
class KeyFrameMatch:
    """Numbers of matched and missed reference key frames, and of spurious detections."""

    matched: int
    missed: int
    spurious: int


def detect_key_frames(frames: np.ndarray, fps: float) -> KeyFrames:
    """All end diastoles and end systoles of a clip, (F, H, W), at ``fps`` frames per second.

    Beats that the ends of the clip cut off are matched with complete beats. A clip of fewer than ``MIN_BEATS`` beats,
    or without periodic motion, has no key frames.
    """
    levels = _downsample(frames)
    rhythm = estimate_rhythm(_remove_slow_changes(levels), fps)
    if not rhythm.periodicity > MIN_PERIODICITY:
        return KeyFrames(problem=f"no rhythm of at least {MIN_BEATS:g} beats")
    beat = 60 * fps / rhythm.heart_rate
    trajectory = _principal_components(levels, beat)
    area = area_curve(levels, VENTRICLE_DEPTH)
    times = _turning_points(trajectory, beat, fps)
    reversed_times = _turning_points(-trajectory, beat, fps)
    with np.errstate(invalid="ignore", divide="ignore"):  # an undefined area has correlation 0
        correlation = np.nan_to_num(np.corrcoef(trajectory[:, 0], area)[0, 1])
    min_peaks = _MIN_BEATS_WITH_PEAK * (len(levels) / beat - 1)
    if not all(len(each) >= max(1.0, min_peaks) for each in times.values()):
        return KeyFrames(problem="the periodic motion does not have one maximum and minimum per beat")
    if correlation + _SYSTOLE_WEIGHT * (0.5 - _systole_share(times, beat)) < 0:
        times = reversed_times
    ed, es = (tuple(int(t) for t in np.round(np.clip(times[kind], 0, len(levels) - 1))) for kind in ("ED", "ES"))
    return KeyFrames(ed, es, rhythm.heart_rate)


def match_key_frames(detections: Sequence[int], reference: Sequence[int], tolerance: int = 1) -> KeyFrameMatch:
    """One-to-one match of ``detections`` and ``reference`` frames that differ by at most ``tolerance`` frames."""
    unmatched, matched = sorted(detections), 0
    for frame in sorted(reference):
        match = next((candidate for candidate in unmatched if abs(candidate - frame) <= tolerance), None)
        if match is not None:  # the earliest match never reduces the number of later matches
            unmatched.remove(match)
            matched += 1
    return KeyFrameMatch(matched, len(reference) - matched, len(unmatched))


def _downsample(frames: np.ndarray) -> np.ndarray:
    """Block averages of frames, floats in [-1, 1], with at least ``MIN_SIDE`` pixels on the shorter side."""
    gray_levels(frames[:1])  # raises for arrays that are not frames
    factor = max(1, min(frames.shape[1:]) // MIN_SIDE)
    height, width = (size // factor * factor for size in frames.shape[1:])
    blocks = frames[:, :height, :width].reshape(len(frames), height // factor, factor, width // factor, factor)
    means = blocks.mean(axis=(2, 4), dtype=np.float64)
    return means / 127.5 - 1 if frames.dtype == np.uint8 else np.clip(means, -1, 1)


def _remove_slow_changes(levels: np.ndarray) -> np.ndarray:
    """Frames (F, H, W) without the quadratic trend of each pixel over time, which a moving probe causes."""
    flat = levels.reshape(len(levels), -1)
    basis, _ = np.linalg.qr(np.vander(np.linspace(-1, 1, len(levels)), 3))
    return np.clip((flat - basis @ (basis.T @ flat)).reshape(levels.shape), -1, 1)


def _principal_components(levels: np.ndarray, beat: float) -> np.ndarray:
    """Principal components of the frames over time, (F, K), by decreasing variance, without drift.

    The drift of a component is its mean change per frame, computed from frames that are one beat (``beat`` frames)
    apart.
    """
    deviations = smooth_frames(levels).reshape(len(levels), -1)
    deviations = deviations - deviations.mean(axis=0)
    values, vectors = np.linalg.eigh(deviations @ deviations.T)
    components = vectors[:, ::-1][:, :_COMPONENTS] * np.sqrt(np.clip(values[::-1][:_COMPONENTS], 0, None))
    lag = round(beat)
    drift = (components[lag:] - components[:-lag]).mean(axis=0) / lag
    components = components - drift * np.arange(len(components))[:, None]
    left, size, _ = np.linalg.svd(components - components.mean(axis=0), full_matrices=False)
    return np.asarray(left * size)


def _turning_points(trajectory: np.ndarray, beat: float, fps: float) -> dict[str, np.ndarray]:
    """Times, in frames, of the maxima ("ED") and of the minima ("ES") of the first component."""
    width = _SMOOTHING * fps
    curve = ndimage.gaussian_filter1d(trajectory[:, 0], width) if width > 0.3 else trajectory[:, 0]
    low, high = np.percentile(curve, [5, 95])
    turning_points, min_distance = {}, _MIN_END_DISTANCE * beat
    for kind, sign in (("ED", 1), ("ES", -1)):
        times = _peak_times(sign * curve, high - low, beat, _EXTRAPOLATION[kind])
        ends = [_edge_time(trajectory, times, beat, high - low, at_end) for at_end in (False, True)]
        distant = [end for end in ends if end is not None and all(abs(end - time) > min_distance for time in times)]
        turning_points[kind] = np.array(sorted(times + distant))
    return turning_points


def _peak_times(curve: np.ndarray, scale: float, beat: float, extrapolation: float) -> list[float]:
    """Times of the complete peaks of ``curve``, whose range is ``scale``."""
    options = {"prominence": _PROMINENCE * scale, "distance": max(1.0, _MIN_DISTANCE * beat)}
    inner, _ = signal.find_peaks(curve, **options)
    padded = np.concatenate([[curve.min()], curve, [curve.min()]])  # the prominence of peaks near an end is not reduced
    bound = np.median(curve[inner]) - _END_DROP * scale if len(inner) else -np.inf
    peaks = [peak - 1 for peak in signal.find_peaks(padded, **options)[0] if peak - 1 in inner or padded[peak] >= bound]
    times = [_arrival_time(curve, int(peak), scale, extrapolation) for peak in peaks if peak < len(curve) - 1]
    return [time for time in times if time is not None]


def _arrival_time(curve: np.ndarray, peak: int, scale: float, extrapolation: float) -> float | None:
    """End of the rise to ``peak``, extrapolated from the crossings of two levels; None if a crossing is missing.

    The maximum itself has a noisy position, because the curve is flat in the isovolumic phases.
    """
    crossings = []
    for level in (curve[peak] - share * scale for share in _LEVELS):
        below = np.flatnonzero(curve[:peak] <= level)
        if not len(below):
            return None
        k = int(below[-1])
        crossings.append(k + (level - curve[k]) / (curve[k + 1] - curve[k]))
    return float(crossings[0] + extrapolation * (crossings[0] - crossings[1]))


def _edge_time(trajectory: np.ndarray, times: Sequence[float], beat: float, scale: float, at_end: bool) -> float | None:
    """Time of a turning point at the start (or at its end, if ``at_end``) of the clip, by a match with complete beats.

    None if no complete beat matches, or if the turning point lies outside the clip.
    """
    count = len(trajectory)
    span, max_shift = max(3, round(0.12 * beat)), max(3.0, 0.2 * beat)
    end = count - 1 if at_end else 0
    end_frames = np.arange(count - span, count) if at_end else np.arange(span)
    shifts = np.arange(-max_shift, max_shift + 0.01, 0.1)
    best, best_shift = np.inf, 0.0
    for time in times:
        shifted = time + shifts[:, None] + (end_frames - end)
        inside = (shifted[:, 0] >= 0) & (shifted[:, -1] <= count - 1)
        if abs(time - end) < 0.5 * beat or not inside.any():
            continue
        other = np.stack([np.interp(shifted[inside], np.arange(count), part) for part in trajectory.T], axis=-1)
        distance = ((other - trajectory[end_frames]) ** 2).sum(axis=(1, 2)) / span
        if distance.min() < best:
            best, best_shift = distance.min(), shifts[inside][distance.argmin()]
    matches = best <= (_END_TOLERANCE * scale) ** 2 and abs(best_shift) <= max_shift - 0.05
    return float(end - best_shift) if matches and 0 <= end - best_shift <= count - 1 else None


def _systole_share(times: dict[str, np.ndarray], beat: float) -> float:
    """Median duration of systole (end diastole to next end systole), as a fraction of a beat; 0.5 if unknown."""
    systoles = [min(later) - ed for ed in times["ED"] if len(later := times["ES"][times["ES"] > ed])]
    diastoles = [min(later) - es for es in times["ES"] if len(later := times["ED"][times["ED"] > es])]
    lengths = [*systoles, *(beat - length for length in diastoles)]
    shares = [length / beat for length in lengths if 0 < length < beat]
    return float(np.median(shares)) if shares else 0.5
