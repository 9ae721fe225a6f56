"""Motion of the heart: the cardiac cycle over time, and the deformation between material and spatial coordinates.

The material coordinates of a point are its position at end diastole. The deformation is a composition of maps. The left
ventricle contracts about its axis, the right ventricle towards the septum. The atria widen about the atrial septum, and
the annuli descend towards the apex. Each map has a closed-form inverse, which gives the material coordinates of each
pixel. In the left ventricle, the maps scale both half widths by ``sqrt(1 - contraction)`` and the length by
``1 - shortening``. The volume by disk summation (single-plane Simpson) scales with the squared width and the length, so
the rendered ejection fraction is exact.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.interpolate import PchipInterpolator

from echodream.phantom.anatomy import Anatomy
from echodream.phantom.shape import DEPTHS, ChamberOutlines, nearest_depth_index, smoothstep

TRICUSPID_EXTRA_DESCENT = 0.38
"""Additional descent of the lateral tricuspid annulus, as a fraction of the descent of the mitral annulus (TAPSE)."""
RV_CONTRACTION_START = 7.0
"""Distance from the middle of the septum in mm at which the contraction of the right ventricle begins."""


@dataclass(frozen=True)
class CardiacCycle:
    """State of the cardiac cycle in F frames; every array is (F,) float32."""

    contraction: np.ndarray
    """Contraction of the ventricles: 0 at end diastole, 1 at end systole."""
    filling: np.ndarray
    """Filling of the atria: 0 at end diastole, 1 at the maximum."""
    opening: np.ndarray
    """Opening of the mitral and tricuspid valves: 0 closed, 1 fully open."""

    def __getitem__(self, frames: slice) -> "CardiacCycle":
        return CardiacCycle(self.contraction[frames], self.filling[frames], self.opening[frames])


def systole_duration(beat: float) -> float:
    """Compute the duration of systole in seconds from ``beat`` in seconds, as Weissler et al. (1968)."""
    return 0.413 - 0.0017 * (60.0 / beat) + 0.05  # ejection time, plus 50 ms of isovolumetric contraction


def _cycle_knots(start: float, beat: float, e_wave_fraction: float) -> list[tuple[float, float, float, float]]:
    """List the interpolation knots (time, contraction, filling, valve opening) of one beat that begins at ``start``."""
    end = systole_duration(beat)
    diastole = beat - end
    diastasis = max(1.0 - e_wave_fraction - 0.06, 0.05)
    return [
        (start, 0.0, 0.0, 0.05),
        (start + 0.045, 0.015, 0.02, 0.0),
        (start + end, 1.0, 0.92, 0.0),
        (start + end + 0.13 * diastole, 0.97, 1.0, 0.04),
        (start + end + 0.24 * diastole, 0.70, 0.80, 1.0),
        (start + end + 0.45 * diastole, diastasis + 0.06, 0.52, 0.45),
        (start + end + 0.72 * diastole, diastasis, 0.50, 0.42),
        (start + end + 0.86 * diastole, 0.6 * diastasis, 0.30, 0.78),
    ]


def interpolate_cycle(times: np.ndarray, beats: np.ndarray, e_wave_fraction: float) -> CardiacCycle:
    """Interpolate the cardiac cycle at ``times``, (F,) in seconds, monotonically between knots (PCHIP).

    ``beats``, (N,) in seconds, are the times of end diastole. They begin at or before ``times`` and end after them.
    """
    rows = [row for a, b in pairwise(beats) for row in _cycle_knots(a, b - a, e_wave_fraction)]
    rows.append((float(beats[-1]), 0.0, 0.0, 0.05))
    table = np.array(rows)
    return CardiacCycle(*PchipInterpolator(table[:, 0], table[:, 1:])(times).astype(np.float32).T)


def contraction_for_ef(a: Anatomy, ef: float) -> float:
    """Compute the systolic decrease of the squared half width, as a fraction, for the ejection fraction ``ef``."""
    return 1.0 - (1.0 - ef) / (1.0 - a.lv_shortening)


class Motion:
    """Deformation of one heart. Points are arrays (P,) or (F, P) in mm; a ``CardiacCycle`` has F frames."""

    def __init__(self, a: Anatomy, shape: ChamberOutlines, ef: float) -> None:
        self.shape = shape
        self.anatomy = a
        self.lv_contraction = contraction_for_ef(a, ef)
        self.fixed_depth = shape.roof_depth + 18.0
        """Depth in mm below which tissue does not move."""
        self.septum_x = float(shape.septum_middle[shape.mitral_depth >= DEPTHS].min())
        below_mitral = np.clip(DEPTHS - shape.mitral_depth, 0, None)
        mitral = int(np.flatnonzero(shape.mitral_depth >= DEPTHS)[-1])
        fade = np.exp(-((below_mitral / 14.0) ** 2))
        radii = (shape.lv_free_wall_radius, shape.lv_septal_radius)
        sides = [np.where(below_mitral > 0, radius[mitral], radius) ** 2 * fade for radius in radii]
        self._lv_squared = np.concatenate(sides).astype(np.float32)
        tricuspid = int(np.flatnonzero(shape.rv_width > 0)[-1])
        below_tricuspid = np.clip(DEPTHS - DEPTHS[tricuspid], 0, None)
        width = np.where(below_tricuspid > 0, shape.rv_width[tricuspid], shape.rv_width)
        self._rv_squared = (width**2 * np.exp(-((below_tricuspid / 16.0) ** 2))).astype(np.float32)
        self._atrial_weight = smoothstep((DEPTHS - shape.mitral_depth + 4.0) / 16.0).astype(np.float32)
        self._septum_middle = shape.septum_middle.astype(np.float32)

    def _annulus_depth(self, x: np.ndarray, contraction: np.ndarray) -> np.ndarray:
        """Compute the depth of the annulus plane at ``x`` in mm; the tricuspid side descends further."""
        side = np.clip((self.septum_x - x) * np.float32(1 / self.anatomy.rv_width), 0, 1)
        descent = np.float32(self.anatomy.lv_shortening) * contraction * (1 + TRICUSPID_EXTRA_DESCENT * side)
        return np.float32(self.shape.mitral_depth) * (1 - descent)

    def material_coordinates(self, x: np.ndarray, v: np.ndarray, cycle: CardiacCycle) -> tuple[np.ndarray, np.ndarray]:
        """Compute the material coordinates, (F, P) each, of the spatial points ``(x, v)``."""
        length = np.float32(self.shape.mitral_depth)
        c = cycle.contraction[:, None]
        annulus = self._annulus_depth(x, c)
        fixed = np.float32(self.fixed_depth)
        below = np.maximum(v - annulus, 0) * ((fixed - length) / (fixed - annulus))
        depth = np.where(v > fixed, v, np.clip(v, 0, annulus) * (length / annulus) + below + np.minimum(v, 0))
        row = nearest_depth_index(depth)
        edge = self._lv_squared[row + np.where(x < 0, np.int32(len(DEPTHS)), np.int32(0))]
        square = x * x
        shift = np.float32(self.lv_contraction) * c * edge * np.minimum(edge / (square + np.float32(1e-3)), 1)
        lv_x = np.copysign(np.sqrt(square + shift), x)
        right = self._septum_middle[row] - lv_x
        stretch = np.float32(self.anatomy.rv_contraction) * c * self._rv_squared[row]
        stretch = stretch / (right * right + np.float32(RV_CONTRACTION_START**2))
        right = np.where(right > 0, right * np.sqrt(1 + stretch), right)
        widening = np.float32(self.anatomy.atrial_widening) * cycle.filling[:, None]
        return self._septum_middle[row] - right / (1 + widening * self._atrial_weight[row]), depth

    def spatial_coordinates(self, x: np.ndarray, v: np.ndarray, cycle: CardiacCycle) -> tuple[np.ndarray, np.ndarray]:
        """Compute the spatial coordinates, (F, P) each, of the material points ``(x, v)``."""
        c = cycle.contraction[:, None]
        row = nearest_depth_index(v)
        widening = self.anatomy.atrial_widening * cycle.filling[:, None]
        right = (self._septum_middle[row] - x) * (1 + widening * self._atrial_weight[row])
        start = RV_CONTRACTION_START
        half = start**2 + self.anatomy.rv_contraction * c * self._rv_squared[row] - right**2
        contracted = np.sqrt(0.5 * (np.sqrt(half**2 + 4 * (right * start) ** 2) - half))
        rv_x = self._septum_middle[row] - np.where(right > 0, contracted, right)
        edge = self._lv_squared[row + np.where(rv_x < 0, len(DEPTHS), 0)]
        square, shift = rv_x**2, self.lv_contraction * c * edge
        inside = np.clip(square - shift, 0, None)
        outside = 0.5 * (square + np.sqrt(np.clip(square**2 - 4 * shift * edge, 0, None)))
        spatial_x = np.copysign(np.sqrt(np.where(inside <= edge, inside, outside)), rv_x)
        annulus = self._annulus_depth(spatial_x, c)
        length, fixed = self.shape.mitral_depth, self.fixed_depth
        below = np.maximum(v - length, 0) * ((fixed - annulus) / (fixed - length))
        depth = np.where(v > fixed, v, np.clip(v, 0, length) * (annulus / length) + below + np.minimum(v, 0))
        return spatial_x, depth
