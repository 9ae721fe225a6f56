"""Plausibility of single videos: whether quantities of heart and sector lie in the range of training recordings.

A range contains a stated share of the training recordings. Its ends are order statistics, so a new recording that is
exchangeable with the training recordings lies outside the range with a known probability (``Range.nominal``). For
recordings of new patients, this requires that all training recordings are of different patients.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from echodream.metrics import cardiac_cycle

UNITS = {
    "heart rate": "beats per minute",
    "chamber area": "of the sector",
    "area swing": "of the sector",
    "sector area": "of the frame",
    "sector overlap": "of the union with the sector of most training recordings",
    "ejection fraction": "%",
}
"""Units of the measured quantities of a video, as written in messages."""
SECTOR_OVERLAP = "sector overlap"
_MAJORITY = 0.5


@dataclass(frozen=True)
class Range:
    """Range of a quantity over the training recordings."""

    low: float
    high: float
    """Infinite if only low values are implausible."""
    nominal: float
    """Probability that a new recording, exchangeable with the training recordings, lies outside the range."""
    without_value: int
    """Number of training recordings in which the quantity cannot be computed."""
    allows_missing: bool
    """Whether a recording in which the quantity cannot be computed lies in the range."""

    def contains(self, value: float) -> bool:
        """Whether ``value`` lies in the range; NaN lies in the range only if ``allows_missing``."""
        return self.allows_missing if math.isnan(value) else self.low <= value <= self.high

    def describe(self, name: str, value: float) -> str:
        """Sentence about a ``value`` of the quantity ``name`` outside the range."""
        unit = UNITS.get(name, "")
        if math.isnan(value):
            return f"{name} cannot be computed, unlike in training recordings"
        ends = f"{self.low:.3g} to {self.high:.3g}" if math.isfinite(self.high) else f"from {self.low:.3g}"
        return f"{name} {value:.3g} {unit} is outside the range of training recordings, {ends}"


def measure_clip(frames: np.ndarray, fps: float) -> tuple[dict[str, float], np.ndarray]:
    """Quantities of a clip (F, H, W), NaN where they cannot be computed, and its sector mask, bool (H, W)."""
    sector = cardiac_cycle.sector_mask(cardiac_cycle.gray_levels(frames))
    area = cardiac_cycle.area_curve(frames)
    values = {
        "heart rate": cardiac_cycle.estimate_rhythm(frames, fps).heart_rate,
        "chamber area": float(area.mean()),
        "area swing": cardiac_cycle.percentile_range(area),
        "sector area": float(sector.mean()),
    }
    return values, sector


def typical_sector(sectors: Sequence[np.ndarray]) -> np.ndarray | None:
    """Pixels in the sector of most recordings, bool (H, W); None if frame sizes differ or no such pixel exists."""
    if len({sector.shape for sector in sectors}) != 1:
        return None
    majority = np.mean(sectors, axis=0) > _MAJORITY
    return majority if majority.any() else None


def sector_overlap(sector: np.ndarray, typical: np.ndarray | None) -> float:
    """Intersection over union of two sector masks; NaN if frame sizes differ or ``typical`` is None."""
    if typical is None or sector.shape != typical.shape:
        return math.nan
    return float((sector & typical).sum() / (sector | typical).sum())


def training_range(values: np.ndarray, coverage: float, only_low: bool = False) -> Range | None:
    """The range that contains about the share ``coverage`` of ``values``, (N,), with equal tails or only a lower tail.

    If at most a fraction 1 - ``coverage`` of the values are NaN, NaN counts as outside the range, otherwise as inside.
    Returns None if more than half are NaN. With few values, the range is from the lowest to the highest value.
    """
    known = np.sort(values[np.isfinite(values)])
    missing = len(values) - len(known)
    if 2 * missing > len(values) or not len(known):
        return None
    missing_share, tail, tails = missing / len(values), 1 - coverage, 1 if only_low else 2
    if not (allows_missing := missing_share > tail):
        tail = (tail - missing_share) / (1 - missing_share)
    rank = max(1, math.floor((len(known) + 1) * tail / tails + 1e-9))
    rank = min(rank, (len(known) + 1) // 2)
    nominal = (1 - missing_share) * rank * tails / (len(known) + 1) + missing_share * (not allows_missing)
    high = math.inf if only_low else float(known[-rank])
    return Range(float(known[rank - 1]), high, nominal, missing, allows_missing)


def outside_ranges(values: Mapping[str, float], ranges: Mapping[str, Range]) -> dict[str, str]:
    """A sentence for each quantity whose value lies outside its range, by quantity."""
    return {name: each.describe(name, values[name]) for name, each in ranges.items() if not each.contains(values[name])}
