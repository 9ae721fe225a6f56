"""One recording: a heart, the pose of the probe, the settings of the machine, and the coordinates of pixels."""

from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache

import numpy as np

from echodream.phantom.anatomy import CLIP, COHORTS, Anatomy, normal, sample_anatomy
from echodream.phantom.motion import Cycle, Motion, contraction_for_ef, interpolate_cycle, systole_duration
from echodream.phantom.shape import ChamberOutlines, chamber_outlines, lv_outline

TOP = 0.02
"""Vertical position of the probe face, as a fraction of the image height."""
BOTTOM = 0.985
"""Vertical position of the largest depth, as a fraction of the image height."""
FACE = 4.0
"""Depth in mm at which the image begins."""
HALF_FACE = 2.5
"""Half of the width of the face of the probe in mm."""

GAIN = {"ASD": (0.0, 58.0), "PAH": (5.0, 63.0)}
"""Cohort -> gain and dynamic range of its machine in dB."""


@dataclass(frozen=True, slots=True)
class AcquisitionSettings:
    """Differences between recordings of one patient: pose of the probe, settings of the machine, heart rate and EF."""

    turn: float = normal(0, 2.5)
    """Rotation about the left ventricular apex, degrees."""
    shift_x: float = normal(0, 2.5)
    shift_y: float = normal(0, 1.5)
    """Position of the apex relative to that of the patient, in mm."""
    scale: float = normal(1, 0.015)
    foreshorten: float = normal(0.97, 0.018)
    """Apparent / true length of the left ventricular axis."""
    zoom: float = normal(1.03, 0.02)
    """Imaging depth / depth of the heart."""
    gain: float = normal(0, 2.0)
    """Gain in dB, relative to the gain of the simulated ultrasound machine."""
    tilt_gain: float = normal(0, 3.5)
    curve_gain: float = normal(0, 4.0)
    """Linear and quadratic error of the time gain compensation, in dB over the whole depth."""
    shadow: float = normal(14, 5.0)
    """Attenuation at one side of the sector by a rib or the lung, in dB."""
    shadow_at: float = normal(0, 1.0)
    """Angle at which the shadow begins, as a fraction of the half angle; the sign is the side."""
    noise: float = normal(-62.5, 1.5)
    """Level of the electronic noise in dB."""
    haze: float = normal(-17, 3.0)
    """Level of the reverberation near the probe in dB."""
    half_angle: float = normal(39, 1.0)
    """Half of the opening angle of the sector, in degrees."""
    rate: float = normal(1, 0.04)
    """Heart rate / heart rate of the patient."""
    ef: float = normal(0, 0.01)
    """Ejection fraction of the recording minus the ejection fraction of the patient."""


_MEAN, _SD = np.array([f.metadata["normal"] for f in fields(AcquisitionSettings)], dtype=np.float64).T


def sample_settings(rng: np.random.Generator) -> AcquisitionSettings:
    """Sample the settings of a recording. The shadow begins near one of the two edges of the sector."""
    values = _MEAN + _SD * np.clip(rng.standard_normal(len(_MEAN)), -CLIP, CLIP)
    settings = AcquisitionSettings(*values.tolist())
    edge = float(np.copysign(0.62 + 0.12 * abs(settings.shadow_at), settings.shadow_at))
    return replace(settings, shadow_at=edge)


@dataclass(frozen=True)
class Scene:
    """All parameters of one recording; they determine its pixels."""

    class_id: int
    anatomy: Anatomy
    settings: AcquisitionSettings
    size: int
    """Side of the square image in pixels."""
    fps: float
    frames: int
    start: float
    """Phase of the cardiac cycle at the first frame, 0 (end diastole) to 1."""
    seed: tuple[int, ...]
    """Seed of speckle, noise and beat lengths."""

    @property
    def ef(self) -> float:
        """Ejection fraction of this recording, 0 to 1, by disk summation of the left ventricle."""
        return self.anatomy.ef + self.settings.ef

    @property
    def seconds(self) -> float:
        """Time from the first frame to the last in seconds."""
        return (self.frames - 1) / self.fps

    @cached_property
    def beats(self) -> np.ndarray:
        """Times of end diastole in seconds, (N,), the first at or before 0 and the last after the end.

        Beat lengths vary by about 2 % and are a function of the seed.
        """
        beat = 60.0 / (self.anatomy.heart_rate * self.settings.rate)
        count = int(self.seconds / (0.93 * beat)) + 4
        variation = np.clip(np.random.default_rng([*self.seed, 1]).standard_normal(count), -CLIP, CLIP)
        lengths = beat * (1 + 0.02 * variation)
        ends = np.concatenate([[0.0], np.cumsum(lengths)]) - self.start * lengths[0]
        return ends[: int(np.searchsorted(ends, self.seconds, side="right")) + 1]

    @property
    def heart_rate(self) -> float:
        """Mean heart rate of the beats of the recording, per minute."""
        return 60.0 * (len(self.beats) - 1) / float(self.beats[-1] - self.beats[0])

    @cached_property
    def times(self) -> np.ndarray:
        """Time of each frame in seconds, (F,)."""
        return np.arange(self.frames) / self.fps

    @cached_property
    def cycle(self) -> Cycle:
        """State of the cardiac cycle in each frame."""
        return interpolate_cycle(self.times, self.beats, self.anatomy.early)

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
        diastolic = float((septal + free).mean()) * a.lv_length / 100 * s.scale**2 * s.foreshorten
        return diastolic, diastolic * (1 - a.shortening) * float(np.sqrt(1 - contraction_for_ef(a, self.ef)))

    @property
    def cohort(self) -> str:
        """ASD or PAH; each cohort has its own ultrasound machine."""
        return COHORTS[self.class_id]

    @property
    def apex(self) -> tuple[float, float]:
        """Distances of the left ventricular apex from the probe in mm, to the right and downwards."""
        s = self.settings
        return self.anatomy.heart_x + s.shift_x, 17.0 + self.anatomy.free_wall * 0.5 + s.shift_y

    @property
    def depth(self) -> float:
        """Imaging depth in mm: the depth of the heart at end diastole, rounded up to 5 mm."""
        a, s = self.anatomy, self.settings
        reach = max(a.lv_length + a.la_length, a.lv_length - a.offset + a.ra_length) * s.scale * s.foreshorten
        return 5.0 * np.ceil((self.apex[1] + reach + 9.0) * s.zoom / 5.0)

    @property
    def spacing(self) -> float:
        """Millimeters per pixel."""
        return self.depth / (self.size * (BOTTOM - TOP))

    def to_heart(self, column: np.ndarray, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Convert pixel coordinates to heart coordinates ``(x, v)`` in mm (spatial, not material)."""
        left, top = (column - (self.size - 1) / 2) * self.spacing, (row - TOP * self.size) * self.spacing
        cos, sin = self._rotation_cos_sin
        right, down = left - self.apex[0], top - self.apex[1]
        scale, long = self.settings.scale, self.settings.scale * self.settings.foreshorten
        return (cos * right - sin * down) / scale, (sin * right + cos * down) / long

    def to_pixel(self, x: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Convert heart coordinates in mm to pixel coordinates ``(column, row)``: the inverse of ``to_heart``."""
        left, top = self.to_probe(x, v)
        return left / self.spacing + (self.size - 1) / 2, top / self.spacing + TOP * self.size

    def to_probe(self, x: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Convert heart coordinates to distances in mm to the right of the probe and below the probe."""
        cos, sin = self._rotation_cos_sin
        x, v = x * self.settings.scale, v * (self.settings.scale * self.settings.foreshorten)
        return cos * x + sin * v + self.apex[0], cos * v - sin * x + self.apex[1]

    @property
    def _rotation_cos_sin(self) -> tuple[float, float]:
        angle = np.radians(self.anatomy.axis + self.settings.turn)
        return float(np.cos(angle)), float(np.sin(angle))

    @cached_property
    def sector(self) -> np.ndarray:
        """Mask of the sector, float32 (H, W), 0 outside, 1 inside, with antialiased edges of one pixel."""
        angle, depth = self.polar
        side = (np.radians(self.settings.half_angle) - np.abs(angle)) * depth + HALF_FACE
        rim = np.minimum(np.minimum(side, self.depth - depth), depth * np.cos(angle) - FACE) / self.spacing
        return np.clip(rim + 0.5, 0, 1).astype(np.float32)

    @cached_property
    def polar(self) -> tuple[np.ndarray, np.ndarray]:
        """Angle in radians (positive to the right) and depth in mm of each pixel, (H, W) each."""
        row, column = np.mgrid[: self.size, : self.size].astype(np.float64)
        left, top = (column - (self.size - 1) / 2) * self.spacing, (row - TOP * self.size) * self.spacing
        return np.arctan2(left, top), np.hypot(left, top)


def key_frame_times(scene: Scene) -> dict[str, np.ndarray]:
    """Times in seconds of end diastole (ED) and end systole (ES) in the recording."""
    starts, ends = scene.beats[:-1], scene.beats[1:]
    moments = {"ED": scene.beats, "ES": starts + np.array([systole_duration(beat) for beat in ends - starts])}
    return {name: at[(at >= 0) & (at <= scene.seconds)] for name, at in moments.items()}


@lru_cache(maxsize=256)
def sample_patient(seed: int, class_id: int, patient: int, severity: float = 1.0) -> tuple[float, Anatomy]:
    """A number in [0, 1) that determines the number of recordings of a patient, and the anatomy of the patient."""
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
        frames=round((seconds[0] + length * (seconds[1] - seconds[0])) * fps),
        start=float(start),
        seed=key,
    )
