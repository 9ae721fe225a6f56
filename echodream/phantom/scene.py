"""One recording of the phantom: a heart, the pose of the probe, the settings of the machine, and pixel coordinates."""

from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache

import numpy as np

from echodream.phantom.anatomy import COHORTS, MAX_DEVIATION, Anatomy, gaussian_parameter, sample_anatomy
from echodream.phantom.motion import CardiacCycle, Motion, contraction_for_ef, interpolate_cycle, systole_duration
from echodream.phantom.shape import ChamberOutlines, chamber_outlines, lv_outline

PROBE_POSITION = 0.02
"""Vertical position of the probe face, as a fraction of the image height."""
DEPTH_POSITION = 0.985
"""Vertical position of the largest depth, as a fraction of the image height."""
START_DEPTH = 4.0
"""Smallest imaged depth in mm."""
HALF_PROBE_WIDTH = 2.5
"""Half of the width of the probe face in mm."""

COHORT_GAIN = {"ASD": (0.0, 58.0), "PAH": (5.0, 63.0)}
"""Cohort -> gain and dynamic range of its ultrasound machine in dB."""


@dataclass(frozen=True, slots=True)
class AcquisitionSettings:
    """Differences between recordings of one patient: pose of the probe, settings of the machine, heart rate and EF."""

    rotation: float = gaussian_parameter(0, 2.5)
    """Rotation about the left ventricular apex in degrees."""
    apex_shift_x: float = gaussian_parameter(0, 2.5)
    apex_shift_y: float = gaussian_parameter(0, 1.5)
    """Position of the apex in the recording minus its mean position in the patient, in mm."""
    scale: float = gaussian_parameter(1, 0.015)
    """Size of the heart in the recording / true size."""
    foreshortening: float = gaussian_parameter(0.97, 0.018)
    """Apparent length of the left ventricular axis / true length."""
    depth_ratio: float = gaussian_parameter(1.03, 0.02)
    """Imaging depth / depth of the heart."""
    gain: float = gaussian_parameter(0, 2.0)
    """Gain in dB, relative to the gain of the simulated ultrasound machine."""
    linear_gain_error: float = gaussian_parameter(0, 3.5)
    quadratic_gain_error: float = gaussian_parameter(0, 4.0)
    """Linear and quadratic error of the time gain compensation in dB over the imaging depth."""
    shadow_attenuation: float = gaussian_parameter(14, 5.0)
    """Attenuation in dB by a rib or the lung at one side of the sector."""
    shadow_angle: float = gaussian_parameter(0, 1.0)
    """Angle of the edge of the shadow, as a fraction of ``half_angle``; a positive angle is on the right."""
    noise_level: float = gaussian_parameter(-62.5, 1.5)
    """Level of the electronic noise in dB."""
    reverberation_level: float = gaussian_parameter(-17, 3.0)
    """Level of the reverberation near the probe in dB."""
    half_angle: float = gaussian_parameter(39, 1.0)
    """Half of the opening angle of the sector in degrees."""
    heart_rate_ratio: float = gaussian_parameter(1, 0.04)
    """Heart rate in the recording / mean heart rate of the patient."""
    ef_difference: float = gaussian_parameter(0, 0.01)
    """Ejection fraction in the recording minus mean ejection fraction of the patient."""


_MEAN, _SD = np.array([f.metadata["normal"] for f in fields(AcquisitionSettings)], dtype=np.float64).T


def sample_settings(rng: np.random.Generator) -> AcquisitionSettings:
    """Sample the settings of a recording, with a shadow near one of the two edges of the sector."""
    values = _MEAN + _SD * np.clip(rng.standard_normal(len(_MEAN)), -MAX_DEVIATION, MAX_DEVIATION)
    settings = AcquisitionSettings(*values.tolist())
    angle = float(np.copysign(0.62 + 0.12 * abs(settings.shadow_angle), settings.shadow_angle))
    return replace(settings, shadow_angle=angle)


@dataclass(frozen=True)
class Scene:
    """Parameters of one recording, which determine its pixels."""

    class_id: int
    anatomy: Anatomy
    settings: AcquisitionSettings
    size: int
    """Side of the square image in pixels."""
    fps: float
    frame_count: int
    start_phase: float
    """Phase of the cardiac cycle at the first frame, 0 (end diastole) to 1."""
    seed: tuple[int, ...]
    """Seed of speckle, noise and beat lengths."""

    @property
    def ef(self) -> float:
        """Ejection fraction of the recording, 0 to 1, by disk summation of the left ventricle."""
        return self.anatomy.ef + self.settings.ef_difference

    @property
    def seconds(self) -> float:
        """Time from the first frame to the last in seconds."""
        return (self.frame_count - 1) / self.fps

    @cached_property
    def beats(self) -> np.ndarray:
        """Times of end diastole in seconds, (N,): the first is at or before the first frame, the last after all frames.

        Beat lengths vary by about 2 % and are a function of the seed.
        """
        beat = 60.0 / (self.anatomy.heart_rate * self.settings.heart_rate_ratio)
        count = int(self.seconds / (0.93 * beat)) + 4
        variation = np.random.default_rng([*self.seed, 1]).standard_normal(count)
        lengths = beat * (1 + 0.02 * np.clip(variation, -MAX_DEVIATION, MAX_DEVIATION))
        times = np.concatenate([[0.0], np.cumsum(lengths)]) - self.start_phase * lengths[0]
        return times[: int(np.searchsorted(times, self.seconds, side="right")) + 1]

    @property
    def heart_rate(self) -> float:
        """Mean heart rate of the recording in beats per minute."""
        return 60.0 * (len(self.beats) - 1) / float(self.beats[-1] - self.beats[0])

    @cached_property
    def times(self) -> np.ndarray:
        """Time of each frame in seconds, (F,)."""
        return np.arange(self.frame_count) / self.fps

    @cached_property
    def cycle(self) -> CardiacCycle:
        """State of the cardiac cycle in each frame."""
        return interpolate_cycle(self.times, self.beats, self.anatomy.e_wave_fraction)

    @cached_property
    def shape(self) -> ChamberOutlines:
        """Outlines of the chambers at end diastole."""
        return chamber_outlines(self.anatomy)

    @cached_property
    def motion(self) -> Motion:
        """Deformation of the heart."""
        return Motion(self.anatomy, self.shape, self.ef)

    @property
    def lv_area(self) -> tuple[float, float]:
        """Area of the left ventricle at end diastole and end systole in cm2, with foreshortening."""
        s, a = self.settings, self.anatomy
        septal, free = lv_outline(a, (np.arange(100) + 0.5) / 100)
        diastolic = float((septal + free).mean()) * a.lv_length / 100 * s.scale**2 * s.foreshortening
        return diastolic, diastolic * (1 - a.lv_shortening) * float(np.sqrt(1 - contraction_for_ef(a, self.ef)))

    @property
    def cohort(self) -> str:
        """Cohort, ASD or PAH; each cohort has a different ultrasound machine."""
        return COHORTS[self.class_id]

    @property
    def apex_position(self) -> tuple[float, float]:
        """Position of the left ventricular apex relative to the probe in mm, to the right and downwards."""
        s = self.settings
        return self.anatomy.apex_x + s.apex_shift_x, 17.0 + self.anatomy.free_wall_thickness * 0.5 + s.apex_shift_y

    @property
    def depth(self) -> float:
        """Imaging depth in mm: the depth of the heart at end diastole with a margin, rounded up to 5 mm."""
        a, s = self.anatomy, self.settings
        length = max(a.lv_length + a.la_length, a.lv_length - a.tricuspid_offset + a.ra_length)
        return 5.0 * np.ceil((self.apex_position[1] + length * s.scale * s.foreshortening + 9.0) * s.depth_ratio / 5.0)

    @property
    def pixel_spacing(self) -> float:
        """Pixel spacing in mm."""
        return self.depth / (self.size * (DEPTH_POSITION - PROBE_POSITION))

    def to_heart(self, column: np.ndarray, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Convert pixel coordinates to spatial heart coordinates ``(x, v)`` in mm."""
        right, down = self._pixel_to_probe(column, row)
        right, down = right - self.apex_position[0], down - self.apex_position[1]
        cos, sin = self._rotation_cos_sin
        x_scale, v_scale = self.settings.scale, self.settings.scale * self.settings.foreshortening
        return (cos * right - sin * down) / x_scale, (sin * right + cos * down) / v_scale

    def to_pixel(self, x: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Convert spatial heart coordinates in mm to pixel coordinates ``(column, row)``, inverting ``to_heart``."""
        right, down = self.to_probe(x, v)
        return right / self.pixel_spacing + (self.size - 1) / 2, down / self.pixel_spacing + PROBE_POSITION * self.size

    def _pixel_to_probe(self, column: np.ndarray, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Convert pixel coordinates to distances in mm to the right of the probe and below the probe."""
        right, down = column - (self.size - 1) / 2, row - PROBE_POSITION * self.size
        return right * self.pixel_spacing, down * self.pixel_spacing

    def to_probe(self, x: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Convert spatial heart coordinates to distances in mm to the right of the probe and below the probe."""
        cos, sin = self._rotation_cos_sin
        x, v = x * self.settings.scale, v * (self.settings.scale * self.settings.foreshortening)
        return cos * x + sin * v + self.apex_position[0], cos * v - sin * x + self.apex_position[1]

    @property
    def _rotation_cos_sin(self) -> tuple[float, float]:
        angle = np.radians(self.anatomy.lv_axis_angle + self.settings.rotation)
        return float(np.cos(angle)), float(np.sin(angle))

    @cached_property
    def sector(self) -> np.ndarray:
        """Mask of the sector, float32 (H, W), 0 outside, 1 inside, with antialiased edges of one pixel."""
        angle, depth = self.polar_coordinates
        side = (np.radians(self.settings.half_angle) - np.abs(angle)) * depth + HALF_PROBE_WIDTH
        distance = np.minimum(np.minimum(side, self.depth - depth), depth * np.cos(angle) - START_DEPTH)
        return np.clip(distance / self.pixel_spacing + 0.5, 0, 1).astype(np.float32)

    @cached_property
    def polar_coordinates(self) -> tuple[np.ndarray, np.ndarray]:
        """Angle in radians (positive to the right) and depth in mm of each pixel, (H, W) each."""
        row, column = np.mgrid[: self.size, : self.size].astype(np.float64)
        right, down = self._pixel_to_probe(column, row)
        return np.arctan2(right, down), np.hypot(right, down)


def key_frame_times(scene: Scene) -> dict[str, np.ndarray]:
    """Compute the times of end diastole (ED) and end systole (ES) in the recording, in seconds."""
    systole = np.array([systole_duration(beat) for beat in np.diff(scene.beats)])
    times = {"ED": scene.beats, "ES": scene.beats[:-1] + systole}
    return {name: t[(t >= 0) & (t <= scene.seconds)] for name, t in times.items()}


@lru_cache(maxsize=256)
def sample_patient(seed: int, class_id: int, patient: int, severity: float = 1.0) -> tuple[float, Anatomy]:
    """Sample the anatomy of a patient, and a number in [0, 1) that determines the number of recordings."""
    rng = np.random.default_rng([seed, class_id, patient])
    return float(rng.random()), sample_anatomy(class_id, rng, severity)


def sample_scene(
    key: tuple[int, int, int, int], size: int, fps: float, seconds: tuple[float, float], severity: float = 1.0
) -> Scene:
    """Sample the scene of one recording; ``key`` is (seed, class id, patient number in the class, recording number)."""
    rng = np.random.default_rng(key)
    settings, (length, start) = sample_settings(rng), rng.random(2)
    return Scene(
        class_id=key[1],
        anatomy=sample_patient(*key[:3], severity)[1],
        settings=settings,
        size=size,
        fps=fps,
        frame_count=round((seconds[0] + length * (seconds[1] - seconds[0])) * fps),
        start_phase=float(start),
        seed=key,
    )
