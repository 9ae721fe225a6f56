"""Mitral and tricuspid leaflets: curves that rotate about their hinges and are rendered with a Gaussian profile."""

import numpy as np

from echodream.phantom.scene import Scene
from echodream.phantom.shape import valve_hinges
from echodream.phantom.tissue import amplitude_from_db

LEAFLET_POINTS = 26
LEAFLET_DB = -17.0
"""Echo level of a leaflet in dB."""
TENTING_HEIGHT = 4.5
"""Distance in mm of the tip of a closed leaflet from the annulus plane, on the ventricular side."""
LEAFLET_SD = 0.85
"""Standard deviation of the profile of a leaflet in mm, before the blur of the image."""


def _leaflet_curve(
    hinge: np.ndarray, opposite_hinge: np.ndarray, length_ratio: float, opening: np.ndarray, swing: float
) -> np.ndarray:
    """Compute a leaflet curve, (F, LEAFLET_POINTS, 2) in mm, from ``hinge`` towards ``opposite_hinge``, (F, 2) each.

    ``length_ratio`` is the length of the closed leaflet along the annulus plane, as a fraction of the annulus diameter.
    ``opening``, (F,), is 0 for a closed leaflet and 1 for a leaflet at ``swing`` radians from the annulus plane.
    """
    chord = opposite_hinge - hinge
    width = np.linalg.norm(chord, axis=1)
    along = chord / width[:, None]
    apical = np.stack([along[:, 1], -along[:, 0]], axis=1) * np.sign(along[:, :1])
    closed = np.arctan2(TENTING_HEIGHT, length_ratio * width)
    length = np.hypot(length_ratio * width, TENTING_HEIGHT)
    tip_angle = closed + (swing - closed) * opening
    control_angle = 1.5 * closed + (1.18 * swing - 1.5 * closed) * opening

    def point_at_angle(distance: np.ndarray, angle: np.ndarray) -> np.ndarray:
        return hinge + distance[:, None] * (along * np.cos(angle)[:, None] + apical * np.sin(angle)[:, None])

    tip, control = point_at_angle(length, tip_angle)[:, None], point_at_angle(0.55 * length, control_angle)[:, None]
    t = np.linspace(0, 1, LEAFLET_POINTS)[None, :, None]
    return (1 - t) ** 2 * hinge[:, None] + 2 * t * (1 - t) * control + t**2 * tip


def leaflet_curves(scene: Scene) -> np.ndarray:
    """Compute the four leaflets in heart coordinates in each frame, (F, 4, LEAFLET_POINTS, 2) in mm."""
    x, v = np.array(valve_hinges(scene.shape), dtype=np.float64).T
    hinges = np.stack(scene.motion.spatial_coordinates(x, v, scene.cycle), axis=-1)
    opening = scene.cycle.opening
    leaflets = ((0, 1, 0.64, 1.32), (1, 0, 0.38, 1.55), (2, 3, 0.46, 1.45), (3, 2, 0.56, 1.32))
    return np.stack(
        [_leaflet_curve(hinges[:, a], hinges[:, b], f, opening, swing) for a, b, f, swing in leaflets], axis=1
    )


def leaflet_amplitude(scene: Scene, points: np.ndarray) -> np.ndarray:
    """Render the echo amplitude of the leaflet curves ``points`` (F, ..., 2) in mm. Returns float32, (F, H, W)."""
    count, size = len(points), scene.size
    points = points.reshape(count, 4, LEAFLET_POINTS, 2)
    column, row = scene.to_pixel(points[..., 0], points[..., 1])
    sigma = max(0.5, LEAFLET_SD / scene.pixel_spacing)
    spacing = np.hypot(np.diff(column, axis=-1), np.diff(row, axis=-1)).mean(axis=-1, keepdims=True)
    speckle = np.random.default_rng([*scene.seed, 5]).normal(0.0, 2.5, (4, LEAFLET_POINTS // 2)).repeat(2, axis=1)
    amplitude = amplitude_from_db(LEAFLET_DB + speckle - np.linspace(0, 4, LEAFLET_POINTS))
    weight = amplitude * spacing / (np.sqrt(2 * np.pi) * sigma)
    offsets = np.arange(-2, 3)
    columns = np.round(column)[..., None, None] + offsets[None, :]
    rows = np.round(row)[..., None, None] + offsets[:, None]
    squared_distance = (columns - column[..., None, None]) ** 2 + (rows - row[..., None, None]) ** 2
    profile = weight[..., None, None] * np.exp(-0.5 / sigma**2 * squared_distance)
    inside = (columns >= 0) & (columns < size) & (rows >= 0) & (rows < size)
    frame = np.arange(count).reshape(-1, 1, 1, 1, 1)
    index = ((frame * size + rows) * size + columns).astype(np.int64)
    total = np.bincount(index[inside], weights=profile[inside], minlength=count * size * size)
    return total.reshape(count, size, size).astype(np.float32)
