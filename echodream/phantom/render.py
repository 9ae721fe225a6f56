"""Renders a scene of the phantom to pixels and to label maps."""

from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from echodream.phantom.scene import COHORT_GAIN, START_DEPTH, Scene
from echodream.phantom.shape import OTHER
from echodream.phantom.tissue import amplitude_from_db, grid_index, rayleigh_speckle, tissue_amplitude, tissue_labels
from echodream.phantom.valves import leaflet_amplitude, leaflet_curves

FRAMES_PER_CHUNK = 8
"""Number of frames that are rendered together; their arrays fit into the processor cache."""
BLOOD_DB = -59.0
"""Echo level of blood in dB."""
BLUR_SD = 0.45
"""Standard deviation of the point spread function on the display, in pixels."""


def _sector_positions(scene: Scene) -> Iterator[tuple[slice, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield, for each chunk of frames, the slice of frames and the positions of the P pixels inside the sector.

    The positions are the index in the flattened image, (P,), and the fractional column and row on the material grid,
    (F, P) each.
    """
    pixels = np.flatnonzero(scene.sector > 0)
    row, column = np.divmod(pixels, scene.size)
    x, v = (c.astype(np.float32) for c in scene.to_heart(column.astype(np.float64), row.astype(np.float64)))
    for first in range(0, scene.frame_count, FRAMES_PER_CHUNK):
        chunk = slice(first, min(first + FRAMES_PER_CHUNK, scene.frame_count))
        yield chunk, pixels, *grid_index(*scene.motion.material_coordinates(x, v, scene.cycle[chunk]))


def _bilinear_lookup(image: np.ndarray, column: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Interpolate ``image`` bilinearly at fractional positions inside the image."""
    left, top = column.astype(np.int32), row.astype(np.int32)
    right, down = column - left, row - top
    index, flat, width = top * np.int32(image.shape[1]) + left, image.ravel(), image.shape[1]
    upper = flat[index] + (flat[index + 1] - flat[index]) * right
    lower = flat[index + width] + (flat[index + width + 1] - flat[index + width]) * right
    return upper + (lower - upper) * down


def _gain_db(scene: Scene) -> np.ndarray:
    """Compute the gain of each pixel in dB, (H, W), with errors of the time gain compensation and with a shadow."""
    s, (angle, depth) = scene.settings, scene.polar_coordinates
    relative_depth = depth / scene.depth - 0.5
    error = s.linear_gain_error * relative_depth + s.quadratic_gain_error * (relative_depth**2 - 1 / 12) * 2
    from_edge = angle / np.radians(s.half_angle) * np.sign(s.shadow_angle) - abs(s.shadow_angle)
    shadow = 1 / (1 + np.exp(-from_edge / 0.055))
    return COHORT_GAIN[scene.cohort][0] + s.gain + error - max(s.shadow_attenuation, 3.0) * shadow


def _reverberation_power(scene: Scene) -> np.ndarray:
    """Compute the power of the static reverberation near the probe, (H, W)."""
    angle, depth = scene.polar_coordinates
    level = scene.settings.reverberation_level - 30.0 * np.clip((depth - START_DEPTH) / 26.0, 0, 3)
    return (amplitude_from_db(level) * rayleigh_speckle(scene, angle, depth, 3)) ** 2


def _blood_speckle(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Sample the power of blood speckle, (2H, 2W); each frame shows a different crop."""
    field = rng.standard_normal((2, 2 * scene.size, 2 * scene.size), dtype=np.float32)
    field = ndimage.gaussian_filter(field, (0, 0.7, 1.1), mode="wrap")
    power = (field**2).sum(axis=0)
    return (power * (amplitude_from_db(BLOOD_DB) ** 2 / power.mean())).astype(np.float32)


def _noise_power(scene: Scene) -> np.ndarray:
    """Compute the mean power of electronic noise, (H, W), which time gain compensation amplifies in the far field."""
    far = (scene.polar_coordinates[1] / scene.depth) ** 2
    return amplitude_from_db(scene.settings.noise_level + COHORT_GAIN[scene.cohort][0]) ** 2 * (0.4 + 1.6 * far)


def render(scene: Scene) -> np.ndarray:
    """Render ``scene`` to pixels, uint8, (F, H, W), black outside the sector. The result depends only on the scene.

    The power of tissue, reverberation and blood is multiplied by the gain. Exponentially distributed noise power is
    added. Logarithmic compression uses the dynamic range of the ultrasound machine.
    """
    rng, size = np.random.default_rng([*scene.seed, 4]), scene.size
    tissue, valves = tissue_amplitude(scene), leaflet_curves(scene)
    gain = (amplitude_from_db(_gain_db(scene)) ** 2).astype(np.float32)
    noise, reverberation = _noise_power(scene).astype(np.float32), _reverberation_power(scene).astype(np.float32)
    blood = _blood_speckle(scene, rng)
    steepness = np.float32(10 / COHORT_GAIN[scene.cohort][1])
    frames = np.empty((scene.frame_count, size, size), dtype=np.uint8)
    corner = rng.integers(0, size, 2)
    for chunk, pixels, column, row in _sector_positions(scene):
        echo = leaflet_amplitude(scene, valves[chunk]).reshape(-1, size * size)
        echo[:, pixels] += _bilinear_lookup(tissue, column, row)
        images = ndimage.gaussian_filter(echo.reshape(-1, size, size), (0, BLUR_SD, BLUR_SD), truncate=3.0)
        for f, image in enumerate(images, start=chunk.start):
            corner = (corner + rng.integers(-3, 4, 2)) % size
            blood_crop = blood[corner[0] : corner[0] + size, corner[1] : corner[1] + size]
            power = (image * image + reverberation + blood_crop) * gain
            power += noise * rng.standard_exponential(image.shape, dtype=np.float32)
            level = np.clip(np.log10(power + np.float32(1e-9)) * steepness + 1, 0, 1)
            frames[f] = (level * scene.sector * np.float32(255) + np.float32(0.5)).astype(np.uint8)
    return frames


def render_labels(scene: Scene) -> np.ndarray:
    """Render the label maps of all frames, uint8 (F, H, W), with the label values of the module ``shape``."""
    tissue = tissue_labels(scene)
    labels = np.full((scene.frame_count, scene.size**2), OTHER, dtype=np.uint8)
    for chunk, pixels, column, row in _sector_positions(scene):
        labels[chunk, pixels] = tissue[(row + 0.5).astype(np.int32), (column + 0.5).astype(np.int32)]
    return labels.reshape(-1, scene.size, scene.size)
