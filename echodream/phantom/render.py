"""Renders a scene to pixels and to label maps."""

from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from echodream.phantom.scene import FACE, GAIN, Scene
from echodream.phantom.shape import OTHER
from echodream.phantom.tissue import amplitude_from_db, draw_tissue, draw_tissue_labels, grid_index, rayleigh_speckle
from echodream.phantom.valves import draw_leaflets, leaflet_curves

CHUNK = 8
"""Number of frames that are computed at once, so that they fit into the processor cache."""
BLOOD = -59.0
"""Echo level of blood, dB."""
BLUR = 0.45
"""Standard deviation of the point spread function on the display, in pixels."""


def _sector_positions(scene: Scene) -> Iterator[tuple[slice, np.ndarray, np.ndarray, np.ndarray]]:
    """For each chunk of frames: the frames, the indices of the P pixels inside the sector in the flattened image, and
    their fractional column and row on the material grid, (F, P) each."""
    flat = np.flatnonzero(scene.sector > 0)
    row, column = np.divmod(flat, scene.size)
    x, v = (c.astype(np.float32) for c in scene.to_heart(column.astype(np.float64), row.astype(np.float64)))
    for first in range(0, scene.frames, CHUNK):
        part = slice(first, min(first + CHUNK, scene.frames))
        yield part, flat, *grid_index(*scene.motion.material_coordinates(x, v, scene.cycle[part]))


def _bilinear_lookup(image: np.ndarray, column: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Bilinear interpolation of ``image`` at fractional positions inside it."""
    left, top = column.astype(np.int32), row.astype(np.int32)
    right, down = column - left, row - top
    at, flat, width = top * np.int32(image.shape[1]) + left, image.ravel(), image.shape[1]
    upper = flat[at] + (flat[at + 1] - flat[at]) * right
    lower = flat[at + width] + (flat[at + width + 1] - flat[at + width]) * right
    return upper + (lower - upper) * down


def _gain_db(scene: Scene) -> np.ndarray:
    """Gain of each pixel in dB, (H, W): machine, error of the time gain compensation, and attenuation by a shadow."""
    s, (angle, depth) = scene.settings, scene.polar
    share = depth / scene.depth - 0.5
    profile = s.tilt_gain * share + s.curve_gain * (share**2 - 1 / 12) * 2
    aside = angle / np.radians(s.half_angle) * np.sign(s.shadow_at) - abs(s.shadow_at)
    shade = 1 / (1 + np.exp(-aside / 0.055))
    return GAIN[scene.cohort][0] + s.gain + profile - max(s.shadow, 3.0) * shade


def _reverberation_power(scene: Scene) -> np.ndarray:
    """Power of the static reverberation near the probe, (H, W)."""
    angle, depth = scene.polar
    level = scene.settings.haze - 30.0 * np.clip((depth - FACE) / 26.0, 0, 3)
    return (amplitude_from_db(level) * rayleigh_speckle(scene, angle, depth, 3)) ** 2


def _blood_speckle(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Power of blood speckle, (2H, 2W); each frame uses another crop of it."""
    field = rng.standard_normal((2, 2 * scene.size, 2 * scene.size), dtype=np.float32)
    field = ndimage.gaussian_filter(field, (0, 0.7, 1.1), mode="wrap")
    power = (field**2).sum(axis=0)
    return (power * (amplitude_from_db(BLOOD) ** 2 / power.mean())).astype(np.float32)


def _noise_power(scene: Scene) -> np.ndarray:
    """Mean power of the electronic noise, (H, W); the time gain compensation amplifies it in the far field."""
    far = (scene.polar[1] / scene.depth) ** 2
    return amplitude_from_db(scene.settings.noise + GAIN[scene.cohort][0]) ** 2 * (0.4 + 1.6 * far)


def render(scene: Scene) -> np.ndarray:
    """Render ``scene``: uint8, (F, H, W), black outside the sector. A deterministic function of the scene.

    Power of tissue, reverberation and blood, times gain, plus exponentially distributed noise power; then logarithmic
    compression with the dynamic range of the machine.
    """
    rng, size = np.random.default_rng([*scene.seed, 4]), scene.size
    tissue, valves = draw_tissue(scene), leaflet_curves(scene)
    gain = (amplitude_from_db(_gain_db(scene)) ** 2).astype(np.float32)
    noise, reverberation = _noise_power(scene).astype(np.float32), _reverberation_power(scene).astype(np.float32)
    blood = _blood_speckle(scene, rng)
    steepness = np.float32(10 / GAIN[scene.cohort][1])
    frames = np.empty((scene.frames, size, size), dtype=np.uint8)
    corner = rng.integers(0, size, 2)
    for part, flat, column, row in _sector_positions(scene):
        echo = draw_leaflets(scene, valves[part]).reshape(-1, size * size)
        echo[:, flat] += _bilinear_lookup(tissue, column, row)
        images = ndimage.gaussian_filter(echo.reshape(-1, size, size), (0, BLUR, BLUR), truncate=3.0)
        for f, image in enumerate(images, start=part.start):
            corner = (corner + rng.integers(-3, 4, 2)) % size
            blood_crop = blood[corner[0] : corner[0] + size, corner[1] : corner[1] + size]
            power = (image * image + reverberation + blood_crop) * gain
            power += noise * rng.standard_exponential(image.shape, dtype=np.float32)
            level = np.clip(np.log10(power + np.float32(1e-9)) * steepness + 1, 0, 1)
            frames[f] = (level * scene.sector * np.float32(255) + np.float32(0.5)).astype(np.uint8)
    return frames


def render_labels(scene: Scene) -> np.ndarray:
    """Label maps of all frames (values: see ``shape``), uint8 (F, H, W); ``OTHER`` outside the sector."""
    tissue = draw_tissue_labels(scene)
    labels = np.full((scene.frames, scene.size**2), OTHER, dtype=np.uint8)
    for part, flat, column, row in _sector_positions(scene):
        labels[part, flat] = tissue[(row + 0.5).astype(np.int32), (column + 0.5).astype(np.int32)]
    return labels.reshape(-1, scene.size, scene.size)
