"""Anatomy of a simulated patient: sizes and function of the heart in an apical four-chamber view, by class.

Normal values of adults and their spread follow the chamber quantification guideline of ASE and EACVI (Lang et al. 2015,
doi:10.1016/j.echo.2014.10.003) and the right-heart guideline of ASE (Rudski et al. 2010,
doi:10.1016/j.echo.2010.05.010). The values are rounded, and the spread is reduced so that all hearts fit into the
sector. The changes in atrial septal defect (ASD) and pulmonary arterial hypertension (PAH) follow the descriptions in
these guidelines; the sizes of the changes are not measured values.
"""

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

CLASSES = ("ASD", "Non-ASD", "Non-PAH", "PAH")
"""Class names; the position is the class id."""

COHORTS = ("ASD", "ASD", "PAH", "PAH")
"""The cohort (hospital) of each class id."""

CLIP = 2.2
"""Sampled values are clipped to this many standard deviations from the mean."""


BODY_SD = 0.045
"""Standard deviation of the factor for body size."""


def normal(mean: float, sd: float, body: bool = False) -> Any:
    """A field with its mean and standard deviation; ``body``: proportional to body size."""
    return field(metadata={"normal": (mean, sd), "body": body})


@dataclass(frozen=True, slots=True)
class Anatomy:
    """The heart of one patient at end diastole, with the mean and standard deviation in normal adults.

    Lengths in mm, angles in degrees, fractions from 0 to 1.
    """

    lv_length: float = normal(83, 4.5, body=True)
    """Apex to mitral annulus."""
    lv_radius: float = normal(23.5, 1.7, body=True)
    """Half of the largest short axis, before the septum is flattened."""
    lv_belly: float = normal(0.60, 0.045)
    """Position of the largest width of the left ventricle, from apex (0) to annulus (1)."""
    annulus: float = normal(0.76, 0.045)
    """Diameter of the mitral annulus / largest short axis."""
    flat: float = normal(0.06, 0.05)
    """Flattening of the septum: 0 round, about 0.35 straight; above, it bulges into the left ventricle."""
    septum: float = normal(9.0, 1.0)
    free_wall: float = normal(9.5, 1.0)
    rv_width: float = normal(36, 2.6, body=True)
    """Largest width from the septum to the free wall of the right ventricle."""
    rv_apex: float = normal(0.16, 0.04)
    """Position of the right ventricular apex along the left ventricle: 0 at its apex, 1 at its annulus."""
    rv_round: float = normal(0.74, 0.07)
    """Shape of the right ventricle: 0.9 a triangle, 0.5 an oval."""
    rv_wall: float = normal(4.2, 0.4)
    offset: float = normal(6.5, 1.2, body=True)
    """Distance of the tricuspid annulus from the mitral annulus towards the apex."""
    la_width: float = normal(38, 3.0, body=True)
    la_length: float = normal(45, 4.0, body=True)
    ra_width: float = normal(38.5, 3.0, body=True)
    ra_length: float = normal(46, 4.0, body=True)
    atrial_septum: float = normal(4.4, 0.35)
    atrial_tilt: float = normal(-7, 4.0)
    """Angle between the atrial septum and the left ventricular axis; positive towards the left atrium."""
    gap: float = normal(0, 0, body=True)
    """Length of the septal defect; 0 for none."""
    gap_at: float = normal(0.47, 0.05)
    """Center of the defect, from the crux (0) to the atrial roof (1)."""
    fossa: float = normal(4.5, 3.0)
    """Echo drop-out of the intact fossa ovalis in dB, which can be mistaken for a septal defect."""
    band: float = normal(0.15, 0.22)
    """Brightness of the moderator band, 0 to 1."""
    pericardium: float = normal(9, 2.0)
    """Brightness of the pericardium in dB above myocardium."""
    axis: float = normal(11, 3.0)
    """Angle between the left ventricular axis and the beam."""
    heart_x: float = normal(7, 3.0)
    """Lateral position of the left ventricular apex relative to the probe."""
    ef: float = normal(0.63, 0.045)
    """Ejection fraction of the left ventricle, 0 to 1."""
    heart_rate: float = normal(69, 9)
    """Beats per minute."""
    shortening: float = normal(0.165, 0.018)
    """Systolic descent of the mitral annulus / left ventricular length."""
    rv_squeeze: float = normal(0.72, 0.06)
    """Systolic decrease of the squared width of the right ventricle, as a fraction."""
    early: float = normal(0.68, 0.06)
    """Fraction of the filling by the E wave; the rest is atrial contraction."""
    reservoir: float = normal(0.13, 0.03)
    """Systolic widening of the atria, as a fraction."""


# Values of each class that differ from normal: an enlarged right heart in ASD; a dilated right ventricle, a small left
# ventricle and a flattened septum in PAH.
_CHANGES: tuple[dict[str, tuple[float, float]], ...] = (
    {
        "gap": (16, 2.6),
        "lv_radius": (22, 1.6),
        "flat": (0.16, 0.08),
        "rv_width": (46.5, 3.0),
        "rv_apex": (0.10, 0.03),
        "rv_round": (0.64, 0.06),
        "ra_width": (48, 3.5),
        "ra_length": (51, 4.0),
        "rv_squeeze": (0.78, 0.06),
        "heart_rate": (76, 10),
        "heart_x": (11, 3.0),
    },
    {},
    {},
    {
        "lv_radius": (20, 1.5),
        "lv_length": (79, 4.5),
        "flat": (0.50, 0.09),
        "rv_width": (49, 3.5),
        "rv_apex": (0.06, 0.03),
        "rv_round": (0.56, 0.05),
        "rv_wall": (6.6, 0.8),
        "la_width": (33, 3.0),
        "la_length": (41, 4.0),
        "ra_width": (48, 4.0),
        "ra_length": (52, 4.5),
        "atrial_tilt": (-2, 4.0),
        "ef": (0.58, 0.06),
        "heart_rate": (83, 10),
        "heart_x": (10, 3.0),
        "shortening": (0.135, 0.018),
        "rv_squeeze": (0.46, 0.07),
        "early": (0.55, 0.06),
    },
)

_FIELDS = fields(Anatomy)
_GROWS = np.array([f.metadata["body"] for f in _FIELDS])
_PARAMETERS = [
    np.array([changed.get(f.name, f.metadata["normal"]) for f in _FIELDS], dtype=np.float64).T for changed in _CHANGES
]
"""Mean and standard deviation of every field in each class, (2, N)."""


def sample_anatomy(class_id: int, rng: np.random.Generator, severity: float = 1.0) -> Anatomy:
    """Sample a patient of class ``class_id``: independent normal variation, and one factor for body size.

    ``severity``: 1 for the disease as in ``_CHANGES``, 0 for the values of a healthy heart, linear in between.
    """
    healthy = _PARAMETERS[CLASSES.index("Non-ASD")]
    mean, sd = severity * _PARAMETERS[class_id] + (1 - severity) * healthy
    z = np.clip(rng.standard_normal(len(mean) + 1), -CLIP, CLIP)
    values = mean + sd * z[1:]
    values[_GROWS] *= 1 + BODY_SD * z[0]
    sampled = dict(zip((f.name for f in _FIELDS), values.tolist(), strict=True))
    for name in ("rv_apex", "fossa", "band"):
        sampled[name] = max(sampled[name], 0.0)
    return Anatomy(**sampled)
