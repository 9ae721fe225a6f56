"""Guarantees of the filter rules, compared with simulations in which the true rates are known."""

import math
from functools import lru_cache

import numpy as np
import pytest
import torch
from scipy import stats

from echodream.filtering.scoring import QueryScores, combine_networks
from echodream.metrics.binomial_bounds import passing_copies_bound
from echodream.privacy.certification import PatientScores
from echodream.privacy.conformal import rank_scores
from echodream.privacy.decision import PassingCopies, passing_copies
from echodream.privacy.nearest_neighbors import nearest_patients
from echodream.privacy.rules import Calibrated, Evidence, Percentile


def interval(values: np.ndarray) -> tuple[float, float]:
    """Mean and three standard errors."""
    return float(values.mean()), float(3 * values.std(ddof=1) / np.sqrt(len(values)))


@lru_cache
def named(count: int, letter: str) -> np.ndarray:
    return np.array([f"{letter}{number:04}" for number in range(count)])


@pytest.mark.slow
def test_a_generator_that_copies_nobody_loses_alpha_and_not_what_the_published_rule_takes() -> None:
    """One distribution for 457 training and 101 test patients and 150 novel samples; 240 simulated studies."""
    train, test, held, samples, width, repeats = 457, 101, 59, 150, 8, 240
    generator = torch.Generator().manual_seed(0)
    lost: dict[str, list[float]] = {"percentile": [], "calibrated": []}
    copies = {"none": PatientScores(np.full(59, 2.0), named(59, "t"))}
    for _ in range(repeats):
        sets = [torch.randn(count, width, generator=generator) for count in (train, test, held, samples)]
        references, names = [(sets[0], named(train, "t").tolist())], named(held, "c")
        unseen, harmless = (nearest_patients(one, references, "pearson").score for one in sets[2:])
        maxima = nearest_patients(sets[0], [(sets[1], named(test, "u").tolist())], "pearson").score
        evidence = Evidence(PatientScores(unseen, names), copies, train_to_test=maxima)
        for rule in (Percentile(), Calibrated(choose=0.0)):
            lost[rule.name].append(float(rule.decide(evidence).rejected(harmless).mean()))
    published, margin = interval(np.array(lost["percentile"]))
    calibrated, error = interval(np.array(lost["calibrated"]))
    print(f"rejected: published {published:.3f} +- {margin:.3f}, calibrated {calibrated:.4f} +- {error:.4f}")
    assert calibrated - error <= 0.05 <= calibrated + error  # expected: exactly 3/60, as .05 * (59 + 1) is an integer
    assert error < 0.012
    assert published == pytest.approx(1 - 0.95 ** (train / test), abs=margin + 0.02)
    assert published - margin > 0.15


@pytest.mark.slow
@pytest.mark.parametrize(("held", "alpha"), [(59, 0.05), (25, 0.05), (40, 0.1)])
def test_the_share_lost_is_the_conformal_rank(held: int, alpha: float) -> None:
    """Rejected share: on average floor(alpha (n + 1)) / (n + 1); its bound holds in 1 - delta of 1,500 studies."""
    generator, rule = np.random.default_rng(held), Calibrated(alpha=alpha, choose=0.0)
    copies = {"any": PatientScores(np.full(59, 9.0), named(59, "t"))}
    lost, bounds = [], []
    for _ in range(1500):
        decision = rule.decide(Evidence(PatientScores(generator.normal(size=held), named(held, "c")), copies))
        lost.append(stats.norm.sf(decision.tau))
        assert decision.cost is not None
        bounds.append(decision.cost.bound)
    rank = int(np.floor(alpha * (held + 1) + 1e-9))
    mean, error = interval(np.array(lost))
    assert mean == pytest.approx(rank / (held + 1), abs=error)
    missed = (np.array(lost) > np.array(bounds)).mean()
    # the bound is exact if tau is an order statistic
    assert missed == pytest.approx(0.05, abs=3 * np.sqrt(0.05 * 0.95 / 1500))


def two_networks(generator: np.random.Generator, count: int, shared: float) -> np.ndarray:
    """Scores of ``count`` patients by two networks with correlation ``shared``: (2, count)."""
    own = generator.normal(size=(2, count))
    scores: np.ndarray = np.tanh(shared**0.5 * generator.normal(size=count) + (1 - shared) ** 0.5 * own)
    return scores


@pytest.mark.parametrize(("held", "shared"), [(52, 0.0), (79, 0.5), (52, 1.0)])
@pytest.mark.slow
def test_two_networks_together_reject_at_most_alpha_of_novel_samples(held: int, shared: float) -> None:
    """1,500 studies with 400 novel samples each; also checks the bound for given calibration patients and the level."""
    generator, rule, alpha = np.random.default_rng(held), Calibrated(alpha=0.05, choose=0.0), 0.05
    lost, missed = [], 0
    for _ in range(1500):
        calibration, novel = two_networks(generator, held, shared), two_networks(generator, 400, shared)
        ranks = [
            np.max([rank_scores(one, of, 1.0) for one, of in zip(part, calibration, strict=True)], axis=0)
            for part in (calibration, novel)
        ]
        copies = {"any": PatientScores(np.full(59, 1.0), named(59, "t"))}
        decision = rule.decide(Evidence(PatientScores(ranks[0], named(held, "c")), copies, networks=2))
        assert decision.passed
        rejected = decision.rejected(ranks[1])
        p = decision.p_values(ranks[1])
        assert p is not None
        assert (rejected == (p <= alpha)).all()
        each = np.sort(calibration)[:, -int(alpha / 2 * (held + 1))]
        assert (rejected == (novel > each[:, None]).any(axis=0)).all()  # each network has its own threshold
        lost.append(rejected.mean())
        assert decision.cost is not None
        assert decision.cost.level == pytest.approx(2 * int(alpha / 2 * (held + 1)) / (held + 1))
        # union bound: at least the probability that either network rejects
        missed += stats.norm.sf(np.arctanh(each)).sum() > decision.cost.bound
    mean, error = interval(np.array(lost))
    print(f"{held} patients, correlation {shared}: {mean:.4f} +- {error:.4f}")
    assert mean - error <= alpha
    assert missed <= 0.05 * 1500
    exact = 2 * int(alpha / 2 * (held + 1)) / (held + 1)
    assert mean == pytest.approx(exact / 2 if shared == 1 else exact, rel=0.1) or shared == 0.5


@pytest.mark.slow
def test_two_networks_lower_their_thresholds_together_and_still_certify_what_holds() -> None:
    """1,000 studies; each network recognizes different copies. The true passing rate comes from 20,000 copies."""
    generator, rule = np.random.default_rng(0), Calibrated(choose=0.0, alpha_max=0.6)
    held, patients, studies, wrong, down, passed = 60, 200, 1000, 0, 0, 0
    truth = np.tanh(generator.normal(size=(2, 20_000)) + np.array([[2.4], [1.6]]))
    for _ in range(studies):
        calibration = np.tanh(generator.normal(size=(2, held)))
        copies = np.tanh(generator.normal(size=(2, patients)) + np.array([[2.4], [1.6]]))
        new, known, all_ = (
            np.max([rank_scores(one, of, 1.0) for one, of in zip(part, calibration, strict=True)], axis=0)
            for part in (calibration, copies, truth)
        )
        evidence = Evidence(
            PatientScores(new, named(held, "c")), {"any": PatientScores(known, named(patients, "t"))}, networks=2
        )
        decision = rule.decide(evidence)
        if decision.passed:
            passed += 1
            down += decision.decisive == "certified"
            wrong += (all_ < decision.tau).mean() > rule.beta
    assert passed > 0.5 * studies
    assert down > 0.3 * studies
    assert wrong <= 0.05 * studies + 3 * np.sqrt(0.05 * 0.95 * studies)


@pytest.mark.parametrize(("held", "alpha"), [(26, 0.05), (59, 0.05), (99, 0.1)])
def test_the_price_with_given_calibration_patients_is_the_quantile_of_a_beta_distribution(
    held: int, alpha: float
) -> None:
    """With tau at the r-th highest of n scores, the probability of rejection is Beta(r, n + 1 - r) (Vovk 2012)."""
    copies = {"any": PatientScores(np.full(59, 9.0), named(59, "t"))}
    values = np.random.default_rng(0).normal(size=held)
    decision = Calibrated(alpha=alpha, choose=0.0).decide(Evidence(PatientScores(values, named(held, "c")), copies))
    rank = int(np.floor(alpha * (held + 1)))
    assert decision.cost is not None
    truth = float(stats.beta.ppf(0.95, rank, held + 1 - rank))
    assert decision.cost.bound == pytest.approx(truth)
    assert f"at most {100 * alpha:g} %, on average over the choice of calibration patients." in decision.statement
    told = f"With these {held} calibration patients, the probability is at most {100 * truth:.3g} %, with confidence"
    assert told in decision.statement
    assert held != 26 or "at most 10.9 %, with confidence 95 %" in decision.statement


@pytest.mark.parametrize("mean", [2.6, 2.2])
@pytest.mark.slow
def test_the_price_with_given_calibration_patients_holds_where_copies_lower_tau(mean: float) -> None:
    """1,000 studies: alpha determines tau in some studies, the scores of the copies determine tau in most."""
    study, rule, studies = Study({"flip": mean}, 200, seed=3), Calibrated(choose=0.0, alpha_max=0.6), 1000
    wrong, down, passed = 0, 0, 0
    for _ in range(studies):
        decision = rule.decide(study.evidence(held=40))
        if decision.passed:
            assert decision.cost is not None
            passed += 1
            down += decision.decisive == "certified"
            wrong += stats.norm.sf(decision.tau) > decision.cost.bound
    assert passed > 0.9 * studies
    assert down > 0.5 * studies
    assert 0 < wrong <= 0.05 * studies + 3 * np.sqrt(0.05 * 0.95 * studies)


@pytest.mark.parametrize("copies", [0, 3, 40, 400])
@pytest.mark.parametrize("harmless", [0, 5])
def test_the_bound_of_the_copies_in_a_set_holds_for_any_number_of_copies(copies: int, harmless: int) -> None:
    """20,000 sets of 500 samples: copies pass with probability beta; ``harmless`` novel samples are also rejected."""
    beta, delta, sets = 0.05, 0.05, 20_000
    passing = np.random.default_rng(copies).binomial(copies, beta, sets)
    counts, numbers = np.unique(passing, return_counts=True)
    bounds = [passing_copies(500, copies - int(k) + harmless, beta, delta) for k in counts]
    missed = sum(int(n) for k, n, one in zip(counts, numbers, bounds, strict=True) if k > one.bound) / sets
    assert missed <= delta + 3 * np.sqrt(delta * (1 - delta) / sets)
    assert harmless or copies < 40 or missed > 0.01  # the bound is tight: more than 1 % of sets exceed the bound
    expected = sum(int(n) * one.expected for n, one in zip(numbers, bounds, strict=True)) / sets
    assert passing.mean() <= expected
    assert harmless or expected == pytest.approx(passing.mean() + beta / (1 - beta), rel=0.05)


def test_the_bound_of_the_copies_in_a_set_is_negative_binomial_and_within_the_set() -> None:
    for rejected, beta in ((0, 0.05), (3, 0.05), (61, 0.3)):
        found = passing_copies_bound(rejected, beta, 0.05)
        chance = [math.comb(rejected + k, k) * beta**k * (1 - beta) ** (rejected + 1) for k in range(found + 1)]
        assert sum(chance[:-1]) < 0.95 <= sum(chance)
    assert passing_copies(3, 61, 0.3, 0.05) == PassingCopies(3, 61, 3.0, 3)
    # if no copy is rejected, one passes with probability beta = 5 %
    assert passing_copies(101, 0, 0.05, 0.05).bound == 0


class Study:
    """Normal scores: new patients (0, 1), copies under each transform (mean, 1), correlated within a patient."""

    def __init__(self, means: dict[str, float], controls: int, seed: int) -> None:
        self.means, self.controls, self.generator = means, controls, np.random.default_rng(seed)

    def evidence(self, held: int = 99) -> Evidence:
        patient = self.generator.normal(size=self.controls)
        names = named(self.controls, "t")
        copies = {
            name: PatientScores(mean + 0.6 * patient + 0.8 * self.generator.normal(size=self.controls), names)
            for name, mean in self.means.items()
        }
        return Evidence(PatientScores(self.generator.normal(size=held), named(held, "c")), copies)

    def rate(self, transform: str, tau: float) -> float:
        """True probability that a copy under ``transform`` passes at threshold ``tau``."""
        return float(stats.norm.cdf(tau - self.means[transform]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("means", "controls", "choose"),
    [
        ({"flip": 3.3}, 200, 0.0),  # at alpha's threshold, a copy passes with probability close to beta
        ({"flip": 3.35, "gain": 3.35, "crop": 3.4}, 200, 0.5),
        ({"flip": 2.7, "gain": 3.3}, 500, 0.5),  # alpha's threshold lets too many copies pass, so tau must be lower
        ({"flip": 2.4}, 160, 0.5),  # even at alpha_max's threshold, a copy passes with probability close to beta
        ({"flip": 2.8, "gain": 2.8, "crop": 2.8}, 150, 0.0),  # choose=0: the certifying patients lower tau
    ],
)
def test_a_certified_beta_holds_in_at_least_1_minus_delta_of_studies(
    means: dict[str, float], controls: int, choose: float
) -> None:
    """1,000 studies per case. Wrong: certified although the true rate of some transform is above beta.
    Bounds below the true rate are also counted, for each transform and for all transforms jointly.
    """
    study, rule, studies, delta = Study(means, controls, seed=controls), Calibrated(choose=choose), 1000, 0.05
    wrong, passed, at_once, down = 0, 0, 0, 0
    outside = dict.fromkeys(means, 0.0)
    for _ in range(studies):
        decision = rule.decide(study.evidence())
        rates = {name: study.rate(name, decision.tau) for name in means}
        rows = {row.transform: row for row in decision.table}
        passed += decision.passed
        down += decision.decisive == "certified"
        wrong += decision.passed and max(rates.values()) > rule.beta
        at_once += decision.passed and any(rates[name] > rows[name].joint_bound for name in means)
        for name, rate in rates.items():
            outside[name] += decision.passed and rate > rows[name].bound
            assert not decision.passed or rows[name].bound <= rule.beta
    slack = 3 * np.sqrt(delta * (1 - delta) * studies)
    print(
        f"{means} {controls}: certified {passed}, lowered {down}, wrongly {wrong}, outside {outside}, at once {at_once}"
    )
    assert passed > 0
    assert wrong <= delta * studies + slack
    assert at_once <= delta * studies + slack
    for name in means:
        assert outside[name] <= delta * studies + slack


def test_lowering_tau_to_what_is_certified_is_wrong_as_often_as_the_binomial_says() -> None:
    """1,000 studies of 120 copied patients: many copies pass at the first tau, and one pass is allowed.

    The final tau is the second lowest score of 120 copies, so the true passing rate at tau is Beta(2, 119). The rate is
    above beta with the probability that Binomial(120, beta) is 0 or 1: 1.6 %.
    """
    study, rule, studies = Study({"flip": 0.5}, 120, seed=11), Calibrated(choose=0.0, alpha_max=0.99), 1000
    wrong, passed = 0, 0
    for _ in range(studies):
        decision = rule.decide(study.evidence())
        assert decision.decisive in ("certified", "alpha_max")
        passed += decision.passed
        wrong += decision.passed and study.rate("flip", decision.tau) > rule.beta
    truth = float(stats.binom.cdf(1, 120, rule.beta))
    assert passed > 0.3 * studies
    assert 0 < wrong <= truth * studies + 3 * np.sqrt(truth * studies)


def test_most_studies_are_certified_where_few_were_at_the_threshold_of_alpha() -> None:
    """120 patients, three transforms: at alpha's threshold, 1 % of the copies under each transform pass."""
    study, studies = Study({"flip": 3.95, "gain": 3.95, "crop": 3.95}, 120, seed=13), 150
    for choose, least in ((0.0, 0.95), (0.5, 0.7)):
        decisions = [Calibrated(choose=choose).decide(study.evidence()) for _ in range(studies)]
        assert sum(decision.passed for decision in decisions) > least * studies
        assert sum(decision.decisive == "alpha" for decision in decisions) < 0.6 * studies


@pytest.mark.slow
def test_a_rate_just_above_beta_is_certified_as_rarely_as_can_be_computed() -> None:
    """1,000 studies. With 999 calibration patients tau hardly varies, and the true rate is about .052."""
    study, rule, studies = Study({"flip": 3.27}, 181, seed=5), Calibrated(choose=0.0, alpha_max=0.05), 1000
    allowed = max(k for k in range(20) if stats.binom.cdf(k, 181, rule.beta) <= rule.delta)
    wrong, expected = 0, 0.0
    for _ in range(studies):
        decision = rule.decide(study.evidence(held=999))
        rate = study.rate("flip", decision.tau)
        wrong += decision.passed and rate > rule.beta
        expected += float(stats.binom.cdf(allowed, 181, rate)) if rate > rule.beta else 0.0
    assert 10 < expected <= rule.delta * studies
    assert wrong == pytest.approx(expected, abs=3 * np.sqrt(expected))


@pytest.mark.slow
def test_what_alpha_max_promises_of_harmless_samples_holds_where_tau_goes_down() -> None:
    study, rule, lost = Study({"flip": 2.7}, 500, seed=7), Calibrated(alpha_max=0.2), []
    for _ in range(600):
        decision = study.evidence()
        found = rule.decide(decision)
        lost.append(float(stats.norm.sf(found.tau)) if found.passed else 0.0)
    mean, error = interval(np.array(lost))
    assert mean <= 0.2 + error
    assert mean > 0.06  # above alpha = .05, so tau was lowered in some studies


@pytest.mark.slow
def test_the_outlier_test_keeps_its_threshold_when_copies_lower_that_of_the_identity_network() -> None:
    """1,000 studies: both guarantees hold, and lowering tau does not change what the outlier test rejects."""
    generator, rule = np.random.default_rng(1), Calibrated(choose=0.0, alpha_max=0.6)
    held, patients, studies, wrong, down, passed, missed = 60, 200, 1000, 0, 0, 0, 0
    shift = np.array([[2.4], [1.0]])
    truth, lost, levels = np.tanh(generator.normal(size=(2, 20_000)) + shift), list[float](), list[float]()
    for _ in range(studies):
        calibration, novel = np.tanh(generator.normal(size=(2, held))), np.tanh(generator.normal(size=(2, 400)))
        copies = np.tanh(generator.normal(size=(2, patients)) + shift)
        ranks, combined = [], []
        for part in (calibration, copies, truth, novel):
            parts = [QueryScores(one, *(np.zeros(len(one)),) * 3, 9, 9) for one in np.hstack([calibration, part])]
            scores, each = combine_networks(parts, slice(0, held), [1.0, 1.0], rule.outlier_level(2))
            ranks.append(each[:, held:])
            combined.append(scores.score[held:])
        new, known, all_, harmless = combined
        copied = {"any": PatientScores(known, named(patients, "t"))}
        decision = rule.decide(Evidence(PatientScores(new, named(held, "c")), copied, networks=2, outliers=True))
        outlier_tau = np.sort(calibration[1])[-int(0.025 * (held + 1))]
        outliers = novel[1] > outlier_tau
        assert ((ranks[3][1] > 0) == outliers).all()
        if decision.passed:
            assert decision.cost is not None
            identity = ranks[3][0] >= decision.tau
            assert (decision.rejected(harmless) == (identity | outliers)).all()
            passed += 1
            down += decision.decisive == "certified"
            wrong += (all_ < decision.tau).mean() > rule.beta
            lost.append((identity | outliers).mean())
            levels.append(decision.cost.level)
            grid = np.arange(1, held + 1) / (held + 1)
            ends = np.array([np.interp(decision.tau, grid, np.sort(calibration[0])), outlier_tau])
            missed += stats.norm.sf(np.arctanh(ends)).sum() > decision.cost.bound
    assert passed > 0.5 * studies
    assert down > 0.3 * studies
    assert wrong <= 0.05 * studies + 3 * np.sqrt(0.05 * 0.95 * studies)
    mean, error = interval(np.array(lost) - np.array(levels))
    assert mean - error <= 0
    assert missed <= 0.05 * studies
