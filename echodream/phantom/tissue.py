"""Echo amplitude of the tissue with speckle, and its label map, in material coordinates."""

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
    atrial_septum_depth,
    label_cavities,
    nearest_depth_index,
    septal_defect_span,
    smoothstep,
    valve_hinges,
)

GRID_SPACING = 0.6
"""Point spacing of the material grid in mm."""
GRID_LEFT, GRID_RIGHT, GRID_TOP, GRID_BOTTOM = -135.0, 84.0, -30.0, 178.0

FREE_WALL_DB, SEPTUM_DB, OUTSIDE_DB, ANNULUS_DB, MODERATOR_BAND_DB = -24.5, -22.0, -36.0, -10.0, -24.0
"""Echo levels in dB relative to full brightness."""


def amplitude_from_db(level: np.ndarray | float) -> np.ndarray:
    """Convert a level in dB to a linear amplitude."""
    return np.power(10.0, np.asarray(level) / 20.0)


def material_grid() -> tuple[np.ndarray, np.ndarray]:
    """Return the coordinates in mm of the columns, ``x`` (GW,), and rows, ``v`` (GH,), of the material grid."""
    return np.arange(GRID_LEFT, GRID_RIGHT, GRID_SPACING), np.arange(GRID_TOP, GRID_BOTTOM, GRID_SPACING)


def grid_index(x: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Convert material coordinates in mm to fractional (column, row) of the material grid, clipped to the grid."""
    width, height = map(len, material_grid())
    column = np.clip((x - np.float32(GRID_LEFT)) * np.float32(1 / GRID_SPACING), 0, np.float32(width - 1.01))
    return column, np.clip((v - np.float32(GRID_TOP)) * np.float32(1 / GRID_SPACING), 0, np.float32(height - 1.01))


def _distance_from_mask(mask: np.ndarray) -> np.ndarray:
    """Compute the distance of each grid point from ``mask`` in mm, float32 (GH, GW)."""
    return ndimage.distance_transform_edt(~mask).astype(np.float32) * np.float32(GRID_SPACING)


def tissue_labels(scene: Scene) -> np.ndarray:
    """Label cavities and walls of the heart at end diastole on the material grid, uint8 (GH, GW)."""
    a, shape = scene.anatomy, scene.shape
    x, v = material_grid()
    labels = label_cavities(shape, a, x, v)
    thick = a.septum_thickness + (a.free_wall_thickness - a.septum_thickness) * smoothstep((x + 8.0) / 16.0)[None, :]
    base = smoothstep((v - 0.70 * shape.mitral_depth) / (0.30 * shape.mitral_depth))[:, None]
    wall = _distance_from_mask(labels == LV) < thick * (1 - 0.45 * base)
    wall |= _distance_from_mask(labels == RV) < a.rv_wall_thickness
    wall |= _distance_from_mask((labels == LA) | (labels == RA)) < 3.0
    labels[wall & (labels == OTHER)] = MYOCARDIUM
    return labels


def _beam_direction(
    scene: Scene, x: np.ndarray, v: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Compute the probe coordinates (rad, mm) and the beam direction (x, v) of each grid point, (GH, GW) each."""
    right, down = scene.to_probe(x[None, :], v[:, None])
    depth = np.maximum(np.hypot(right, down), 1.0)
    axes_right, axes_down = scene.to_probe(np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0]))
    beam_x = ((axes_right[1] - axes_right[0]) * right + (axes_down[1] - axes_down[0]) * down) / depth
    beam_v = ((axes_right[2] - axes_right[0]) * right + (axes_down[2] - axes_down[0]) * down) / depth
    return np.arctan2(right, down), depth, beam_x, beam_v


def _smooth_noise(seed: tuple[int, ...], shape: tuple[int, int], size: float) -> np.ndarray:
    """Sample smooth noise of unit variance with a structure size of ``size`` mm, (GH, GW)."""
    coarse = np.random.default_rng([*seed, 7]).standard_normal((24, 24))
    extent = [24 * GRID_SPACING / size * n / 24 for n in shape]
    rows, columns = np.meshgrid(*(np.linspace(0, e, n) for e, n in zip(extent, shape, strict=True)), indexing="ij")
    return ndimage.map_coordinates(coarse, [rows, columns], order=3, mode="grid-wrap")


def rayleigh_speckle(scene: Scene, angle: np.ndarray, depth: np.ndarray, stream: int) -> np.ndarray:
    """Sample fully developed speckle at probe coordinates (rad, mm), with Rayleigh-distributed amplitude, float32.

    The speckle is the magnitude of a complex Gaussian field of unit power. The axial correlation length is smaller than
    the lateral correlation length, which grows with depth. ``stream`` selects an independent random field.
    """
    axial, lateral = max(0.45, 0.42 * scene.pixel_spacing), max(0.010, 1.25 * scene.pixel_spacing / 85.0)
    rng = np.random.default_rng([*scene.seed, stream])
    count = (int(215.0 / axial), int(2.3 / (0.6 * lateral)))
    field = rng.standard_normal((2, *count), dtype=np.float32)
    field = ndimage.gaussian_filter(field, (0, 1.0, 1 / 0.6), mode="wrap", truncate=2.5)
    field /= np.sqrt(2.0) * field.std()
    index = [np.clip(depth / axial, 0, count[0] - 1), np.clip((angle + 1.15) / (0.6 * lateral), 0, count[1] - 1)]
    real, imaginary = (ndimage.map_coordinates(component, index, order=1) for component in field)
    return np.hypot(real, imaginary).astype(np.float32)


def _bright_point_amplitude(scene: Scene, x: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Compute the linear amplitude of the valve annuli and the edges of a septal defect, (GH, GW)."""
    a, shape = scene.anatomy, scene.shape
    septal, free, _, lateral = valve_hinges(shape)
    crux = (float(np.interp(septal[1], DEPTHS, shape.septum_middle)), septal[1])
    points = [(*crux, 2.6, ANNULUS_DB), (*free, 1.8, ANNULUS_DB), (*lateral, 1.8, ANNULUS_DB)]
    if a.defect_length > 0:
        first, last = septal_defect_span(a)
        for depth in (first - 0.6, last + 0.6):
            points.append((float(np.interp(depth, DEPTHS, shape.septum_middle)), depth, 1.4, ANNULUS_DB - 2.0))
    total = np.zeros((len(v), len(x)))
    for px, pv, radius, level in points:
        squared_distance = ((x - px) / radius)[None, :] ** 2 + ((v - pv) / radius)[:, None] ** 2
        total += amplitude_from_db(level) * np.exp(-0.5 * squared_distance)
    return total


def _moderator_band_amplitude(scene: Scene, x: np.ndarray, v: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Compute the linear amplitude of the moderator band from the septum to the free wall of the right ventricle."""
    a, shape = scene.anatomy, scene.shape
    across = (shape.septum_right_edge[:, None] - x[None, :])[nearest_depth_index(v)]
    septal_depth = a.rv_apex_position * a.lv_length + 0.42 * (shape.tricuspid_depth - a.rv_apex_position * a.lv_length)
    depth = septal_depth - 0.12 * across - 3.0 * np.sin(np.clip(across / a.rv_width, 0, 1) * np.pi)
    profile = np.exp(-0.5 * ((v[:, None] - depth) / 1.3) ** 2)
    return amplitude_from_db(MODERATOR_BAND_DB) * a.moderator_band * profile * (labels == RV)


def _diffuse_amplitude(scene: Scene, labels: np.ndarray, x: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Compute the linear amplitude of diffuse scattering without speckle, (GH, GW); 0 in blood."""
    a, shape = scene.anatomy, scene.shape
    heart = labels != OTHER
    distance = _distance_from_mask(heart)
    noise = _smooth_noise(scene.seed[:-1], labels.shape, 20.0)
    from_septum = np.abs(x[None, :] - shape.septum_middle[nearest_depth_index(v)][:, None])
    septum_weight = 1 - smoothstep((from_septum - a.septum_thickness) / 6.0)
    level = FREE_WALL_DB + (SEPTUM_DB - FREE_WALL_DB) * septum_weight + 1.0 * noise
    first, last = atrial_septum_depth(a, 0.28), atrial_septum_depth(a, 0.68)
    fossa = smoothstep((v - first) / 4.0) * smoothstep((last - v) / 4.0)
    level = level - a.fossa_dropout * septum_weight * fossa[:, None]
    outside = OUTSIDE_DB + 3.5 * noise - 0.16 * np.minimum(distance, 45.0)
    pericardium = a.pericardium_level * np.exp(-((distance / 2.0) ** 2)) * (0.4 + 0.6 * smoothstep(v / 40.0)[:, None])
    cavity = heart & (labels != MYOCARDIUM)
    return np.where(cavity, 0.0, amplitude_from_db(np.where(heart, level, outside + 2.2 * pericardium)))


def tissue_amplitude(scene: Scene) -> np.ndarray:
    """Compute the linear echo amplitude at end diastole on the material grid, float32 (GH, GW), which is 0 in blood.

    The amplitude of diffuse scattering and specular reflection is multiplied by speckle. Specular reflection is
    strongest at surfaces perpendicular to the beam.
    """
    x, v = material_grid()
    labels = tissue_labels(scene)
    angle, depth, beam_x, beam_v = _beam_direction(scene, x, v)
    amplitude = ndimage.gaussian_filter(_diffuse_amplitude(scene, labels, x, v).astype(np.float32), 0.8)
    solid = ndimage.gaussian_filter(((labels == OTHER) | (labels == MYOCARDIUM)).astype(np.float32), 1.8)
    edge_v, edge_x = np.gradient(solid)
    specular = np.abs(edge_x * beam_x + edge_v * beam_v) + 0.25 * np.hypot(edge_x, edge_v)
    amplitude *= 1 + 4.0 * specular
    points = _bright_point_amplitude(scene, x, v) * np.minimum(1.6 * solid, 1) ** 2
    amplitude = amplitude + 0.8 * (points + _moderator_band_amplitude(scene, x, v, labels))
    return (amplitude * (0.15 + rayleigh_speckle(scene, angle, depth, 2))).astype(np.float32)
