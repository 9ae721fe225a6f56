"""Smallest bounds alpha and beta that the privacy filter can certify with a given number of patients."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from echodream.metrics.binomial_bounds import calibration_patients_needed, clopper_pearson_upper, controls_needed
from echodream.privacy.certification import PatientScores, split_patients
from echodream.privacy.conformal import p_values
from echodream.privacy.rules import Calibrated


@dataclass(frozen=True)
class CertifiableBounds:
    """The smallest ``alpha`` and ``beta`` that the filter can certify, if no copy passes. Other fields count patients.

    ``certifying``: training patients whose copies certify ``beta``. ``more_calibration``, ``more_training``: patients
    to add to reach the target alpha and beta.
    """

    training: int
    certifying: int
    calibration: int
    alpha: float
    beta: float
    more_calibration: int
    more_training: int


def certifiable_bounds(
    rule: Calibrated, training: Sequence[str], calibration: int, target: float, networks: int = 1
) -> CertifiableBounds:
    """Bounds that ``rule`` can certify with the patients ``training``, by name, and ``calibration`` new patients.

    ``target``: value of alpha and beta for which the patients to add are counted. ``networks``: number of networks of
    the filter.
    """
    certifying = _count_certifying_patients(rule, training)
    new = np.zeros(calibration)
    needed, names = controls_needed(target, rule.delta), list(training)
    while (missing := needed - _count_certifying_patients(rule, names)) > 0:
        names += [f"further patient {number}" for number in range(len(names), len(names) + missing)]
    return CertifiableBounds(
        training=len(training),
        certifying=certifying,
        calibration=calibration,
        alpha=min(1.0, networks * float(p_values(np.array([np.inf]), new)[0])),
        beta=clopper_pearson_upper(0, certifying, rule.delta) if certifying else 1.0,
        more_calibration=max(0, calibration_patients_needed(target / networks) - calibration),
        more_training=len(names) - len(training),
    )


def _count_certifying_patients(rule: Calibrated, training: Sequence[str]) -> int:
    """Number of patients whose copies certify beta, if each of ``training`` is copied under every transform."""
    if not training:
        return 0
    scores = PatientScores(np.zeros(len(training)), np.array(training))
    return len(split_patients({"copies": scores}, rule.choose, rule.seed)[1])
