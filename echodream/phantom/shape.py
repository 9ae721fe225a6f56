"""Outlines of the chambers at end diastole, as functions of the depth along the left ventricular axis.

Heart coordinates in mm: ``v`` is the position along the left ventricular axis, from its apex (0) to the atria; ``x`` is
perpendicular to it, with the right heart at negative ``x``, which is left on the screen as usual.
"""

from dataclasses import dataclass

import numpy as np

from echodream.phantom.anatomy import Anatomy

V0, V1, STEP = -35.0, 185.0, 0.25
DEPTHS = np.arange(V0, V1, STEP)
"""Depths of the tabulated outlines in mm, (N,)."""

OTHER, LV, RV, LA, RA, MYOCARDIUM = range(6)
"""Values of label maps. ``MYOCARDIUM`` includes all walls and septa."""


def smoothstep(x: np.ndarray) -> np.ndarray:
    """Cubic smoothstep: 0 for x <= 0, 1 for x >= 1."""
    x = np.clip(x, 0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)


def nearest_depth_index(v: np.ndarray) -> np.ndarray:
    """Index of the entry of ``DEPTHS`` that is nearest to each depth in ``v``, in mm; int, the shape of ``v``."""
    return np.clip(np.round((v - V0) / STEP).astype(int), 0, len(DEPTHS) - 1)


def _ventricle_profile(s: np.ndarray, belly: float, base: float) -> np.ndarray:
    """Relative radius of a ventricle at ``s``, apex (0) to annulus (1): 1 at ``belly``, ``base`` at the annulus."""
    tip = np.clip(1.0 - (1.0 - np.clip(s, 0, 1) / belly) ** 2, 0, 1) ** 0.56
    taper = 1.0 - (1.0 - base) * (np.clip(s - belly, 0, None) / (1.0 - belly)) ** 2
    return np.where(s < belly, tip, taper) * ((s >= 0) & (s <= 1))


@dataclass(frozen=True)
class ChamberOutlines:
    """Outlines of one heart at ``DEPTHS``; every array is (N,) in mm, 0 at depths outside the chamber."""

    length: float
    """Depth of the mitral annulus."""
    tricuspid: float
    """Depth of the tricuspid annulus."""
    roof: float
    """Depth of the deeper atrial roof."""
    lv_septal: np.ndarray
    lv_free: np.ndarray
    septal_edge: np.ndarray
    """x of the right side of the ventricular and the atrial septum."""
    middle: np.ndarray
    """x of the middle of the ventricular and the atrial septum."""
    rv_width: np.ndarray
    la_inner: np.ndarray
    la_outer: np.ndarray
    ra_inner: np.ndarray
    ra_outer: np.ndarray


def _septum_outline(a: Anatomy, septal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x of the middle of the septum and half of its thickness, (N,) each; the membranous part is thinner."""
    s = DEPTHS / a.lv_length
    inside = np.clip(s, 0.02, 1.0)
    edge = np.interp(inside * a.lv_length, DEPTHS[(s >= 0) & (s <= 1)], septal[(s >= 0) & (s <= 1)])
    slope = np.clip(np.gradient(edge, STEP), -1.2, 1.2)
    thick = a.septum * (1 - 0.35 * smoothstep((s - 0.78) / 0.22)) * np.sqrt(1 + slope**2)
    base = np.flatnonzero(s <= 1)[-1]
    half = 0.5 * np.where(
        s <= 1, thick, a.atrial_septum + (thick[base] - a.atrial_septum) * (1 - smoothstep((s - 1) / 0.1))
    )
    lean = np.tan(np.radians(a.atrial_tilt))
    crux = -(edge[base] + half[base])
    return np.where(s <= 1, -(edge + half), crux + (DEPTHS - DEPTHS[base]) * lean), half


def _atrium_outline(top: float, length: float, start: float, width: float) -> tuple[np.ndarray, np.ndarray]:
    """Distances of the inner and outer wall of an atrium from the atrial septum, (N,) each; 0 outside the atrium."""
    s = (DEPTHS - top) / length
    inside = (s >= 0) & (s < 1)
    s = np.clip(s, 0, 1)
    body = start + (width - start) * np.sin(np.pi * np.minimum(s, 0.5)) ** 0.9
    dome = width * (0.42 + 0.58 * np.clip(1 - np.clip(2 * s - 1, 0, 1) ** 2.2, 0, 1) ** (1 / 2.0))
    corner = np.clip(s - 0.70, 0, None) / 0.30
    inner = 0.42 * width * (1 - np.sqrt(np.clip(1 - corner**2.4, 0, 1)))
    return np.where(inside, inner, 0.0), np.where(inside, np.where(s < 0.5, body, dome), 0.0)


def lv_outline(a: Anatomy, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Half widths of the left ventricle, septal and free side, at ``s`` from apex (0) to annulus (1); (N,) each, mm."""
    free = a.lv_radius * _ventricle_profile(s, a.lv_belly, a.annulus)
    return free * (1 - a.flat * np.sin(np.pi * np.clip(s, 0, 1) ** 0.85)), free


def chamber_outlines(a: Anatomy) -> ChamberOutlines:
    """Compute the outlines of the anatomy ``a``."""
    s = DEPTHS / a.lv_length
    septal, free = lv_outline(a, s)
    middle, half = _septum_outline(a, septal)
    tricuspid = a.lv_length - a.offset
    edge = middle - half
    rise = (DEPTHS - a.rv_apex * a.lv_length) / (tricuspid - a.rv_apex * a.lv_length)
    inside = (rise >= 0) & (rise <= 1)
    rise = np.clip(rise, 0, 1)
    widen = np.sin(0.5 * np.pi * np.minimum(rise / 0.78, 1)) ** a.rv_round
    rv = np.where(inside, a.rv_width * widen * (1 - 0.18 * smoothstep((rise - 0.78) / 0.22)), 0.0)
    base = int(np.flatnonzero(s <= 1)[-1])
    ring = int(np.flatnonzero(rise < 1)[-1])
    la_in, la_out = _atrium_outline(a.lv_length, a.la_length, float(free[base] - middle[base]), a.la_width)
    ra_in, ra_out = _atrium_outline(tricuspid, a.ra_length, float(rv[ring] + half[ring]), a.ra_width)
    return ChamberOutlines(
        length=a.lv_length,
        tricuspid=tricuspid,
        roof=max(a.lv_length + a.la_length, tricuspid + a.ra_length),
        lv_septal=septal,
        lv_free=free,
        septal_edge=edge,
        middle=middle,
        rv_width=rv,
        la_inner=middle + np.maximum(la_in, half),
        la_outer=middle + la_out,
        ra_inner=middle - np.maximum(ra_in, half),
        ra_outer=middle - ra_out,
    )


def label_cavities(shape: ChamberOutlines, a: Anatomy, x: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Label map of the cavities on the grid ``x`` (W,) by ``v`` (H,) in mm: uint8 (H, W), ``OTHER`` elsewhere."""
    row = nearest_depth_index(v)[:, None]
    x, depth = x[None, :], v[:, None]
    labels = np.zeros((len(v), x.shape[1]), dtype=np.uint8)
    labels[(x > shape.ra_outer[row]) & (x < shape.ra_inner[row])] = RA
    labels[(x > shape.la_inner[row]) & (x < shape.la_outer[row])] = LA
    labels[(x > -shape.lv_septal[row]) & (x < shape.lv_free[row])] = LV
    labels[(x > (shape.septal_edge - shape.rv_width)[row]) & (x < shape.septal_edge[row])] = RV
    if a.gap > 0:
        first, last = septal_defect_span(a)
        hole = (depth > first) & (depth < last) & (x >= shape.ra_inner[row]) & (x <= shape.la_inner[row])
        labels[hole] = np.where(x > shape.middle[row], LA, RA)[hole]
    return labels


def atrial_septum_span(a: Anatomy, low: float, high: float) -> tuple[float, float]:
    """Depths in mm of two points of the atrial septum, given as fractions of its length from crux (0) to roof (1)."""
    length = min(a.la_length, a.ra_length - a.offset)
    return a.lv_length + low * length, a.lv_length + high * length


def septal_defect_span(a: Anatomy) -> tuple[float, float]:
    """Depths in mm of the two ends of the atrial septal defect."""
    center, _ = atrial_septum_span(a, a.gap_at, 1.0)
    return center - a.gap / 2, center + a.gap / 2


def valve_hinges(shape: ChamberOutlines) -> tuple[tuple[float, float], ...]:
    """Hinge points ``(x, v)`` in mm of the leaflets: mitral septal and lateral, tricuspid septal and lateral."""
    base = int(np.flatnonzero(shape.lv_free > 0)[-1])
    ring = int(np.flatnonzero(shape.rv_width > 0)[-1])
    mitral, tricuspid = float(DEPTHS[base]), float(DEPTHS[ring])
    edge = float(shape.septal_edge[ring])
    return (
        (-float(shape.lv_septal[base]), mitral),
        (float(shape.lv_free[base]), mitral),
        (edge, tricuspid),
        (edge - float(shape.rv_width[ring]), tricuspid),
    )
