"""End diastole and end systole in a video of a heart, from the pixels alone. Nothing here is trained.

Frames are (F, H, W): uint8, or floats in [-1, 1]. What moves most in a heart is its ventricles, so that the first
principal component of the smoothed frames follows their contraction. It turns around at end diastole and at end
systole; which of them is which is told by the area of the blood pool near the probe and by systole being the shorter.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage, signal

from echodream.metrics.cardiac_cycle import MIN_BEATS, area_curve, estimate_rhythm, gray_levels, smooth_frames

SIDE = 48
"""Frames are reduced by a whole factor, to no fewer pixels on their shorter side."""
NEAR = 0.5
"""Share of the sector's height, from the probe, in which the blood pool is that of the ventricles."""
CLEAR = 0.5
"""Least likeness of frames one beat apart: lungs that breathe stay below."""
_COMPONENTS = 6
_BLUR = 0.012  # seconds over which the curve is smoothed
_PROMINENCE = 0.4  # of the curve's swing: smaller turns are filling waves
_LOWER = 0.2  # of the swing: tops near an end that are lower than others by more are filling waves
_APART = 0.6  # of a beat: turning points of one kind lie farther from each other
_NEXT = 0.85  # of a beat: one that is told by the look of an end lies farther from those that are seen whole
_LEVELS = (0.03, 0.12)  # of the swing below the top: where the arrival at a turning point is timed
_CORNER = {"ED": 0.5, "ES": 1.0}  # how far the arrival is extended: filling ends more abruptly than ejection
_LIKE = 0.25  # of the swing: how far the frames at an end may be from those of another beat
_COVERED = 0.5  # share of the beats that must be found
_SHORTER = 8.0  # what systole's share of a beat counts for, beside the correlation with the blood pool


@dataclass(frozen=True)
class KeyFrames:
    """Frame numbers of the end diastoles and end systoles that a clip shows; none when there is a ``problem``."""

    ed: tuple[int, ...] = ()
    es: tuple[int, ...] = ()
    heart_rate: float = float("nan")
    """Beats per minute."""
    problem: str | None = None
    """Why there are none, a sentence part."""


@dataclass(frozen=True)
class KeyFrameMatch:
    """What was found against what was true, in moments."""

    hits: int
    missed: int
    invented: int


def detect_key_frames(frames: np.ndarray, fps: float) -> KeyFrames:
    """Each end diastole and end systole of a clip (F, H, W) at ``fps`` frames per second.

    The first and the last beat are compared with the others to tell whether a turning point that is half cut off lies
    in the clip. A clip of fewer than ``BEATS`` beats, or in which nothing repeats, has none.
    """
    levels = _reduced(frames)
    found = estimate_rhythm(_detrended(levels), fps)
    if not found.periodicity > CLEAR:
        return KeyFrames(problem=f"no rhythm of at least {MIN_BEATS:g} beats")
    beat = 60 * fps / found.heart_rate
    course = _course(levels, beat)
    near = area_curve(levels, NEAR)
    moments = _moments(course, beat, fps)
    turned = _moments(-course, beat, fps)
    likeness = _correlation(course[:, 0], near)
    expected = _COVERED * (len(levels) / beat - 1)
    if not all(len(at) >= max(1.0, expected) for at in moments.values()):
        return KeyFrames(problem="what repeats does not turn around once a beat")
    if likeness + _SHORTER * (0.5 - _systole(moments, beat)) < 0:
        moments = turned
    ed, es = (tuple(int(at) for at in np.round(np.clip(moments[kind], 0, len(levels) - 1))) for kind in ("ED", "ES"))
    return KeyFrames(ed, es, found.heart_rate)


def match_key_frames(found: Sequence[int], truth: Sequence[int], within: int = 1) -> KeyFrameMatch:
    """Pair ``found`` with ``truth``, frame numbers at most ``within`` apart, once each; the rest did not match."""
    left, hits = sorted(found), 0
    for mark in sorted(truth):
        near = next((one for one in left if abs(one - mark) <= within), None)
        if near is not None:  # the earliest that fits: no later mark can be worse off
            left.remove(near)
            hits += 1
    return KeyFrameMatch(hits, len(truth) - hits, len(left))


def _reduced(frames: np.ndarray) -> np.ndarray:
    """Frames with ``SIDE`` pixels or more on the shorter side, each the mean of a square: floats in [-1, 1]."""
    gray_levels(frames[:1])  # refuses what are no frames
    factor = max(1, min(frames.shape[1:]) // SIDE)
    height, width = (side // factor * factor for side in frames.shape[1:])
    squares = frames[:, :height, :width].reshape(len(frames), height // factor, factor, width // factor, factor)
    means = squares.mean(axis=(2, 4), dtype=np.float64)
    return means / 127.5 - 1 if frames.dtype == np.uint8 else np.clip(means, -1, 1)


def _detrended(levels: np.ndarray) -> np.ndarray:
    """Without what changes slowly, as where the probe slides: each pixel less its parabola over time. (F, H, W)."""
    flat = levels.reshape(len(levels), -1)
    basis, _ = np.linalg.qr(np.vander(np.linspace(-1, 1, len(levels)), 3))
    kept: np.ndarray = flat - basis @ (basis.T @ flat)
    return np.clip(kept.reshape(levels.shape), -1, 1)


def _course(levels: np.ndarray, beat: float) -> np.ndarray:
    """The heart's course through the space of its frames, its largest movement first: (F, K).

    A drift, the mean change over a beat of ``beat`` frames, is taken out.
    """
    moves = smooth_frames(levels).reshape(len(levels), -1)
    moves = moves - moves.mean(axis=0)
    values, vectors = np.linalg.eigh(moves @ moves.T)
    course = vectors[:, ::-1][:, :_COMPONENTS] * np.sqrt(np.clip(values[::-1][:_COMPONENTS], 0, None))
    lag = round(beat)
    drift = (course[lag:] - course[:-lag]).mean(axis=0) / lag
    course = course - drift * np.arange(len(course))[:, None]
    left, size, _ = np.linalg.svd(course - course.mean(axis=0), full_matrices=False)
    steady: np.ndarray = left * size
    return steady


def _moments(course: np.ndarray, beat: float, fps: float) -> dict[str, np.ndarray]:
    """Turning points in frames, to a fraction of one, if the course's first component is largest at end diastole."""
    blur = _BLUR * fps
    curve = ndimage.gaussian_filter1d(course[:, 0], blur) if blur > 0.3 else course[:, 0]
    low, high = np.percentile(curve, [5, 95])
    found = {}
    for kind, sign in (("ED", 1), ("ES", -1)):
        inner = _turns(sign * curve, high - low, beat, _CORNER[kind])
        ends = [_at_end(course, inner, beat, high - low, last) for last in (False, True)]
        inner += [at for at in ends if at is not None and all(abs(at - other) > _NEXT * beat for other in inner)]
        found[kind] = np.array(sorted(inner))
    return found


def _turns(curve: np.ndarray, swing: float, beat: float, corner: float) -> list[float]:
    """When the curve arrives at each of its tops, in frames; not those that the clip begins or ends with."""
    asked = {"prominence": _PROMINENCE * swing, "distance": max(1.0, _APART * beat)}
    whole, _ = signal.find_peaks(curve, **asked)
    padded = np.concatenate([[curve.min()], curve, [curve.min()]])  # an end is no reason to doubt a top near it,
    least = np.median(curve[whole]) - _LOWER * swing if len(whole) else -np.inf  # if it is as high as others
    tops = [top - 1 for top in signal.find_peaks(padded, **asked)[0] if top - 1 in whole or padded[top] >= least]
    times = [_arrival(curve, int(top), swing, corner) for top in tops if top < len(curve) - 1]
    return [time for time in times if time is not None]


def _arrival(curve: np.ndarray, top: int, swing: float, corner: float) -> float | None:
    """When the rise to ``top`` ends: from its passages through two levels, extended; None where the clip cuts it off.

    The top itself says little, since isovolumic phases are flat.
    """
    passed = []
    for level in (curve[top] - share * swing for share in _LEVELS):
        below = np.flatnonzero(curve[:top] <= level)
        if not len(below):
            return None
        k = int(below[-1])
        passed.append(k + (level - curve[k]) / (curve[k + 1] - curve[k]))
    return float(passed[0] + corner * (passed[0] - passed[1]))


def _at_end(course: np.ndarray, inner: Sequence[float], beat: float, swing: float, last: bool) -> float | None:
    """A turning point that lies in the first (or ``last``) frames, by what those look like in other beats.

    None where no other beat looks like that, or where the turning point lies outside the clip.
    """
    count = len(course)
    span, reach = max(3, round(0.12 * beat)), max(3.0, 0.2 * beat)
    end = count - 1 if last else 0
    seen = np.arange(count - span, count) if last else np.arange(span)
    shifts = np.arange(-reach, reach + 0.01, 0.1)
    best, at = np.inf, 0.0
    for turn in inner:
        times = turn + shifts[:, None] + (seen - end)
        inside = (times[:, 0] >= 0) & (times[:, -1] <= count - 1)
        if abs(turn - end) < 0.5 * beat or not inside.any():
            continue
        there = np.stack([np.interp(times[inside], np.arange(count), part) for part in course.T], axis=-1)
        apart = ((there - course[seen]) ** 2).sum(axis=(1, 2)) / span
        if apart.min() < best:
            best, at = apart.min(), shifts[inside][apart.argmin()]
    if best > (_LIKE * swing) ** 2 or abs(at) > reach - 0.05 or not 0 <= end - at <= count - 1:
        return None
    return float(end - at)


def _systole(moments: dict[str, np.ndarray], beat: float) -> float:
    """Share of the beat from an end diastole to the end systole that follows; 0.5 where no pair says it."""
    after = [min(later) - ed for ed in moments["ED"] if len(later := moments["ES"][moments["ES"] > ed])]
    before = [beat - (min(later) - es) for es in moments["ES"] if len(later := moments["ED"][moments["ED"] > es])]
    shares = [part / beat for part in (*after, *before) if 0 < part < beat]
    return float(np.median(shares)) if shares else 0.5


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's; 0 where one of them does not vary."""
    if not (np.isfinite(b).all() and a.std() > 0 and b.std() > 0):
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
