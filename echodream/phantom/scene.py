"""One recording: a heart seen by one probe at one machine's settings, and where each pixel lies in that heart."""

from dataclasses import dataclass, fields
from functools import cached_property, lru_cache

import numpy as np

from echodream.phantom.anatomy import COHORTS, Anatomy, sample_anatomy
from echodream.phantom.motion import Cycle, Motion, contraction_for_ef, cycle_at, systole_duration
from echodream.phantom.shape import ChamberOutlines, chamber_outlines, lv_outline

TOP = 0.02
"""The probe's face, as a share of the image's height."""
BOTTOM = 0.985
"""Where the deepest echo is drawn, as a share of the image's height."""
FACE = 4.0
"""Depth in mm at which the picture begins."""
HALF_FACE = 2.5
"""Half the width of the probe's face in mm, by which the sector's sides stand apart at the top."""

GAIN = {"ASD": (0.0, 58.0), "PAH": (5.0, 63.0)}
"""Gain in dB and dynamic range in dB of each cohort's machine."""


@dataclass(frozen=True, slots=True)
class AcquisitionSettings:
    """What differs between recordings of one patient: the probe's pose, the machine's knobs, the moment."""

    turn: float
    """Rotation about the left ventricular apex, degrees."""
    shift_x: float
    shift_y: float
    """Position of the apex relative to the patient's usual one, mm."""
    scale: float
    foreshorten: float
    """Apparent over true length of the left ventricular axis."""
    zoom: float
    """Imaging depth over what the heart needs."""
    gain: float
    """dB relative to the cohort's machine."""
    tilt_gain: float
    curve_gain: float
    """Error of the depth gain compensation: linear and quadratic, dB over the whole depth."""
    shadow: float
    """Darkening of one edge of the sector by a rib or by lung, dB."""
    shadow_at: float
    """Angle at which it begins, as a share of the sector's half angle; its sign tells the side."""
    noise: float
    """Electronic noise, dB."""
    haze: float
    """Reverberation near the probe, dB."""
    half_angle: float
    """Half the sector's opening, degrees."""
    rate: float
    """Heart rate relative to the patient's usual one."""
    ef: float
    """Ejection fraction minus the patient's usual one."""


_SETTINGS: dict[str, tuple[float, float]] = {
    "turn": (0, 2.5),
    "shift_x": (0, 2.5),
    "shift_y": (0, 1.5),
    "scale": (1, 0.015),
    "foreshorten": (0.97, 0.018),
    "zoom": (1.03, 0.02),
    "gain": (0, 2.0),
    "tilt_gain": (0, 3.5),
    "curve_gain": (0, 4.0),
    "shadow": (14, 5.0),
    "shadow_at": (0, 1.0),
    "noise": (-62.5, 1.5),
    "haze": (-17, 3.0),
    "half_angle": (39, 1.0),
    "rate": (1, 0.04),
    "ef": (0, 0.01),
}
_FIELDS = fields(AcquisitionSettings)
_MEAN, _SD = np.array([_SETTINGS[f.name] for f in _FIELDS], dtype=np.float64).T


def sample_settings(rng: np.random.Generator) -> AcquisitionSettings:
    """Draw a recording's settings, each within 2.2 standard deviations."""
    values = _MEAN + _SD * np.clip(rng.standard_normal(len(_MEAN)), -2.2, 2.2)
    drawn = AcquisitionSettings(*values.tolist())
    edge = np.copysign(0.62 + 0.12 * abs(drawn.shadow_at), drawn.shadow_at)
    values[[f.name for f in _FIELDS].index("shadow_at")] = edge
    return AcquisitionSettings(*values.tolist())


@dataclass(frozen=True)
class Scene:
    """Everything that decides the pixels of one recording."""

    class_id: int
    anatomy: Anatomy
    settings: AcquisitionSettings
    size: int
    """Side of the square image in pixels."""
    fps: float
    frames: int
    start: float
    """Phase of the cycle at the first frame, 0 (end diastole) to 1."""
    seed: tuple[int, ...]
    """Of the tissue's speckle and the noise."""

    @property
    def ef(self) -> float:
        """Ejection fraction of this recording, 0 to 1: disk summation over the left ventricle as it is drawn."""
        return self.anatomy.ef + self.settings.ef

    @property
    def seconds(self) -> float:
        """Time from the first frame to the last."""
        return (self.frames - 1) / self.fps

    @cached_property
    def beats(self) -> np.ndarray:
        """End-diastolic moments in seconds, (N,), the first at or before 0 and the last after the end.

        Beats differ by about 2 % in length; the pattern depends on the recording's seed alone.
        """
        beat = 60.0 / (self.anatomy.heart_rate * self.settings.rate)
        count = int(self.seconds / (0.93 * beat)) + 4
        wobble = np.clip(np.random.default_rng([*self.seed, 1]).standard_normal(count), -2.2, 2.2)
        lengths = beat * (1 + 0.02 * wobble)
        ends = np.concatenate([[0.0], np.cumsum(lengths)]) - self.start * lengths[0]
        return ends[: int(np.searchsorted(ends, self.seconds, side="right")) + 1]

    @property
    def heart_rate(self) -> float:
        """Beats per minute, over the beats that the recording shows."""
        return 60.0 * (len(self.beats) - 1) / float(self.beats[-1] - self.beats[0])

    @cached_property
    def times(self) -> np.ndarray:
        """Time of each frame in seconds, (F,)."""
        return np.arange(self.frames) / self.fps

    @cached_property
    def cycle(self) -> Cycle:
        """State of the heart at each frame."""
        return cycle_at(self.times, self.beats, self.anatomy.early)

    @cached_property
    def shape(self) -> ChamberOutlines:
        """Outlines at end diastole."""
        return chamber_outlines(self.anatomy)

    @cached_property
    def motion(self) -> Motion:
        """The map between space and tissue."""
        return Motion(self.anatomy, self.shape, self.ef)

    @property
    def lv_area(self) -> tuple[float, float]:
        """Area of the left ventricle at end diastole and end systole as drawn, square centimetres."""
        s, a = self.settings, self.anatomy
        septal, free = lv_outline(a, (np.arange(100) + 0.5) / 100)
        still = float((septal + free).mean()) * a.lv_length / 100 * s.scale**2 * s.foreshorten
        return still, still * (1 - a.shortening) * float(np.sqrt(1 - contraction_for_ef(a, self.ef)))

    @property
    def cohort(self) -> str:
        """ASD or PAH: whose machine took it."""
        return COHORTS[self.class_id]

    @property
    def apex(self) -> tuple[float, float]:
        """Position of the left ventricular apex, mm to the right of and below the probe."""
        s = self.settings
        return self.anatomy.heart_x + s.shift_x, 17.0 + self.anatomy.free_wall * 0.5 + s.shift_y

    @property
    def depth(self) -> float:
        """Imaging depth in mm: what the heart needs at end diastole, rounded up to the machine's 5 mm steps."""
        a, s = self.anatomy, self.settings
        reach = max(a.lv_length + a.la_length, a.lv_length - a.offset + a.ra_length) * s.scale * s.foreshorten
        return 5.0 * np.ceil((self.apex[1] + reach + 9.0) * s.zoom / 5.0)

    @property
    def spacing(self) -> float:
        """Millimetres per pixel."""
        return self.depth / (self.size * (BOTTOM - TOP))

    def to_heart(self, column: np.ndarray, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixel coordinates -> heart coordinates ``(x, v)`` in mm, at that moment (see ``Motion`` for the tissue)."""
        left, top = (column - (self.size - 1) / 2) * self.spacing, (row - TOP * self.size) * self.spacing
        cos, sin = self._rotation
        right, down = left - self.apex[0], top - self.apex[1]
        scale, long = self.settings.scale, self.settings.scale * self.settings.foreshorten
        return (cos * right - sin * down) / scale, (sin * right + cos * down) / long

    def to_pixel(self, x: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Heart coordinates in mm -> pixel coordinates ``(column, row)``: the inverse of ``to_heart``."""
        left, top = self.to_probe(x, v)
        return left / self.spacing + (self.size - 1) / 2, top / self.spacing + TOP * self.size

    def to_probe(self, x: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Heart coordinates -> mm to the right of and below the probe."""
        cos, sin = self._rotation
        x, v = x * self.settings.scale, v * (self.settings.scale * self.settings.foreshorten)
        return cos * x + sin * v + self.apex[0], cos * v - sin * x + self.apex[1]

    @property
    def _rotation(self) -> tuple[float, float]:
        angle = np.radians(self.anatomy.axis + self.settings.turn)
        return float(np.cos(angle)), float(np.sin(angle))

    @cached_property
    def sector(self) -> np.ndarray:
        """Coverage of each pixel by the sector, float32 (H, W), 0 outside, with edges one pixel wide."""
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


def key_moments(scene: Scene) -> dict[str, np.ndarray]:
    """Seconds of each end diastole (ED: left ventricle largest) and end systole (ES: smallest) in the recording."""
    starts, ends = scene.beats[:-1], scene.beats[1:]
    moments = {"ED": scene.beats, "ES": starts + np.array([systole_duration(beat) for beat in ends - starts])}
    return {name: at[(at >= 0) & (at <= scene.seconds)] for name, at in moments.items()}


@lru_cache(maxsize=256)
def sample_patient(seed: int, class_id: int, patient: int) -> tuple[float, Anatomy]:
    """A number in [0, 1) that says how often a patient is recorded, and the patient's anatomy."""
    rng = np.random.default_rng([seed, class_id, patient])
    return float(rng.random()), sample_anatomy(class_id, rng)


def sample_scene(key: tuple[int, int, int, int], size: int, fps: float, seconds: tuple[float, float]) -> Scene:
    """Draw the recording ``key``: seed, class id, number of the patient in the class, number of the recording."""
    rng = np.random.default_rng(key)
    settings, (length, start) = sample_settings(rng), rng.random(2)
    return Scene(
        class_id=key[1],
        anatomy=sample_patient(*key[:3])[1],
        settings=settings,
        size=size,
        fps=fps,
        frames=round((seconds[0] + length * (seconds[1] - seconds[0])) * fps),
        start=float(start),
        seed=key,
    )
