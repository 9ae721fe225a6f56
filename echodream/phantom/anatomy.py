"""Anatomy of a simulated patient: sizes and function of the heart in an apical four-chamber view, by class.

Normal values of adults and their spread follow the chamber quantification guideline of ASE and EACVI (Lang et al. 2015,
doi:10.1016/j.echo.2014.10.003) and the right-heart guideline of ASE (Rudski et al. 2010,
doi:10.1016/j.echo.2010.05.010). Values are rounded, and the spread is reduced so that all hearts fit into the sector.
The guidelines describe the changes in atrial septal defect (ASD) and pulmonary arterial hypertension (PAH), but the
sizes of the changes are not measured values.
"""

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

CLASSES = ("ASD", "Non-ASD", "Non-PAH", "PAH")
"""Class names; the position is the class id."""

COHORTS = ("ASD", "ASD", "PAH", "PAH")
"""Cohort (hospital) of each class id."""

MAX_DEVIATION = 2.2
"""Largest deviation of a sampled value from the mean, in standard deviations."""

BODY_SIZE_SD = 0.045
"""Standard deviation of the factor for body size, whose mean is 1."""


def gaussian_parameter(mean: float, sd: float, scales_with_body: bool = False) -> Any:
    """Declare a dataclass field with a normal distribution; ``scales_with_body``: proportional to body size."""
    return field(metadata={"normal": (mean, sd), "scales_with_body": scales_with_body})


@dataclass(frozen=True, slots=True)
class Anatomy:
    """Heart of one patient at end diastole. The fields declare the mean and standard deviation of normal adults.

    Lengths are in mm, angles in degrees, fractions from 0 to 1.
    """

    lv_length: float = gaussian_parameter(83, 4.5, scales_with_body=True)
    """Distance from the left ventricular apex to the mitral annulus in mm."""
    lv_radius: float = gaussian_parameter(23.5, 1.7, scales_with_body=True)
    """Half of the largest left ventricular width in mm, before the septum is flattened."""
    lv_widest_position: float = gaussian_parameter(0.60, 0.045)
    """Position of the largest width of the left ventricle, from apex (0) to annulus (1)."""
    mitral_annulus_ratio: float = gaussian_parameter(0.76, 0.045)
    """Diameter of the mitral annulus / largest left ventricular width."""
    septal_flattening: float = gaussian_parameter(0.06, 0.05)
    """Flattening of the septum: 0 round, about 0.35 straight, above 0.35 bulging into the left ventricle."""
    septum_thickness: float = gaussian_parameter(9.0, 1.0)
    free_wall_thickness: float = gaussian_parameter(9.5, 1.0)
    rv_width: float = gaussian_parameter(36, 2.6, scales_with_body=True)
    """Largest width from the septum to the free wall of the right ventricle in mm."""
    rv_apex_position: float = gaussian_parameter(0.16, 0.04)
    """Position of the right ventricular apex along the left ventricle, from apex (0) to annulus (1)."""
    rv_shape_exponent: float = gaussian_parameter(0.74, 0.07)
    """Exponent of the right ventricular outline: 0.9 gives a triangle, 0.5 an oval."""
    rv_wall_thickness: float = gaussian_parameter(4.2, 0.4)
    tricuspid_offset: float = gaussian_parameter(6.5, 1.2, scales_with_body=True)
    """Distance of the tricuspid annulus from the mitral annulus towards the apex in mm."""
    la_width: float = gaussian_parameter(38, 3.0, scales_with_body=True)
    la_length: float = gaussian_parameter(45, 4.0, scales_with_body=True)
    ra_width: float = gaussian_parameter(38.5, 3.0, scales_with_body=True)
    ra_length: float = gaussian_parameter(46, 4.0, scales_with_body=True)
    atrial_septum_thickness: float = gaussian_parameter(4.4, 0.35)
    atrial_septum_tilt: float = gaussian_parameter(-7, 4.0)
    """Angle between the atrial septum and the left ventricular axis in degrees; positive towards the left atrium."""
    defect_length: float = gaussian_parameter(0, 0, scales_with_body=True)
    """Length of the atrial septal defect in mm; 0 without a defect."""
    defect_position: float = gaussian_parameter(0.47, 0.05)
    """Center of the atrial septal defect, from the crux (0) to the atrial roof (1)."""
    fossa_dropout: float = gaussian_parameter(4.5, 3.0)
    """Echo drop-out of the intact fossa ovalis in dB, which can be mistaken for a septal defect."""
    moderator_band: float = gaussian_parameter(0.15, 0.22)
    """Brightness of the moderator band, 0 to 1."""
    pericardium_level: float = gaussian_parameter(9, 2.0)
    """Brightness of the pericardium in dB above myocardium."""
    lv_axis_angle: float = gaussian_parameter(11, 3.0)
    """Angle between the left ventricular axis and the central beam in degrees."""
    apex_x: float = gaussian_parameter(7, 3.0)
    """Lateral position of the left ventricular apex relative to the probe in mm."""
    ef: float = gaussian_parameter(0.63, 0.045)
    """Ejection fraction of the left ventricle, 0 to 1."""
    heart_rate: float = gaussian_parameter(69, 9)
    """Heart rate in beats per minute."""
    lv_shortening: float = gaussian_parameter(0.165, 0.018)
    """Systolic descent of the mitral annulus / left ventricular length."""
    rv_contraction: float = gaussian_parameter(0.72, 0.06)
    """Systolic decrease of the squared width of the right ventricle, as a fraction."""
    e_wave_fraction: float = gaussian_parameter(0.68, 0.06)
    """Fraction of the left ventricular filling before atrial contraction."""
    atrial_widening: float = gaussian_parameter(0.13, 0.03)
    """Systolic widening of the atria, as a fraction."""


# Mean and standard deviation of the fields that differ from normal adults, for each class id. ASD has an enlarged right
# heart. PAH has a dilated right ventricle, a small left ventricle and a flattened septum.
_CLASS_CHANGES: tuple[dict[str, tuple[float, float]], ...] = (
    {
        "defect_length": (16, 2.6),
        "lv_radius": (22, 1.6),
        "septal_flattening": (0.16, 0.08),
        "rv_width": (46.5, 3.0),
        "rv_apex_position": (0.10, 0.03),
        "rv_shape_exponent": (0.64, 0.06),
        "ra_width": (48, 3.5),
        "ra_length": (51, 4.0),
        "rv_contraction": (0.78, 0.06),
        "heart_rate": (76, 10),
        "apex_x": (11, 3.0),
    },
    {},
    {},
    {
        "lv_radius": (20, 1.5),
        "lv_length": (79, 4.5),
        "septal_flattening": (0.50, 0.09),
        "rv_width": (49, 3.5),
        "rv_apex_position": (0.06, 0.03),
        "rv_shape_exponent": (0.56, 0.05),
        "rv_wall_thickness": (6.6, 0.8),
        "la_width": (33, 3.0),
        "la_length": (41, 4.0),
        "ra_width": (48, 4.0),
        "ra_length": (52, 4.5),
        "atrial_septum_tilt": (-2, 4.0),
        "ef": (0.58, 0.06),
        "heart_rate": (83, 10),
        "apex_x": (10, 3.0),
        "lv_shortening": (0.135, 0.018),
        "rv_contraction": (0.46, 0.07),
        "e_wave_fraction": (0.55, 0.06),
    },
)

_ANATOMY_FIELDS = fields(Anatomy)
_SCALES_WITH_BODY = np.array([f.metadata["scales_with_body"] for f in _ANATOMY_FIELDS])
_CLASS_PARAMETERS = [
    np.array([changes.get(f.name, f.metadata["normal"]) for f in _ANATOMY_FIELDS], dtype=np.float64).T
    for changes in _CLASS_CHANGES
]
"""Mean and standard deviation of the N fields of ``Anatomy``, (2, N) for each class id."""


def sample_anatomy(class_id: int, rng: np.random.Generator, severity: float = 1.0) -> Anatomy:
    """Sample the heart of a patient of class ``class_id``. The fields are independent except for a factor of body size.

    ``severity`` interpolates linearly between a healthy heart (0) and the disease of the class (1).
    """
    healthy = _CLASS_PARAMETERS[CLASSES.index("Non-ASD")]
    mean, sd = severity * _CLASS_PARAMETERS[class_id] + (1 - severity) * healthy
    z = np.clip(rng.standard_normal(len(mean) + 1), -MAX_DEVIATION, MAX_DEVIATION)
    values = mean + sd * z[1:]
    values[_SCALES_WITH_BODY] *= 1 + BODY_SIZE_SD * z[0]
    sampled = dict(zip((f.name for f in _ANATOMY_FIELDS), values.tolist(), strict=True))
    for name in ("rv_apex_position", "fossa_dropout", "moderator_band"):
        sampled[name] = max(sampled[name], 0.0)
    return Anatomy(**sampled)
