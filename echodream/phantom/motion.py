"""How the heart moves: the cardiac cycle in time, and the map between tissue and space at every moment of it.

A point of tissue is named by where it is at end diastole (its material coordinates). Three maps take it to where it is
now: the left ventricle contracts about its axis, the right ventricle towards the septum and the atria widen about the
atrial septum; then the annuli descend towards the apex. Each has a closed inverse, so a frame is drawn by asking, for
each pixel, which tissue lies there. Inside the left ventricle the maps are a uniform scaling of both half widths by
``sqrt(1 - squeeze)`` and of the length by ``1 - shortening``: the disk-summation volume (Simpson's rule with one plane)
scales by their product, so the ejection fraction that was asked for is the one that is drawn.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.interpolate import PchipInterpolator

from echodream.phantom.anatomy import Anatomy
from echodream.phantom.shape import DEPTHS, STEP, V0, ChamberOutlines, smoothstep

TAPSE = 0.38
"""The tricuspid annulus's free side descends this much further than the mitral annulus (as a share)."""
RV_GRIP = 7.0
"""Distance from the middle of the septum, in mm, at which the right ventricle's own contraction takes hold."""


@dataclass(frozen=True)
class Cycle:
    """Where the heart is in its cycle, for F frames; every array is (F,) float32."""

    contraction: np.ndarray
    """0 at end diastole, 1 at end systole."""
    filling: np.ndarray
    """Atrial reservoir: 0 at end diastole, 1 when the atria are fullest."""
    opening: np.ndarray
    """Opening of the atrioventricular valves, 0 closed, 1 wide open."""

    def __getitem__(self, frames: slice) -> "Cycle":
        return Cycle(self.contraction[frames], self.filling[frames], self.opening[frames])


def systole_duration(beat: float) -> float:
    """Seconds from end diastole to end systole for a beat of ``beat`` seconds (Weissler's ejection time plus 50 ms)."""
    return 0.413 - 0.0017 * (60.0 / beat) + 0.05


def _knots(start: float, beat: float, early: float) -> list[tuple[float, float, float, float]]:
    """Time, contraction, filling and valve opening at the turning points of one beat that begins at ``start``."""
    end = systole_duration(beat)
    rest = beat - end
    quiet = max(1.0 - early - 0.06, 0.05)
    return [
        (start, 0.0, 0.0, 0.05),
        (start + 0.045, 0.015, 0.02, 0.0),
        (start + end, 1.0, 0.92, 0.0),
        (start + end + 0.13 * rest, 0.97, 1.0, 0.04),
        (start + end + 0.24 * rest, 0.70, 0.80, 1.0),
        (start + end + 0.45 * rest, quiet + 0.06, 0.52, 0.45),
        (start + end + 0.72 * rest, quiet, 0.50, 0.42),
        (start + end + 0.86 * rest, 0.6 * quiet, 0.30, 0.78),
    ]


def cycle_at(times: np.ndarray, beats: np.ndarray, early: float) -> Cycle:
    """The cycle at ``times`` (F,), seconds, for beats that begin (end diastole) at ``beats`` (N,), covering them."""
    rows = [row for a, b in pairwise(beats) for row in _knots(a, b - a, early)]
    rows.append((float(beats[-1]), 0.0, 0.0, 0.05))
    table = np.array(rows)
    values = PchipInterpolator(table[:, 0], table[:, 1:])(times).astype(np.float32)
    return Cycle(values[:, 0], values[:, 1], values[:, 2])


def contraction_for_ef(a: Anatomy, ef: float) -> float:
    """Loss of squared half width at end systole that gives the ejection fraction ``ef`` with the annulus's descent."""
    return 1.0 - (1.0 - ef) / (1.0 - a.shortening)


class Motion:
    """The map between space and tissue for one heart. Points are (P,) or (F, P) arrays, mm; a ``Cycle`` has F."""

    def __init__(self, a: Anatomy, shape: ChamberOutlines, ef: float) -> None:
        self.shape = shape
        self.shortening = a.shortening
        self.squeeze = contraction_for_ef(a, ef)
        self.rv_squeeze, self.reservoir = a.rv_squeeze, a.reservoir
        self.floor = shape.roof + 18.0
        self.lean = (float(shape.middle[shape.length >= DEPTHS].min()), a.rv_width)
        past = np.clip(DEPTHS - shape.length, 0, None)
        last = int(np.flatnonzero(shape.length >= DEPTHS)[-1])
        fade = np.exp(-((past / 14.0) ** 2))
        sides = [np.where(past > 0, w[last], w) ** 2 * fade for w in (shape.lv_free, shape.lv_septal)]
        self._lv = np.concatenate(sides).astype(np.float32)
        ring = int(np.flatnonzero(shape.rv_width > 0)[-1])
        past_rv = np.clip(DEPTHS - DEPTHS[ring], 0, None)
        width = np.where(past_rv > 0, shape.rv_width[ring], shape.rv_width)
        self._rv = (width**2 * np.exp(-((past_rv / 16.0) ** 2))).astype(np.float32)
        self._atria = smoothstep((DEPTHS - shape.length + 4.0) / 16.0).astype(np.float32)
        self._middle = shape.middle.astype(np.float32)

    @staticmethod
    def _row(v: np.ndarray) -> np.ndarray:
        return np.clip(((v - V0) * (1 / STEP) + 0.5).astype(np.int32), 0, len(DEPTHS) - 1)

    def _annulus(self, x: np.ndarray, contraction: np.ndarray) -> np.ndarray:
        """Present depth of the annuli's plane at ``x``; the tricuspid side descends further."""
        side = np.clip((self.lean[0] - x) * np.float32(1 / self.lean[1]), 0, 1)
        return np.float32(self.shape.length) * (1 - np.float32(self.shortening) * contraction * (1 + TAPSE * side))

    def inverse(self, x: np.ndarray, v: np.ndarray, cycle: Cycle) -> tuple[np.ndarray, np.ndarray]:
        """Which tissue lies at ``(x, v)``: material coordinates, (F, P) each."""
        length = np.float32(self.shape.length)
        c = cycle.contraction[:, None]
        ring = self._annulus(x, c)
        floor = np.float32(self.floor)
        below = np.maximum(v - ring, 0) * ((floor - length) / (floor - ring))
        depth = np.where(v > floor, v, np.clip(v, 0, ring) * (length / ring) + below + np.minimum(v, 0))
        row = self._row(depth)
        edge = self._lv[row + np.where(x < 0, np.int32(len(DEPTHS)), np.int32(0))]
        square = x * x
        pull = np.float32(self.squeeze) * c * edge * np.minimum(edge / (square + np.float32(1e-3)), 1)
        across = np.copysign(np.sqrt(square + pull), x)
        away = self._middle[row] - across
        grip = (np.float32(self.rv_squeeze) * c) * self._rv[row] / (away * away + np.float32(RV_GRIP**2))
        away = np.where(away > 0, away * np.sqrt(1 + grip), away)
        away = away / (1 + (np.float32(self.reservoir) * cycle.filling[:, None]) * self._atria[row])
        return self._middle[row] - away, depth

    def forward(self, x: np.ndarray, v: np.ndarray, cycle: Cycle) -> tuple[np.ndarray, np.ndarray]:
        """Where the tissue ``(x, v)`` is now, (F, P) each: the inverse of ``inverse``."""
        c = cycle.contraction[:, None]
        row = self._row(v)
        away = (self._middle[row] - x) * (1 + self.reservoir * cycle.filling[:, None] * self._atria[row])
        half = RV_GRIP**2 + self.rv_squeeze * c * self._rv[row] - away**2
        closer = np.sqrt(0.5 * (np.sqrt(half**2 + 4 * (away * RV_GRIP) ** 2) - half))
        across = self._middle[row] - np.where(away > 0, closer, away)
        edge = self._lv[row + np.where(across < 0, len(DEPTHS), 0)]
        square, pull = across**2, self.squeeze * c * edge
        near = np.clip(square - pull, 0, None)
        far = 0.5 * (square + np.sqrt(np.clip(square**2 - 4 * pull * edge, 0, None)))
        now = np.copysign(np.sqrt(np.where(near <= edge, near, far)), across)
        ring = self._annulus(now, c)
        length, floor = self.shape.length, self.floor
        below = np.maximum(v - length, 0) * ((floor - ring) / (floor - length))
        return now, np.where(v > floor, v, np.clip(v, 0, length) * (ring / length) + below + np.minimum(v, 0))
