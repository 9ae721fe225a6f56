"""A patient: sizes of the heart in an apical four-chamber view, how well it pumps, and what a disease does to it.

Adult normal values and their spread follow the chamber quantification guideline of ASE and EACVI (Lang et al. 2015,
doi:10.1016/j.echo.2014.10.003) and the right-heart guideline of ASE (Rudski et al. 2010,
doi:10.1016/j.echo.2010.05.010), rounded, with the spread narrowed to hearts that fit one sector. What atrial septal
defect (ASD) and pulmonary arterial hypertension (PAH) change follows the descriptions there; the amounts are a choice.
"""

from dataclasses import dataclass, fields

import numpy as np

CLASSES = ("ASD", "Non-ASD", "Non-PAH", "PAH")
"""Class names; the position is the class id."""

COHORTS = ("ASD", "ASD", "PAH", "PAH")
"""The cohort (hospital) of each class id."""

CLIP = 2.2
"""Every drawn size stays within this many standard deviations of its mean."""


@dataclass(frozen=True, slots=True)
class Anatomy:
    """One patient's heart at end diastole. Lengths in mm, angles in degrees, shares and ratios between 0 and 1."""

    lv_length: float
    """Apex to mitral annulus."""
    lv_radius: float
    """Half the largest short axis, before the septum is flattened."""
    lv_belly: float
    """Where the left ventricle is widest, from apex (0) to annulus (1)."""
    annulus: float
    """Mitral annulus diameter over the largest short axis."""
    flat: float
    """Flattening of the septum: 0 round, about 0.35 straight, above that it bows into the left ventricle."""
    septum: float
    free_wall: float
    rv_width: float
    """Septum to right ventricular free wall, at the widest."""
    rv_apex: float
    """Where the right ventricle's apex lies along the left one: 0 at the left apex, 1 at the annulus."""
    rv_round: float
    """Roundness of the right ventricle: 0.9 a triangle, 0.5 an oval."""
    rv_wall: float
    offset: float
    """How much more apical the tricuspid hinge is than the mitral one."""
    la_width: float
    la_length: float
    ra_width: float
    ra_length: float
    atrial_septum: float
    atrial_tilt: float
    """Angle of the atrial septum to the left ventricular axis; positive leans to the left atrium."""
    gap: float
    """Length of the hole in the atrial septum; 0 for none."""
    gap_at: float
    """Middle of the hole, from the crux (0) to the atrial roof (1)."""
    fossa: float
    """Echo drop-out of the (intact) fossa ovalis in dB: the pitfall in telling a defect from a thin septum."""
    band: float
    """Brightness of the moderator band, 0 to 1."""
    pericardium: float
    """Brightness of the pericardium in dB above myocardium."""
    axis: float
    """Angle of the left ventricular axis to the beam."""
    heart_x: float
    """Lateral position of the left ventricular apex relative to the probe."""
    ef: float
    """Ejection fraction of the left ventricle, 0 to 1."""
    heart_rate: float
    """Beats per minute."""
    shortening: float
    """Descent of the mitral annulus over the left ventricular length."""
    rv_squeeze: float
    """Systolic narrowing of the right ventricle, as a share of its squared width."""
    early: float
    """Share of filling that the E wave brings; the atrial kick brings the rest."""
    reservoir: float
    """Widening of the atria during systole."""


# Mean and standard deviation of every field in a normal adult.
_NORMAL: dict[str, tuple[float, float]] = {
    "lv_length": (83, 4.5),
    "lv_radius": (23.5, 1.7),
    "lv_belly": (0.60, 0.045),
    "annulus": (0.76, 0.045),
    "flat": (0.06, 0.05),
    "septum": (9.0, 1.0),
    "free_wall": (9.5, 1.0),
    "rv_width": (36, 2.6),
    "rv_apex": (0.16, 0.04),
    "rv_round": (0.74, 0.07),
    "rv_wall": (4.2, 0.4),
    "offset": (6.5, 1.2),
    "la_width": (38, 3.0),
    "la_length": (45, 4.0),
    "ra_width": (38.5, 3.0),
    "ra_length": (46, 4.0),
    "atrial_septum": (4.4, 0.35),
    "atrial_tilt": (-7, 4.0),
    "gap": (0, 0),
    "gap_at": (0.47, 0.05),
    "fossa": (4.5, 3.0),
    "band": (0.15, 0.22),
    "pericardium": (9, 2.0),
    "axis": (11, 3.0),
    "heart_x": (7, 3.0),
    "ef": (0.63, 0.045),
    "heart_rate": (69, 9),
    "shortening": (0.165, 0.018),
    "rv_squeeze": (0.72, 0.06),
    "early": (0.68, 0.06),
    "reservoir": (0.13, 0.03),
}

# What each class changes. Right-heart enlargement in ASD; a dilated right and a small left ventricle with a
# flattened septum in PAH.
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

_BODY_SD = 0.045
_BODY_FIELDS = frozenset(
    {"lv_length", "lv_radius", "rv_width", "offset", "la_width", "la_length", "ra_width", "ra_length", "gap"}
)


_FIELDS = fields(Anatomy)


def _table(class_id: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, standard deviation and "grows with the body" of every field of ``Anatomy``, each (N,)."""
    typical = _NORMAL | _CHANGES[class_id]
    mean, sd = np.array([typical[f.name] for f in _FIELDS], dtype=np.float64).T
    return mean, sd, np.array([f.name in _BODY_FIELDS for f in _FIELDS])


_TABLES = tuple(_table(class_id) for class_id in range(len(CLASSES)))


def sample_anatomy(class_id: int, rng: np.random.Generator) -> Anatomy:
    """Draw a patient of class ``class_id``: independent normal variation around the class, times one body size."""
    mean, sd, grows = _TABLES[class_id]
    z = np.clip(rng.standard_normal(len(mean) + 1), -CLIP, CLIP)
    values = mean + sd * z[1:]
    values[grows] *= 1 + _BODY_SD * z[0]
    drawn = dict(zip((f.name for f in _FIELDS), values.tolist(), strict=True))
    for name in ("rv_apex", "fossa", "band"):
        drawn[name] = max(drawn[name], 0.0)
    return Anatomy(**drawn)
