"""Echo amplitude of the tissue in material coordinates, with speckle, and the label map."""

import numpy as np
from scipy import ndimage

from echodream.phantom.scene import Scene
from echodream.phantom.shape import (
    DEPTHS,
    LA,
    LV,
    MYOCARDIUM,
    OTHER,
    RA,
    RV,
    atrial_septum_span,
    label_cavities,
    nearest_depth_index,
    septal_defect_span,
    smoothstep,
    valve_hinges,
)

GRID = 0.6
"""Spacing of the material grid in mm."""
X0, X1, DEPTH0, DEPTH1 = -135.0, 84.0, -30.0, 178.0

MYOCARDIAL, SEPTAL, OUTSIDE, RING, BAND = -24.5, -22.0, -36.0, -10.0, -24.0
"""Echo levels in dB relative to full brightness: free walls, septa, outside the heart, valve rings, moderator band."""


def amplitude_from_db(level: np.ndarray | float) -> np.ndarray:
    """Convert a level in dB to a linear amplitude."""
    return np.power(10.0, np.asarray(level) / 20.0)


def material_grid() -> tuple[np.ndarray, np.ndarray]:
    """Coordinates in mm of the columns, ``x`` (GW,), and of the rows, ``v`` (GH,), of the material grid."""
    return np.arange(X0, X1, GRID), np.arange(DEPTH0, DEPTH1, GRID)


def grid_index(x: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Convert material coordinates in mm to fractional (column, row) of the material grid, clipped to the grid."""
    width, height = map(len, material_grid())
    column = np.clip((x - np.float32(X0)) * np.float32(1 / GRID), 0, np.float32(width - 1.01))
    return column, np.clip((v - np.float32(DEPTH0)) * np.float32(1 / GRID), 0, np.float32(height - 1.01))


def _distance_from_mask(mask: np.ndarray) -> np.ndarray:
    """Distance of each grid point from ``mask`` in mm, float32 (GH, GW)."""
    return ndimage.distance_transform_edt(~mask).astype(np.float32) * np.float32(GRID)


def draw_tissue_labels(scene: Scene) -> np.ndarray:
    """Label map of the heart at end diastole on the material grid: cavities and walls."""
    a, shape = scene.anatomy, scene.shape
    x, v = material_grid()
    labels = label_cavities(shape, a, x, v)
    thick = a.septum + (a.free_wall - a.septum) * smoothstep((x + 8.0) / 16.0)[None, :]
    base = smoothstep((v - 0.70 * shape.length) / (0.30 * shape.length))[:, None]
    wall = _distance_from_mask(labels == LV) < thick * (1 - 0.45 * base)
    wall |= _distance_from_mask(labels == RV) < a.rv_wall
    wall |= _distance_from_mask((labels == LA) | (labels == RA)) < 3.0
    labels[wall & (labels == OTHER)] = MYOCARDIUM
    return labels


def _beam_direction(
    scene: Scene, x: np.ndarray, v: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Angle and depth of each grid point relative to the probe, and the beam direction in heart coordinates."""
    right, down = scene.to_probe(x[None, :], v[:, None])
    depth = np.maximum(np.hypot(right, down), 1.0)
    ahead, beyond = scene.to_probe(np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0]))
    along_x = ((ahead[1] - ahead[0]) * right + (beyond[1] - beyond[0]) * down) / depth
    along_v = ((ahead[2] - ahead[0]) * right + (beyond[2] - beyond[0]) * down) / depth
    return np.arctan2(right, down), depth, along_x, along_v


def _smooth_noise(seed: tuple[int, ...], shape: tuple[int, int], size: float) -> np.ndarray:
    """Smooth noise of unit variance with a structure size of ``size`` mm, (GH, GW)."""
    coarse = np.random.default_rng([*seed, 7]).standard_normal((24, 24))
    zoom = [24 * GRID / size * n / 24 for n in shape]
    rows, columns = np.meshgrid(*(np.linspace(0, z, n) for z, n in zip(zoom, shape, strict=True)), indexing="ij")
    return ndimage.map_coordinates(coarse, [rows, columns], order=3, mode="grid-wrap")


def rayleigh_speckle(scene: Scene, angle: np.ndarray, depth: np.ndarray, stream: int) -> np.ndarray:
    """Fully developed speckle at probe coordinates (rad, mm): Rayleigh-distributed amplitude of unit power, float32.

    The magnitude of a complex Gaussian field with a smaller axial than lateral correlation length; the lateral
    correlation length grows with depth. ``stream`` selects an independent random field.
    """
    axial, lateral = max(0.45, 0.42 * scene.spacing), max(0.010, 1.25 * scene.spacing / 85.0)
    rng = np.random.default_rng([*scene.seed, stream])
    count = (int(215.0 / axial), int(2.3 / (0.6 * lateral)))
    field = rng.standard_normal((2, *count), dtype=np.float32)
    field = ndimage.gaussian_filter(field, (0, 1.0, 1 / 0.6), mode="wrap", truncate=2.5)
    field /= np.sqrt(2.0) * field.std()
    at = [np.clip(depth / axial, 0, count[0] - 1), np.clip((angle + 1.15) / (0.6 * lateral), 0, count[1] - 1)]
    real, imaginary = (ndimage.map_coordinates(part, at, order=1) for part in field)
    return np.hypot(real, imaginary).astype(np.float32)


def _bright_points(scene: Scene, x: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Linear amplitude of bright points: valve annuli, and the rims of a septal defect."""
    a, shape = scene.anatomy, scene.shape
    septal, free, _, lateral = valve_hinges(shape)
    crux = (float(np.interp(septal[1], DEPTHS, shape.middle)), septal[1])
    points = [(*crux, 2.6, RING), (*free, 1.8, RING), (*lateral, 1.8, RING)]
    if a.gap > 0:
        first, last = septal_defect_span(a)
        points += [(float(np.interp(d, DEPTHS, shape.middle)), d, 1.4, RING - 2.0) for d in (first - 0.6, last + 0.6)]
    total = np.zeros((len(v), len(x)))
    for px, pv, radius, level in points:
        total += amplitude_from_db(level) * np.exp(
            -0.5 * (((x - px) / radius)[None, :] ** 2 + ((v - pv) / radius)[:, None] ** 2)
        )
    return total


def _moderator_band(scene: Scene, x: np.ndarray, v: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Linear amplitude of the moderator band, which crosses the right ventricle from the septum to the free wall."""
    a, shape = scene.anatomy, scene.shape
    across = (shape.septal_edge[:, None] - x[None, :])[nearest_depth_index(v)]
    line = a.rv_apex * a.lv_length + 0.42 * (shape.tricuspid - a.rv_apex * a.lv_length)
    sag = line - 0.12 * across - 3.0 * np.sin(np.clip(across / a.rv_width, 0, 1) * np.pi)
    strand = np.exp(-0.5 * ((v[:, None] - sag) / 1.3) ** 2)
    return amplitude_from_db(BAND) * a.band * strand * (labels == RV)


def _echo_levels(scene: Scene, labels: np.ndarray, x: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Linear amplitude of diffuse scattering without speckle, (GH, GW); 0 in blood."""
    a, shape = scene.anatomy, scene.shape
    heart = labels != OTHER
    away = _distance_from_mask(heart)
    clouds = _smooth_noise(scene.seed[:-1], labels.shape, 20.0)
    free = 1 - smoothstep((np.abs(x[None, :] - shape.middle[nearest_depth_index(v)][:, None]) - a.septum) / 6.0)
    level = MYOCARDIAL + (SEPTAL - MYOCARDIAL) * free + 1.0 * clouds
    first, last = atrial_septum_span(a, 0.28, 0.68)
    thin = smoothstep((v - first) / 4.0) * smoothstep((last - v) / 4.0)
    level = level - a.fossa * free * thin[:, None]
    beyond = OUTSIDE + 3.5 * clouds - 0.16 * np.minimum(away, 45.0)
    sac = a.pericardium * np.exp(-((away / 2.0) ** 2)) * (0.4 + 0.6 * smoothstep(v / 40.0)[:, None])
    cavity = heart & (labels != MYOCARDIUM)
    return np.where(cavity, 0.0, amplitude_from_db(np.where(heart, level, beyond + 2.2 * sac)))


def draw_tissue(scene: Scene) -> np.ndarray:
    """Linear echo amplitude of the heart at end diastole on the material grid: float32, (GH, GW); 0 in blood.

    Diffuse scattering and specular reflections, strongest where a surface is perpendicular to the beam, times speckle.
    """
    x, v = material_grid()
    labels = draw_tissue_labels(scene)
    angle, depth, along_x, along_v = _beam_direction(scene, x, v)
    diffuse = ndimage.gaussian_filter(_echo_levels(scene, labels, x, v).astype(np.float32), 0.8)
    solid = ndimage.gaussian_filter(((labels == OTHER) | (labels == MYOCARDIUM)).astype(np.float32), 1.8)
    edge_v, edge_x = np.gradient(solid)
    mirror = np.abs(edge_x * along_x + edge_v * along_v) + 0.25 * np.hypot(edge_x, edge_v)
    diffuse *= 1 + 4.0 * mirror
    bright = diffuse + 0.8 * (
        _bright_points(scene, x, v) * np.minimum(1.6 * solid, 1) ** 2 + _moderator_band(scene, x, v, labels)
    )
    return (bright * (0.15 + rayleigh_speckle(scene, angle, depth, 2))).astype(np.float32)
