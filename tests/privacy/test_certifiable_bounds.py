"""Smallest alpha and beta for a number of patients: the rule passes at these values and fails just below."""

import numpy as np
import pytest

from echodream.privacy.certifiable_bounds import certifiable_bounds
from echodream.privacy.certification import PatientScores
from echodream.privacy.rules import Calibrated, Evidence


def names(count: int) -> list[str]:
    return [f"P{number:04}" for number in range(count)]


def passes(training: int, calibration: int, **settings: float) -> bool:
    """Whether the rule passes if all copies score high, for ``training`` copied and ``calibration`` new patients."""
    rng = np.random.default_rng(0)
    copies = {key: PatientScores(0.9 + rng.random(training) / 20, np.array(names(training))) for key in "ab"}
    new = PatientScores(rng.random(calibration) / 2, np.array([f"N{number}" for number in range(calibration)]))
    rule = Calibrated(**{"alpha_max": 0.999, **settings})  # type: ignore[arg-type]
    return rule.decide(Evidence(calibration=new, controls=copies)).passed


@pytest.mark.parametrize(("training", "calibration"), [(9, 2), (59, 19), (120, 26), (457, 101)])
@pytest.mark.parametrize("choose", [0.0, 0.5])
def test_the_rule_allows_the_bounds_and_nothing_below(training: int, calibration: int, choose: float) -> None:
    found = certifiable_bounds(Calibrated(choose=choose), names(training), calibration, 0.05)
    assert found.alpha == 1 / (calibration + 1)
    certifying = training - int(training * choose + 1e-9)
    assert found.certifying == certifying
    assert found.beta == pytest.approx(1 - 0.05 ** (1 / certifying), rel=1e-12)
    at = {"alpha": found.alpha, "beta": found.beta * (1 + 1e-9), "choose": choose}
    assert passes(training, calibration, **at)
    assert not passes(training, calibration, **{**at, "alpha": found.alpha * 0.999})
    assert not passes(training, calibration, **{**at, "beta": found.beta * 0.999})


@pytest.mark.parametrize("choose", [0.0, 0.3, 0.5])
@pytest.mark.parametrize(("training", "calibration"), [(0, 0), (1, 1), (57, 18), (59, 19), (200, 100)])
def test_the_further_patients_suffice_for_the_target_and_none_is_too_many(
    training: int, calibration: int, choose: float
) -> None:
    found = certifiable_bounds(Calibrated(choose=choose), names(training), calibration, 0.05)
    more, new = training + found.more_training, calibration + found.more_calibration
    assert passes(more, new, alpha=0.05, beta=0.05, choose=choose)
    if found.more_training:
        assert not passes(more - 1, new, alpha=0.05, beta=0.05, choose=choose)
    if found.more_calibration:
        assert not passes(more, new - 1, alpha=0.05, beta=0.05, choose=choose)


def test_two_networks_share_alpha() -> None:
    found = certifiable_bounds(Calibrated(), names(118), 19, 0.05, networks=2)
    assert found.alpha == 0.1
    assert found.more_calibration == 39 - 19
    assert (
        certifiable_bounds(Calibrated(), [], 0, 0.05).beta == certifiable_bounds(Calibrated(), [], 0, 0.05).alpha == 1
    )
