"""Motion of the heart: the cardiac cycle over time, and the deformation between material and spatial coordinates.

The material coordinates of a point are its position at end diastole. The deformation is a composition of maps: the left
ventricle contracts about its axis, the right ventricle towards the septum, the atria widen about the atrial septum, and
the annuli descend towards the apex. Each map has a closed-form inverse, so a frame is rendered by computing the
material coordinates of each pixel. In the left ventricle the maps scale both half widths by ``sqrt(1 - squeeze)`` and
the length by ``1 - shortening``. The volume by disk summation (single-plane Simpson) scales with the squared width and
the length, so the rendered ejection fraction is exact.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.interpolate import PchipInterpolator

from echodream.phantom.anatomy import Anatomy
from echodream.phantom.shape import DEPTHS, STEP, V0, ChamberOutlines, smoothstep

TAPSE = 0.38
"""Additional descent of the lateral tricuspid annulus, as a fraction of the descent of the mitral annulus (TAPSE)."""
RV_GRIP = 7.0
"""Distance from the middle of the septum in mm at which the contraction of the right ventricle begins."""


@dataclass(frozen=True)
class Cycle:
    """State of the cardiac cycle in F frames; every array is (F,) float32."""

    contraction: np.ndarray
    """0 at end diastole, 1 at end systole."""
    filling: np.ndarray
    """Filling of the atria: 0 at end diastole, 1 at the maximum."""
    opening: np.ndarray
    """Opening of the mitral and tricuspid valves: 0 closed, 1 fully open."""

    def __getitem__(self, frames: slice) -> "Cycle":
        return Cycle(self.contraction[frames], self.filling[frames], self.opening[frames])


def systole_duration(beat: float) -> float:
    """Seconds from end diastole to end systole in a beat of ``beat`` seconds.

    Left ventricular ejection time by the regression of Weissler et al. (1968), 413 ms - 1.7 ms * heart rate, plus 50 ms
    of isovolumetric contraction.
    """
    return 0.413 - 0.0017 * (60.0 / beat) + 0.05


def _cycle_knots(start: float, beat: float, early: float) -> list[tuple[float, float, float, float]]:
    """Knots (time, contraction, filling, valve opening) of the interpolation in one beat that begins at ``start``."""
    end = systole_duration(beat)
    diastole = beat - end
    quiet = max(1.0 - early - 0.06, 0.05)
    return [
        (start, 0.0, 0.0, 0.05),
        (start + 0.045, 0.015, 0.02, 0.0),
        (start + end, 1.0, 0.92, 0.0),
        (start + end + 0.13 * diastole, 0.97, 1.0, 0.04),
        (start + end + 0.24 * diastole, 0.70, 0.80, 1.0),
        (start + end + 0.45 * diastole, quiet + 0.06, 0.52, 0.45),
        (start + end + 0.72 * diastole, quiet, 0.50, 0.42),
        (start + end + 0.86 * diastole, 0.6 * quiet, 0.30, 0.78),
    ]


def interpolate_cycle(times: np.ndarray, beats: np.ndarray, early: float) -> Cycle:
    """State of the cycle at ``times``, (F,) in seconds; ``beats``, (N,) in seconds, are the end diastoles around them.

    Interpolated monotonically between the knots of each beat (PCHIP).
    """
    rows = [row for a, b in pairwise(beats) for row in _cycle_knots(a, b - a, early)]
    rows.append((float(beats[-1]), 0.0, 0.0, 0.05))
    table = np.array(rows)
    values = PchipInterpolator(table[:, 0], table[:, 1:])(times).astype(np.float32)
    return Cycle(values[:, 0], values[:, 1], values[:, 2])


def contraction_for_ef(a: Anatomy, ef: float) -> float:
    """Decrease of the squared half width at end systole that gives the ejection fraction ``ef``, as a fraction."""
    return 1.0 - (1.0 - ef) / (1.0 - a.shortening)


class Motion:
    """Deformation of one heart. Points are arrays (P,) or (F, P) in mm; a ``Cycle`` has F frames."""

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
    def _nearest_depth_index(v: np.ndarray) -> np.ndarray:
        return np.clip(((v - V0) * (1 / STEP) + 0.5).astype(np.int32), 0, len(DEPTHS) - 1)

    def _annulus_depth(self, x: np.ndarray, contraction: np.ndarray) -> np.ndarray:
        """Depth of the plane of the annuli at ``x``; the tricuspid side descends further."""
        side = np.clip((self.lean[0] - x) * np.float32(1 / self.lean[1]), 0, 1)
        return np.float32(self.shape.length) * (1 - np.float32(self.shortening) * contraction * (1 + TAPSE * side))

    def material_coordinates(self, x: np.ndarray, v: np.ndarray, cycle: Cycle) -> tuple[np.ndarray, np.ndarray]:
        """Material coordinates, (F, P) each, of the spatial points ``(x, v)``."""
        length = np.float32(self.shape.length)
        c = cycle.contraction[:, None]
        ring = self._annulus_depth(x, c)
        floor = np.float32(self.floor)
        below = np.maximum(v - ring, 0) * ((floor - length) / (floor - ring))
        depth = np.where(v > floor, v, np.clip(v, 0, ring) * (length / ring) + below + np.minimum(v, 0))
        row = self._nearest_depth_index(depth)
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
        """Spatial coordinates, (F, P) each, of the material points ``(x, v)``."""
        c = cycle.contraction[:, None]
        row = self._nearest_depth_index(v)
        away = (self._middle[row] - x) * (1 + self.reservoir * cycle.filling[:, None] * self._atria[row])
        half = RV_GRIP**2 + self.rv_squeeze * c * self._rv[row] - away**2
        closer = np.sqrt(0.5 * (np.sqrt(half**2 + 4 * (away * RV_GRIP) ** 2) - half))
        across = self._middle[row] - np.where(away > 0, closer, away)
        edge = self._lv[row + np.where(across < 0, len(DEPTHS), 0)]
        square, pull = across**2, self.squeeze * c * edge
        near = np.clip(square - pull, 0, None)
        far = 0.5 * (square + np.sqrt(np.clip(square**2 - 4 * pull * edge, 0, None)))
        now = np.copysign(np.sqrt(np.where(near <= edge, near, far)), across)
        ring = self._annulus_depth(now, c)
        length, floor = self.shape.length, self.floor
        below = np.maximum(v - length, 0) * ((floor - ring) / (floor - length))
        return now, np.where(v > floor, v, np.clip(v, 0, length) * (ring / length) + below + np.minimum(v, 0))
