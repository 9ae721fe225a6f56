"""Canaries: the lower bound on epsilon compared with published values, closed forms and mechanisms of known epsilon."""

import hashlib
import math
from fractions import Fraction

import numpy as np
import pytest

from echodream.errors import UserError
from echodream.metrics.binomial_bounds import clopper_pearson_lower
from echodream.privacy.canaries import (
    assign_canaries,
    audit_canaries,
    epsilon_lower_bound,
    epsilon_p_value,
)

SHARES = (0.1, 0.25, 0.5, 1.0)


@pytest.mark.parametrize(
    ("flips", "guesses", "correct", "delta", "published"),
    [(1000, 100, 75, 1e-4, 0.673), (100_000, 1510, 1439, 1e-5, 2.675)],
)
def test_the_bound_equals_the_published_values(
    flips: int, guesses: int, correct: int, delta: float, published: float
) -> None:
    """Values of appendix D and figure 11 of arXiv 2305.08846; the second value is truncated in the paper."""
    assert epsilon_lower_bound(flips, guesses, correct, delta, 0.05) == pytest.approx(published, abs=1e-3)


def test_the_p_value_equals_the_sum_of_all_outcomes() -> None:
    """In exact fractions: e^epsilon = 3, so a guess is correct with probability 3/4."""

    def probability(successes: int) -> Fraction:
        return math.comb(20, successes) * Fraction(3, 4) ** successes * Fraction(1, 4) ** (20 - successes)

    for correct in (0, 1, 14, 18, 20):
        tail = sum((probability(k) for k in range(correct, 21)), Fraction(0))
        windows = [
            sum((probability(k) for k in range(correct - i, correct)), Fraction(0)) / i for i in range(1, correct + 1)
        ]
        for delta in (Fraction(0), Fraction(1, 1000)):
            exact = min(tail + 2 * 50 * delta * max(windows, default=Fraction(0)), Fraction(1))
            found = epsilon_p_value(50, 20, correct, math.log(3), float(delta))
            assert found == pytest.approx(float(exact), rel=1e-9), (correct, delta)


@pytest.mark.parametrize(("guesses", "correct"), [(100, 75), (100, 100), (40, 21), (40, 3)])
def test_without_delta_the_bound_is_the_logit_of_the_exact_binomial_bound(guesses: int, correct: int) -> None:
    rate = clopper_pearson_lower(correct, guesses, 0.05)
    expected = max(0.0, math.log(rate / (1 - rate)))
    assert epsilon_lower_bound(guesses, guesses, correct, 0.0, 0.05) == pytest.approx(expected, abs=1e-9)
    assert epsilon_lower_bound(guesses, guesses, correct, 1e-3, 0.05) <= expected


def randomized_response(rng: np.random.Generator, included: np.ndarray, epsilon: float) -> np.ndarray:
    """Scores by randomized response: a coin flip is wrong with probability 1 / (1 + e^epsilon); noise breaks ties."""
    wrong = rng.random(len(included)) < 1 / (1 + math.exp(epsilon))
    scores: np.ndarray = (included ^ wrong) + 0.5 * rng.random(len(included))
    return scores


@pytest.mark.parametrize("epsilon", [0.0, 1.0, 3.0])
def test_the_bound_is_below_the_epsilon_of_randomized_response(epsilon: float) -> None:
    rng = np.random.default_rng(0)
    bounds = []
    for _ in range(200):
        included = rng.random(120) < 0.5
        bounds.append(audit_canaries(randomized_response(rng, included, epsilon), included, SHARES, 0.0).epsilon)
    too_large = sum(bound > epsilon for bound in bounds)
    assert too_large <= 17  # 5 % of 200 studies, plus 2.3 standard errors
    assert np.median(bounds) >= 0.45 * epsilon


def test_the_bound_approaches_epsilon_with_many_canaries() -> None:
    rng = np.random.default_rng(1)
    included = rng.random(20_000) < 0.5
    bound = audit_canaries(randomized_response(rng, included, 2.0), included, SHARES, 0.0)
    assert 1.9 < bound.epsilon < 2.0
    assert [each.guesses for each in bound.by_guesses] == [2000, 5000, 10_000, 20_000]
    assert bound.epsilon == max(each.epsilon for each in bound.by_guesses)
    assert all(each.epsilon < each.largest for each in bound.by_guesses)


def test_delta_covers_a_mechanism_that_sometimes_fails() -> None:
    """An (epsilon, delta)-DP mechanism: with probability delta, a canary's coin flip is revealed with certainty."""
    rng, delta, epsilon = np.random.default_rng(2), 0.02, 0.5
    with_delta, without = [], []
    for _ in range(100):
        included = rng.random(1000) < 0.5
        scores = randomized_response(rng, included, epsilon)
        revealed = rng.random(1000) < delta
        scores[revealed] = np.where(included[revealed], 10, -10)
        with_delta.append(audit_canaries(scores, included, [0.012], delta, canaries=1000).epsilon)
        without.append(audit_canaries(scores, included, [0.012], 0.0, canaries=1000).epsilon)
    assert sum(bound > epsilon for bound in with_delta) <= 9
    assert sum(bound > epsilon for bound in without) > 80  # all guesses are correct, which pure DP (delta = 0) excludes


def test_the_number_of_guesses_is_not_chosen_by_their_success() -> None:
    """Random scores: with the correction for ten numbers of guesses, at most 5 % of studies report epsilon > 0."""
    rng, shares = np.random.default_rng(3), np.linspace(0.1, 1, 10).tolist()
    wrong = {"corrected": 0, "best of ten": 0}
    for _ in range(200):
        included = rng.random(60) < 0.5
        scores = rng.random(60)
        wrong["corrected"] += audit_canaries(scores, included, shares, 0.0).epsilon > 0
        wrong["best of ten"] += any(audit_canaries(scores, included, [share], 0.0).epsilon > 0 for share in shares)
    assert wrong["corrected"] <= 17
    assert wrong["best of ten"] > 17


def test_the_assignment_is_a_function_of_the_seed_and_its_digest_names_nobody() -> None:
    patients = [f"patient{number:03}" for number in range(120)]
    found = assign_canaries(reversed(patients), 100, 7)
    again = assign_canaries(patients, 100, 7)
    assert found.patients == again.patients == tuple(sorted(found.patients))
    assert (found.included == again.included).all()
    assert len(found.patients) == 100
    assert found.left_out == {name for name, inside in zip(found.patients, found.included, strict=True) if not inside}
    assert 30 < len(found.left_out) < 70
    lines = "".join(f"{name}\t{int(name not in found.left_out)}\n" for name in found.patients)
    assert found.digest == hashlib.sha256(lines.encode()).hexdigest()
    assert len({assign_canaries(patients, 100, seed).digest for seed in range(20)}) == 20
    assert assign_canaries(patients, "all", 7).patients == tuple(patients)


def test_the_coin_is_fair_and_has_no_memory() -> None:
    patients = [f"{number:03}" for number in range(200)]
    flips = np.stack([assign_canaries(patients, "all", seed).included for seed in range(100)]).astype(float)
    assert flips.mean() == pytest.approx(0.5, abs=0.0125)  # 3.5 standard errors
    centered = flips - 0.5
    for product in (centered[:, 1:] * centered[:, :-1], centered[1:] * centered[:-1]):
        assert 4 * product.mean() == pytest.approx(0, abs=0.025)


@pytest.mark.parametrize(
    ("count", "message"),
    [(1, "canaries is 1: give a whole number from 2 to 9"), (10, "from 2 to 9"), ("some", "or all"), (2.5, "or all")],
)
def test_impossible_numbers_of_canaries_are_refused(count: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        assign_canaries(map(str, range(9)), count, 0)  # type: ignore[arg-type]


def test_somebody_has_to_be_in_training() -> None:
    flips = {seed: np.random.default_rng([seed, 0xCA7A]) for seed in range(100)}
    nobody = next(seed for seed, rng in flips.items() if (rng.permutation(2), (rng.random(2) >= 0.5).all())[1])
    with pytest.raises(UserError, match="canaries=all leaves no patient for training: choose another seed="):
        assign_canaries("ab", "all", nobody)
