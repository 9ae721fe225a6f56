"""Outlines of the chambers at end diastole, as functions of the depth along the left ventricular axis.

Heart coordinates are in mm. ``v`` is the depth along the left ventricular axis, from the apex (0) to the atria. ``x``
is perpendicular to the left ventricular axis; the right heart has negative ``x`` and is at the left side of the image.
"""

from dataclasses import dataclass

import numpy as np

from echodream.phantom.anatomy import Anatomy

MIN_DEPTH, MAX_DEPTH, DEPTH_STEP = -35.0, 185.0, 0.25
DEPTHS = np.arange(MIN_DEPTH, MAX_DEPTH, DEPTH_STEP)
"""Depths of the tabulated outlines in mm, (N,)."""

OTHER, LV, RV, LA, RA, MYOCARDIUM = range(6)
"""Values of label maps. ``MYOCARDIUM`` includes all walls and septa."""


def smoothstep(x: np.ndarray) -> np.ndarray:
    """Compute the cubic smoothstep, which is 0 for x <= 0 and 1 for x >= 1."""
    x = np.clip(x, 0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)


def nearest_depth_index(v: np.ndarray) -> np.ndarray:
    """Find the index of the nearest entry of ``DEPTHS`` for each depth in ``v``, in mm. Returns int32."""
    return np.clip(((v - MIN_DEPTH) * (1 / DEPTH_STEP) + 0.5).astype(np.int32), 0, len(DEPTHS) - 1)


def _ventricle_profile(s: np.ndarray, widest_position: float, base: float) -> np.ndarray:
    """Compute the radius of the left ventricle, relative to its maximum, at ``s`` from apex (0) to annulus (1).

    The maximum is at ``widest_position``; ``base`` is the relative radius at the annulus.
    """
    apical = np.clip(1.0 - (1.0 - np.clip(s, 0, 1) / widest_position) ** 2, 0, 1) ** 0.56
    basal = 1.0 - (1.0 - base) * (np.clip(s - widest_position, 0, None) / (1.0 - widest_position)) ** 2
    return np.where(s < widest_position, apical, basal) * ((s >= 0) & (s <= 1))


@dataclass(frozen=True)
class ChamberOutlines:
    """Outlines of one heart at ``DEPTHS``; every array is (N,) in mm. Widths are 0 at depths outside the chamber."""

    mitral_depth: float
    tricuspid_depth: float
    roof_depth: float
    """Depth of the atrial roof that is farther from the apex."""
    lv_septal_radius: np.ndarray
    lv_free_wall_radius: np.ndarray
    """Distance of the septal and of the free wall of the left ventricle from its axis."""
    septum_right_edge: np.ndarray
    """Coordinate x of the right side of the ventricular and the atrial septum."""
    septum_middle: np.ndarray
    """Coordinate x of the middle of the ventricular and the atrial septum."""
    rv_width: np.ndarray
    la_inner_x: np.ndarray
    la_outer_x: np.ndarray
    ra_inner_x: np.ndarray
    ra_outer_x: np.ndarray
    """Coordinates x of the inner (septal) and outer walls of the atria."""


def _septum_outline(a: Anatomy, septal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute x of the septum middle and half of the thickness in mm, (N,) each; the membranous part is thinner."""
    s = DEPTHS / a.lv_length
    inside = np.clip(s, 0.02, 1.0)
    edge = np.interp(inside * a.lv_length, DEPTHS[(s >= 0) & (s <= 1)], septal[(s >= 0) & (s <= 1)])
    slope = np.clip(np.gradient(edge, DEPTH_STEP), -1.2, 1.2)
    thick = a.septum_thickness * (1 - 0.35 * smoothstep((s - 0.78) / 0.22)) * np.sqrt(1 + slope**2)
    base = np.flatnonzero(s <= 1)[-1]
    atrial = a.atrial_septum_thickness
    half = 0.5 * np.where(s <= 1, thick, atrial + (thick[base] - atrial) * (1 - smoothstep((s - 1) / 0.1)))
    tilt = np.tan(np.radians(a.atrial_septum_tilt))
    crux = -(edge[base] + half[base])
    return np.where(s <= 1, -(edge + half), crux + (DEPTHS - DEPTHS[base]) * tilt), half


def _atrium_outline(top: float, length: float, start: float, width: float) -> tuple[np.ndarray, np.ndarray]:
    """Compute distances of both walls of an atrium from the atrial septum in mm, (N,) each; 0 outside the atrium."""
    s = (DEPTHS - top) / length
    inside = (s >= 0) & (s < 1)
    s = np.clip(s, 0, 1)
    body = start + (width - start) * np.sin(np.pi * np.minimum(s, 0.5)) ** 0.9
    dome = width * (0.42 + 0.58 * np.clip(1 - np.clip(2 * s - 1, 0, 1) ** 2.2, 0, 1) ** (1 / 2.0))
    corner = np.clip(s - 0.70, 0, None) / 0.30
    inner = 0.42 * width * (1 - np.sqrt(np.clip(1 - corner**2.4, 0, 1)))
    return np.where(inside, inner, 0.0), np.where(inside, np.where(s < 0.5, body, dome), 0.0)


def lv_outline(a: Anatomy, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute distances of septal and free wall from the LV axis in mm, (N,) each; ``s``: apex (0) to annulus (1)."""
    free = a.lv_radius * _ventricle_profile(s, a.lv_widest_position, a.mitral_annulus_ratio)
    return free * (1 - a.septal_flattening * np.sin(np.pi * np.clip(s, 0, 1) ** 0.85)), free


def chamber_outlines(a: Anatomy) -> ChamberOutlines:
    """Compute the outlines of the chambers of one heart."""
    s = DEPTHS / a.lv_length
    septal, free = lv_outline(a, s)
    middle, half = _septum_outline(a, septal)
    tricuspid_depth = a.lv_length - a.tricuspid_offset
    rv_apex_depth = a.rv_apex_position * a.lv_length
    rv_s = (DEPTHS - rv_apex_depth) / (tricuspid_depth - rv_apex_depth)
    inside = (rv_s >= 0) & (rv_s <= 1)
    rv_s = np.clip(rv_s, 0, 1)
    profile = np.sin(0.5 * np.pi * np.minimum(rv_s / 0.78, 1)) ** a.rv_shape_exponent
    rv_width = np.where(inside, a.rv_width * profile * (1 - 0.18 * smoothstep((rv_s - 0.78) / 0.22)), 0.0)
    mitral = int(np.flatnonzero(s <= 1)[-1])
    tricuspid = int(np.flatnonzero(rv_s < 1)[-1])
    la_start, ra_start = float(free[mitral] - middle[mitral]), float(rv_width[tricuspid] + half[tricuspid])
    la_inner, la_outer = _atrium_outline(a.lv_length, a.la_length, la_start, a.la_width)
    ra_inner, ra_outer = _atrium_outline(tricuspid_depth, a.ra_length, ra_start, a.ra_width)
    return ChamberOutlines(
        mitral_depth=a.lv_length,
        tricuspid_depth=tricuspid_depth,
        roof_depth=max(a.lv_length + a.la_length, tricuspid_depth + a.ra_length),
        lv_septal_radius=septal,
        lv_free_wall_radius=free,
        septum_right_edge=middle - half,
        septum_middle=middle,
        rv_width=rv_width,
        la_inner_x=middle + np.maximum(la_inner, half),
        la_outer_x=middle + la_outer,
        ra_inner_x=middle - np.maximum(ra_inner, half),
        ra_outer_x=middle - ra_outer,
    )


def label_cavities(shape: ChamberOutlines, a: Anatomy, x: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Label the cavities on the grid ``x`` (W,) by ``v`` (H,) in mm. Returns uint8 (H, W), ``OTHER`` outside."""
    row = nearest_depth_index(v)[:, None]
    x, depth = x[None, :], v[:, None]
    labels = np.zeros((len(v), x.shape[1]), dtype=np.uint8)
    labels[(x > shape.ra_outer_x[row]) & (x < shape.ra_inner_x[row])] = RA
    labels[(x > shape.la_inner_x[row]) & (x < shape.la_outer_x[row])] = LA
    labels[(x > -shape.lv_septal_radius[row]) & (x < shape.lv_free_wall_radius[row])] = LV
    labels[(x > (shape.septum_right_edge - shape.rv_width)[row]) & (x < shape.septum_right_edge[row])] = RV
    if a.defect_length > 0:
        first, last = septal_defect_span(a)
        defect = (depth > first) & (depth < last) & (x >= shape.ra_inner_x[row]) & (x <= shape.la_inner_x[row])
        labels[defect] = np.where(x > shape.septum_middle[row], LA, RA)[defect]
    return labels


def atrial_septum_depth(a: Anatomy, position: float) -> float:
    """Compute the depth in mm of a point of the atrial septum at ``position``, from crux (0) to roof (1)."""
    return a.lv_length + position * min(a.la_length, a.ra_length - a.tricuspid_offset)


def septal_defect_span(a: Anatomy) -> tuple[float, float]:
    """Compute the depths in mm of the two ends of the atrial septal defect."""
    center = atrial_septum_depth(a, a.defect_position)
    return center - a.defect_length / 2, center + a.defect_length / 2


def valve_hinges(shape: ChamberOutlines) -> tuple[tuple[float, float], ...]:
    """Find the hinges ``(x, v)`` in mm of the leaflets: mitral septal and lateral, tricuspid septal and lateral."""
    mitral = int(np.flatnonzero(shape.lv_free_wall_radius > 0)[-1])
    tricuspid = int(np.flatnonzero(shape.rv_width > 0)[-1])
    septal_x = float(shape.septum_right_edge[tricuspid])
    return (
        (-float(shape.lv_septal_radius[mitral]), float(DEPTHS[mitral])),
        (float(shape.lv_free_wall_radius[mitral]), float(DEPTHS[mitral])),
        (septal_x, float(DEPTHS[tricuspid])),
        (septal_x - float(shape.rv_width[tricuspid]), float(DEPTHS[tricuspid])),
    )
