"""The mitral and tricuspid leaflets: curves that rotate about their hinges, drawn as Gaussian strokes."""

import numpy as np

from echodream.phantom.scene import Scene
from echodream.phantom.shape import valve_hinges
from echodream.phantom.tissue import amplitude_from_db

POINTS = 26
LEVEL = -17.0
"""Echo level of a leaflet in dB."""
TENT = 4.5
"""Distance in mm of the tip of a closed leaflet from the plane of the annulus, on the ventricular side."""
THICKNESS = 0.85
"""Standard deviation of the profile of a leaflet in mm, before the blur of the image."""


def _leaflet_line(hinge: np.ndarray, other: np.ndarray, share: float, opening: np.ndarray, swing: float) -> np.ndarray:
    """Points along one leaflet, (F, POINTS, 2) in mm, from ``hinge`` (F, 2) over a fraction ``share`` to ``other``.

    ``opening``, (F,): 0 closed, with the tip ``TENT`` mm apical of the plane of the annulus; 1 open, rotated about the
    hinge by ``swing`` radians from this plane towards the apex.
    """
    chord = other - hinge
    width = np.linalg.norm(chord, axis=1)
    along = chord / width[:, None]
    apical = np.stack([along[:, 1], -along[:, 0]], axis=1) * np.sign(along[:, :1])
    rest = np.arctan2(TENT, share * width)
    length = np.hypot(share * width, TENT)
    angle = rest + (swing - rest) * opening
    bend = 1.5 * rest + (1.18 * swing - 1.5 * rest) * opening
    tip = hinge + length[:, None] * (along * np.cos(angle)[:, None] + apical * np.sin(angle)[:, None])
    knee = hinge + 0.55 * length[:, None] * (along * np.cos(bend)[:, None] + apical * np.sin(bend)[:, None])
    t = np.linspace(0, 1, POINTS)[None, :, None]
    return (1 - t) ** 2 * hinge[:, None] + 2 * t * (1 - t) * knee[:, None] + t**2 * tip[:, None]


def leaflet_curves(scene: Scene) -> np.ndarray:
    """The four leaflets in heart coordinates in each frame, (F, 4, POINTS, 2) in mm."""
    x, v = np.array(valve_hinges(scene.shape), dtype=np.float64).T
    now = np.stack(scene.motion.forward(x, v, scene.cycle), axis=-1)
    opening = scene.cycle.opening
    plan = ((0, 1, 0.64, 1.32), (1, 0, 0.38, 1.55), (2, 3, 0.46, 1.45), (3, 2, 0.56, 1.32))
    return np.stack([_leaflet_line(now[:, a], now[:, b], share, opening, swing) for a, b, share, swing in plan], axis=1)


def draw_leaflets(scene: Scene, points: np.ndarray) -> np.ndarray:
    """Echo amplitude of the leaflets, curves ``points`` (F, ..., 2) in mm, on the image: float32, (F, H, W)."""
    count, size = len(points), scene.size
    points = points.reshape(count, 4, POINTS, 2)
    column, row = scene.to_pixel(points[..., 0], points[..., 1])
    sigma = max(0.5, THICKNESS / scene.spacing)
    apart = np.hypot(np.diff(column, axis=-1), np.diff(row, axis=-1)).mean(axis=-1, keepdims=True)
    grain = np.random.default_rng([*scene.seed, 5]).normal(0.0, 2.5, (4, POINTS // 2)).repeat(2, axis=1)
    weight = amplitude_from_db(LEVEL + grain - np.linspace(0, 4, POINTS)) * apart / (np.sqrt(2 * np.pi) * sigma)
    reach = np.arange(-2, 3)
    near_c = np.round(column)[..., None, None] + reach[None, :]
    near_r = np.round(row)[..., None, None] + reach[:, None]
    square = (near_c - column[..., None, None]) ** 2 + (near_r - row[..., None, None]) ** 2
    dab = weight[..., None, None] * np.exp(-0.5 / sigma**2 * square)
    inside = (near_c >= 0) & (near_c < size) & (near_r >= 0) & (near_r < size)
    frame = np.arange(count).reshape(-1, 1, 1, 1, 1)
    index = ((frame * size + near_r) * size + near_c).astype(np.int64)
    total = np.bincount(index[inside], weights=dab[inside], minlength=count * size * size)
    return total.reshape(count, size, size).astype(np.float32)
