"""Decisions of the filter rules: thresholds, certificates, and all cases in which no sample may pass."""

import dataclasses
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from echodream.errors import UserError
from echodream.metrics.binomial_bounds import clopper_pearson_upper
from echodream.privacy import statements
from echodream.privacy.certification import WEAKEST, PatientScores, certify, lowest_patient_scores, split_patients
from echodream.privacy.conformal import conformal_threshold
from echodream.privacy.rules import Calibrated, Evidence, Percentile


def scores(values: np.ndarray, letter: str) -> PatientScores:
    return PatientScores(values, np.array([f"{letter}{number:03}" for number in range(len(values))]))


def calibration(count: int = 59) -> PatientScores:
    """Calibration scores 0, 1, 2, ...: with 59 scores and alpha .05, tau is just above the third highest score."""
    return scores(np.arange(count, dtype=float), "c")


def controls(count: int = 130, **values: float) -> dict[str, PatientScores]:
    """Copies by transform; all copies under a transform have the same score."""
    return {name: scores(np.full(count, value), "t") for name, value in (values or {"flip": 100.0}).items()}


def lowered(of: dict[str, PatientScores], transform: str, names: list[str], value: float) -> dict[str, PatientScores]:
    """The same controls, with score ``value`` for the copies of the patients ``names`` under ``transform``."""
    one = of[transform]
    changed = np.where(np.isin(one.patients, names), value, one.values)
    return {**of, transform: PatientScores(changed, one.patients)}


def test_alpha_decides_where_copies_are_far_above() -> None:
    decision = Calibrated().decide(Evidence(calibration(), controls(flip=100.0, gain=99.0)))
    assert decision.passed
    assert decision.decisive == "alpha"
    assert decision.tau == np.nextafter(56.0, np.inf)  # 2 of 59 scores are above tau: p = 3/60 = alpha is rejected
    assert decision.rejected(np.array([56.0, 56.0001, 1000.0])).tolist() == [False, True, True]
    assert decision.p_values(np.array([56.5, 56.0])) == pytest.approx([3 / 60, 4 / 60])
    assert decision.cost is not None
    assert (decision.cost.rejected, decision.cost.level) == (2, pytest.approx(0.05))
    assert decision.sizes == {"calibration_patients": 59, "choosing_patients": 65, "certifying_patients": 65}
    assert "at most 5 %, with confidence 95 %" in decision.statement
    assert "flip, gain" in decision.statement
    assert "not differential privacy" in decision.statement


def test_the_smaller_threshold_decides() -> None:
    """Many copies score below alpha's threshold: the choosing patients lower tau, nearly always enough to certify."""
    values = np.linspace(50, 60, 1200)
    at_once = 0
    for seed in range(40):
        decision = Calibrated(alpha_max=0.5, seed=seed).decide(Evidence(calibration(), {"flip": scores(values, "t")}))
        assert decision.passed
        assert decision.decisive in ("beta", "certified")
        assert decision.tau == decision.thresholds[decision.decisive] <= decision.thresholds["beta"] < 56
        assert decision.table[0].passes > 0
        assert decision.table[0].bound <= 0.05
        at_once += decision.decisive == "beta"
    assert 34 <= at_once < 40  # expected: 38 of 40 certified without lowering tau again
    decision = Calibrated(alpha_max=0.5, seed=1).decide(Evidence(calibration(), {"flip": scores(values, "t")}))
    assert "at most 50 %" in decision.statement  # the bound for novel samples is alpha_max
    higher = Calibrated(alpha_max=0.5).decide(Evidence(calibration(), {"flip": scores(values + 10, "t")}))
    assert higher.decisive == "alpha"


def test_tau_never_loosens_beyond_alpha_max() -> None:
    decision = Calibrated(alpha_max=0.1).decide(Evidence(calibration(), controls(flip=40.0)))
    assert decision.tau == decision.thresholds["alpha_max"] == conformal_threshold(calibration().values, 0.1)
    assert not decision.passed
    assert decision.rejected(np.array([-5.0, 0.0, 100.0])).all()
    assert "65 of 65 copies pass" in decision.statement
    assert "more patients will not help" in decision.statement
    assert "10 %" in decision.statement


def test_the_certifying_copies_lower_tau_as_far_as_they_need() -> None:
    """Two of 130 copies may pass, so the highest certified threshold is the third lowest score of the copies."""
    rule, of = Calibrated(choose=0.0), controls(flip=100.0, gain=100.0, crop=100.0)
    names = sorted(of["flip"].patients.tolist())
    two = lowered(lowered(of, "flip", names[:1], 51.0), "flip", names[1:2], 52.0)
    decision = rule.decide(Evidence(calibration(), two))
    assert (decision.decisive, decision.tau) == ("alpha", np.nextafter(56.0, np.inf))
    decision = rule.decide(Evidence(calibration(), lowered(two, "flip", names[2:3], 53.0)))
    assert (decision.decisive, decision.tau) == ("certified", 53.0)
    assert decision.passed
    assert "the highest at which these copies confirm this bound" in decision.statement
    assert "at most 20 %" in decision.statement
    _, flip, gain, weakest_ = decision.table
    # tau depends on these copies: the bound is beta, not an interval at tau
    assert (flip.passes, flip.bound, flip.joint_bound) == (2, 0.05, 0.05)
    assert (gain.passes, gain.bound) == (0, clopper_pearson_upper(0, 130, 0.05))
    # bound at the first tau, above beta; not guaranteed
    assert weakest_.bound == clopper_pearson_upper(3, 130, 0.05) > 0.05
    assert flip.lower == 0.0  # no copy passes at the threshold of alpha_max
    assert decision.between == (conformal_threshold(calibration().values, 0.2), np.nextafter(56.0, np.inf))
    third = rule.decide(Evidence(calibration(), lowered(of, "flip", names[:3], 47.0)))
    assert third.decisive == "alpha_max"
    assert not third.passed
    assert "3 of 130 copies pass" in third.statement


def test_the_choosing_half_does_not_certify() -> None:
    """Copies of choosing patients are all rejected, copies of certifying patients all pass: certification fails."""
    rule = Calibrated()
    of = controls()
    chooses, certifiers = split_patients(of, rule.choose, rule.seed)
    decision = rule.decide(Evidence(calibration(), lowered(of, "flip", sorted(certifiers), 3.0)))
    assert not decision.passed
    row = decision.table[0]
    assert (row.controls, row.passes, row.choosing, row.choosing_passes) == (65, 65, 65, 0)
    # reverse case: only copies of the choosing patients have a low similarity, so tau becomes lower and is certified
    of = controls(400)
    chooses, certifiers = split_patients(of, rule.choose, rule.seed)
    decision = rule.decide(Evidence(calibration(), lowered(of, "flip", sorted(chooses), 54.0)))
    assert decision.passed
    assert (decision.table[0].passes, decision.table[0].bound) == (0, clopper_pearson_upper(0, 200, 0.05))
    assert (decision.decisive, decision.tau) == ("beta", 54.0)


def test_too_few_choosing_patients_leave_tau_to_the_others() -> None:
    """65 choosing patients are too few to lower tau with enough power, so their low copy is only counted."""
    rule, of = Calibrated(), controls()
    chooses, _ = split_patients(of, rule.choose, rule.seed)
    decision = rule.decide(Evidence(calibration(), lowered(of, "flip", [min(chooses)], 50.0)))
    assert (decision.decisive, decision.passed) == ("alpha", True)
    assert (decision.table[0].passes, decision.table[0].choosing_passes) == (0, 1)


def test_the_certifying_half_only_lowers_tau() -> None:
    rule, generator = Calibrated(), np.random.default_rng(0)
    of = {"flip": scores(generator.normal(60, 2, 400), "t")}
    _, certifiers = split_patients(of, rule.choose, rule.seed)
    begins = rule.decide(Evidence(calibration(), lowered(of, "flip", sorted(certifiers), 1000.0))).tau
    assert 50 < begins < 56
    for value, decisive in ((56.0, "beta"), (1000.0, "beta"), (50.0, "certified"), (0.0, "alpha_max")):
        decision = rule.decide(Evidence(calibration(), lowered(of, "flip", sorted(certifiers), value)))
        assert decision.decisive == decisive
        assert decision.thresholds["beta"] == begins >= decision.tau


def test_every_declared_transform_must_be_certified() -> None:
    rule = Calibrated()
    of = controls(flip=100.0, gain=100.0, speckle=100.0)
    _, certifiers = split_patients(of, rule.choose, rule.seed)
    assert rule.decide(Evidence(calibration(), of)).passed
    decision = rule.decide(Evidence(calibration(), lowered(of, "gain", sorted(certifiers)[:1], 3.0)))
    assert not decision.passed
    assert "'gain'" in decision.statement
    assert [row.passes for row in decision.table] == [0, 1, 0, 1]
    assert max(row.bound for row in decision.table) == clopper_pearson_upper(1, 65, 0.05)


def test_joint_bounds_are_bonferronis_over_the_rows() -> None:
    decision = Calibrated().decide(Evidence(calibration(), controls(flip=100.0, gain=99.0)))
    assert [row.transform for row in decision.table] == ["flip", "gain", WEAKEST]
    for row in decision.table:
        assert row.bound == clopper_pearson_upper(0, 65, 0.05)
        assert row.joint_bound == clopper_pearson_upper(0, 65, 0.05 / 3)


def test_the_statement_says_of_how_many_patients_a_transform_has_copies() -> None:
    """130 patients are copied; only 90 of these patients have another recording."""
    of = controls(130) | {"other_recording": scores(np.full(90, 100.0), "t")}
    amounts = {"other_recording": "in the patient's other recordings"}
    decision = Calibrated(choose=0.0).decide(Evidence(calibration(), of, amounts=amounts, copied_patients=130))
    assert decision.passed
    told = "other_recording in the patient's other recordings for the 90 of 130 patients who have such copies"
    assert f"(flip, {told})" in decision.statement
    assert "by copies of 90 or more patients" in decision.statement
    whole = Calibrated(choose=0.0).decide(Evidence(calibration(), controls(130), copied_patients=130))
    assert "who have such copies" not in whole.statement


def test_without_a_fixed_level_there_is_no_bound_with_given_calibration_patients() -> None:
    """The threshold of Benjamini-Hochberg depends on the samples, so no bound for given patients is stated."""
    rule, samples = Calibrated(benjamini_hochberg=True, alpha=0.2), np.full(40, 200.0)
    decision = rule.decide(Evidence(scores(np.arange(99.0), "c"), controls(600, flip=1000.0), samples=samples))
    assert decision.passed
    assert "calibration patients, the probability" not in decision.statement


def test_the_worst_case_is_each_patients_weakest_copy() -> None:
    """Four of 200 copies pass under each transform, of six patients in total: each transform is certified alone,
    but the weakest copies of the patients are not.
    """
    rule = Calibrated(choose=0.0)
    of = controls(200, flip=100.0, gain=100.0)
    names = sorted(of["flip"].patients.tolist())
    of = lowered(lowered(of, "flip", names[:4], 3.0), "gain", names[2:6], 3.0)
    decision = rule.decide(Evidence(calibration(), of))
    assert decision.passed
    assert [row.passes for row in decision.table] == [4, 4, 6]
    strict = dataclasses.replace(rule, worst_case=True).decide(Evidence(calibration(), of))
    assert not strict.passed
    assert WEAKEST in strict.statement


def test_the_weakest_row_is_of_patients_with_every_transform() -> None:
    of = {
        "flip": scores(np.array([5.0, 1.0, 4.0]), "t"),
        "gain": PatientScores(np.array([2.0, 9.0]), np.array(["t002", "t000"])),
    }
    found = lowest_patient_scores(of)
    assert found is not None
    assert dict(zip(found.patients.tolist(), found.values.tolist(), strict=True)) == {"t000": 5.0, "t002": 2.0}
    assert lowest_patient_scores({"flip": scores(np.ones(2), "t"), "gain": scores(np.ones(2), "u")}) is None


def test_a_pass_is_a_score_below_tau() -> None:
    of = {"flip": scores(np.array([1.0, 2.0, 3.0]), "t")}
    everyone = frozenset(of["flip"].patients.tolist())
    assert certify(of, 2.0, 0.05, frozenset(), everyone)[0].passes == 1


def test_the_split_is_by_patient_seeded_and_even_in_every_transform() -> None:
    generator = np.random.default_rng(1)
    of = controls(101, flip=1.0, gain=1.0)
    some = of["flip"].patients[generator.permutation(101)[:40]]
    of["other recording"] = PatientScores(np.ones(40), some)
    chooses, certifiers = split_patients(of, 0.5, 3)
    assert not chooses & certifiers
    assert len(chooses | certifiers) == 101
    for one in of.values():
        assert abs(len(one.select(chooses)) - len(one.select(certifiers))) <= 1
    order = generator.permutation(101)
    shuffled = {name: of[name] for name in ("gain", "other recording")}
    shuffled["flip"] = PatientScores(of["flip"].values[order], of["flip"].patients[order])
    assert split_patients(shuffled, 0.5, 3) == (chooses, certifiers)
    assert split_patients(of, 0.5, 4) != (chooses, certifiers)
    assert split_patients(of, 0.0, 3) == (frozenset(), chooses | certifiers)


def test_shuffled_evidence_gives_the_same_decision() -> None:
    generator = np.random.default_rng(2)
    of = {name: scores(generator.normal(60, 6, 300).round(1), "t") for name in ("flip", "gain", "crop")}
    held = scores(generator.normal(40, 6, 80).round(1), "c")
    samples = generator.normal(50, 9, 70).round(1)
    rule = Calibrated(alpha_max=0.4)
    first = rule.decide(Evidence(held, of))
    assert first.passed
    for _ in range(5):
        mixed = {name: shuffle(of[name], generator) for name in generator.permutation(list(of))}
        again = rule.decide(Evidence(shuffle(held, generator), mixed))
        assert again == first
        order = generator.permutation(len(samples))
        assert again.rejected(samples[order]).tolist() == first.rejected(samples)[order].tolist()


def shuffle(one: PatientScores, generator: np.random.Generator) -> PatientScores:
    order = generator.permutation(len(one))
    return PatientScores(one.values[order], one.patients[order])


@pytest.mark.parametrize(
    ("rule", "held", "count", "words"),
    [
        (Calibrated(), 18, 130, "needs 19 calibration patients and there are 18; hold out 1 more .*rule.alpha=0.053"),
        (Calibrated(alpha=0.01), 59, 130, "needs 99 calibration patients and there are 59; hold out 40 more"),
        (Calibrated(), 59, 0, "without known copies.* 118 training patients"),
        (
            Calibrated(),
            59,
            60,
            "copies of 30 patients count, and rule.beta=0.05 .* needs 59 .*118 training .*rule.choose=0,",
        ),
        (Calibrated(), 59, 50, "25 patients count.*rule.beta=0.113"),
        (Calibrated(beta=0.01, choose=0.0), 59, 130, "130 patients count.*needs 299 .*of 299 training.*beta=0.023"),
    ],
)
def test_too_little_evidence_lets_nothing_pass_and_says_what_would_help(
    rule: Calibrated, held: int, count: int, words: str
) -> None:
    evidence = Evidence(calibration(held), controls(count) if count else {})
    decision = rule.decide(evidence)
    assert not decision.passed
    assert decision.rejected(np.array([-1e9, 0.0])).all()
    assert decision.statement.startswith("Nothing may pass: ")
    assert re.search(words, decision.statement), decision.statement
    json.dumps(decision.as_dict(), allow_nan=False)
    open_range = replace(decision, between=(0.4, np.inf))
    assert open_range.as_dict()["between"] == [0.4, None]
    json.dumps(open_range.as_dict(), allow_nan=False)


def test_no_calibration_at_all_lets_nothing_pass() -> None:
    decision = Calibrated().decide(Evidence(None, controls()))
    assert not decision.passed
    assert "needs 19 calibration patients and there are 0" in decision.statement


def test_what_is_advised_helps() -> None:
    """Each remedy of the message lets the rule pass: 118 patients, choose=0 with 60, or beta=.096 with 60 patients."""
    for rule, count in ((Calibrated(), 118), (Calibrated(choose=0.0), 60), (Calibrated(beta=0.096), 60)):
        assert rule.decide(Evidence(calibration(), controls(count))).passed
    assert not Calibrated().decide(Evidence(calibration(), controls(116))).passed


def test_a_share_of_passes_below_beta_asks_for_more_patients() -> None:
    rule = Calibrated(choose=0.0)
    of = controls(100)
    decision = rule.decide(Evidence(calibration(), lowered(of, "flip", sorted(of["flip"].patients.tolist())[:3], 3.0)))
    assert not decision.passed
    assert "3 of 100 copies pass" in decision.statement
    assert "training patients would be enough" in decision.statement


def test_benjamini_hochberg_bounds_discoveries() -> None:
    rule = Calibrated(benjamini_hochberg=True, alpha=0.2)
    held, of = scores(np.arange(99, dtype=float), "c"), controls(600, flip=1000.0)
    with pytest.raises(UserError, match="benjamini_hochberg"):
        rule.decide(Evidence(held, of))
    harmless = np.arange(0.5, 99, 1.4)
    few = rule.decide(Evidence(held, of, samples=np.append(harmless, 200.0)))
    many = rule.decide(Evidence(held, of, samples=np.append(harmless, [200.0] * 40)))
    assert few.tau == 1000.0  # no sample is rejected at level alpha, so tau is the score of the copies
    assert many.tau < 99
    assert "Of the samples rejected, at most 20 %" in many.statement
    assert many.rejected(np.array([200.0])).all()


def test_the_published_rule() -> None:
    generator = np.random.default_rng(3)
    maxima = generator.uniform(size=457)
    decision = Percentile().decide(Evidence(train_to_test=maxima))
    ordered = np.sort(maxima)
    place = 0.95 * 456
    truth = ordered[int(place)] + (place % 1) * (ordered[int(place) + 1] - ordered[int(place)])
    assert decision.tau == pytest.approx(truth)
    assert decision.passed
    assert decision.rejected(np.array([decision.tau, np.nextafter(decision.tau, 0)])).tolist() == [True, False]
    assert "No guarantee" in decision.statement
    assert Percentile().similarity == "pearson"
    assert decision.p_values(np.array([0.3])) is None
    assert (decision.cost, decision.table) == (None, ())


def test_the_published_rule_is_measured_on_the_same_evidence() -> None:
    of = controls(flip=100.0, gain=2.0)
    decision = Percentile().decide(Evidence(calibration(), of, train_to_test=np.arange(60.0)))
    assert [(row.transform, row.controls, row.passes) for row in decision.table] == [
        ("flip", 130, 0),
        ("gain", 130, 130),
        (WEAKEST, 130, 130),
    ]
    assert decision.cost is not None
    assert decision.cost.rejected == 2  # calibration scores 57 and 58 are above tau = 56.05


def test_broken_evidence_is_refused() -> None:
    with pytest.raises(UserError, match="two scores"):
        PatientScores(np.ones(2), np.array(["a", "a"]))
    with pytest.raises(UserError, match="2 scores and 1 patients"):
        PatientScores(np.ones(2), np.array(["a"]))
    with pytest.raises(UserError, match="NaN"):
        PatientScores(np.array([1.0, math.nan]), np.array(["a", "b"]))
    with pytest.raises(UserError, match="calibration and for the copies under 'flip'"):
        Evidence(scores(np.ones(3), "t"), controls())
    with pytest.raises(UserError, match="may not be called"):
        Evidence(calibration(), {WEAKEST: scores(np.ones(3), "t")})
    with pytest.raises(UserError, match="train-to-test"):
        Percentile().decide(Evidence(calibration()))
    with pytest.raises(UserError, match="scores of samples are NaN"):
        Calibrated().decide(Evidence(calibration(), controls())).rejected(np.array([1.0, math.nan]))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"alpha": 0.0}, "rule.alpha is 0.0"),
        ({"beta": 1.0}, "rule.beta is 1.0"),
        ({"alpha": 0.3}, "rule.alpha_max=0.2"),
        ({"choose": 1.0}, "rule.choose is 1.0"),
        ({"delta": -1.0}, "rule.delta"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Calibrated(**settings)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"rule\.percent"):
        Percentile(percent=100.0)


@pytest.mark.parametrize(
    ("networks", "outliers", "scope", "accepted"),
    [
        (1, False, "this identity network and copies", None),
        (2, False, "these 2 networks and copies", "each of 2 networks accepts it"),
        (
            2,
            True,
            "this identity network and this outlier test and copies",
            "the identity network and the outlier test",
        ),
        (3, True, "these 2 networks and this outlier test and copies", "if 2 networks and the outlier test accept it"),
    ],
)
def test_a_statement_names_all_that_can_reject_a_sample(
    networks: int, outliers: bool, scope: str, accepted: str | None
) -> None:
    transforms = {"exact": "", "flip": ""}
    share = 0.05 / networks if outliers else None
    text = statements.copy_guarantee(transforms, 60, 0.05, 0.05, False, False, 0, networks, share)
    assert scope in text
    assert ("A sample passes if" in text) == (accepted is not None)
    assert accepted is None or accepted in text
    assert ("; the outlier test rejects at most " in text) == outliers
    rejection = statements.rejection_guarantee(0.05, True, None, 0.05, outliers)
    assert (", and no more of an outlier, than new patients are" in rejection) == outliers
    few = statements.too_few_calibration_patients(0.05, 20, networks, outliers)
    assert ("and the outlier test, needs" in few) == outliers
