"""Canaries: audit of differential privacy with one training run (Steinke et al. 2023, arXiv 2305.08846)."""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from echodream import validation
from echodream.errors import UserError
from echodream.privacy.conformal import finite_scores

ALL = "all"
"""Value of ``canaries=`` that makes all training patients canaries."""
_COIN_FLIP_STREAM = 0xCA7A
"""Random stream of the coin flips, separate from other random numbers with the same seed."""
_BISECTIONS = 40
_MAX_EPSILON = 1000.0


@dataclass(frozen=True)
class Canaries:
    """Training patients, each of whom was put into the training set, or left out, by a fair coin flip."""

    patients: tuple[str, ...]
    """Patients in alphabetical order."""
    included: np.ndarray
    """Whether each patient is in the training set: bool, (m,)."""

    @property
    def left_out(self) -> frozenset[str]:
        """Patients who are not in the training set."""
        return frozenset(name for name, inside in zip(self.patients, self.included, strict=True) if not inside)

    @property
    def digest(self) -> str:
        """SHA-256 of all patients and coin flips, which identifies the assignment without patient names."""
        flips = zip(self.patients, self.included.tolist(), strict=True)
        return hashlib.sha256("".join(f"{name}\t{int(inside)}\n" for name, inside in flips).encode()).hexdigest()


def assign_canaries(patients: Iterable[str], count: int | str, seed: int) -> Canaries:
    """Choose ``count`` random ``patients`` ("all": all patients), and flip an independent coin for each, by ``seed``.

    Raises ``UserError`` if there are fewer than ``count`` patients, or if no patient is left for training.
    """
    names = sorted(set(patients))
    if count != ALL:
        validation.whole_number("canaries", count, 2, len(names), note=f", the training patients, or {ALL}")
    generator = np.random.default_rng([seed, _COIN_FLIP_STREAM])
    chosen = np.sort(generator.permutation(len(names))[: len(names) if count == ALL else int(count)])
    canaries = Canaries(tuple(names[index] for index in chosen), generator.random(len(chosen)) < 0.5)
    if len(canaries.left_out) == len(names):
        raise UserError(f"canaries={count} leaves no patient for training: choose another seed=, or more patients")
    return canaries


@dataclass(frozen=True)
class Guesses:
    """Guesses that canaries with the highest scores are in the training set, and canaries with the lowest are not."""

    guesses: int
    correct: int
    epsilon: float
    """Lower bound of epsilon from these guesses, Bonferroni-corrected over all numbers of guesses."""
    largest: float
    """The bound if all guesses were correct: the largest epsilon that this number of guesses can show."""


@dataclass(frozen=True)
class EpsilonBound:
    """Lower bound of epsilon, with ``confidence``, from m canaries: the largest of the bounds in ``by_guesses``."""

    epsilon: float
    confidence: float
    delta: float
    canaries: int
    by_guesses: tuple[Guesses, ...]


def epsilon_p_value(canary_count: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Largest probability of ``correct`` or more correct guesses under (``epsilon``, ``delta``)-DP.

    Corollary 5.4 of Steinke et al.: under (epsilon, 0)-DP, the number of correct guesses is stochastically at most W ~
    Binomial(guesses, e^epsilon / (1 + e^epsilon)). For m canaries, delta adds 2 m delta max_i P[correct > W >= correct
    - i] / i, i = 1 to ``correct``.
    """
    from scipy.special import bdtr

    if correct == 0:
        return 1.0
    rate, steps = 1 / (1 + math.exp(-epsilon)), np.arange(1, correct + 1)
    below = float(bdtr(correct - 1, guesses, rate))
    tail = float(bdtr(guesses - correct, guesses, 1 - rate))
    if delta > 0:
        until = np.append(bdtr(correct - 1 - steps[:-1], guesses, rate), 0.0)  # P[W < correct - i]
        tail += 2 * canary_count * delta * float(((below - until) / steps).max())
    return min(tail, 1.0)


@lru_cache(maxsize=4096)
def epsilon_lower_bound(canary_count: int, guesses: int, correct: int, delta: float, level: float) -> float:
    """Largest epsilon >= 0 for which ``correct`` correct guesses reject (epsilon, ``delta``)-DP at ``level``.

    The result is 0 if no epsilon is rejected. If ``delta`` is 0, the result is the logit of the exact lower bound of
    the rate of correct guesses.
    """
    low, high = 0.0, 1.0
    if epsilon_p_value(canary_count, guesses, correct, 0.0, delta) >= level:
        return 0.0
    while high < _MAX_EPSILON and epsilon_p_value(canary_count, guesses, correct, high, delta) < level:
        low, high = high, 2 * high
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        rejected = epsilon_p_value(canary_count, guesses, correct, middle, delta) < level
        low, high = (middle, high) if rejected else (low, middle)
    return low


def audit_canaries(
    scores: np.ndarray,
    included: np.ndarray,
    shares: Sequence[float],
    delta: float,
    level: float = 0.05,
    canaries: int | None = None,
) -> EpsilonBound:
    """Lower bound of epsilon from ``scores`` (n,), which are higher for canaries that were ``included``, bool (n,).

    The scores must not depend on ``included`` except through the trained model. Each of ``shares`` gives a bound: this
    fraction of the canaries is guessed, half of the fraction as included. The largest bound is the result. The bounds
    share ``level`` equally (Bonferroni), because the number of guesses may not be chosen by the success of the guesses.
    ``canaries``: number of coin flips, if some canaries have no score. Raises ``UserError`` for invalid scores or
    shares.
    """
    values = finite_scores(scores, "scores of canaries")
    for share in shares:
        validation.number("canary.guesses", share, above=0, maximum=1)
    flips = len(values) if canaries is None else canaries
    counts = sorted({max(1, round(share * len(values))) for share in shares})
    order = np.argsort(-values, kind="stable")
    bounds, corrected_level = [], level / len(counts)
    for count in counts:
        inside, outside = order[: (count + 1) // 2], order[len(order) - count // 2 :]
        correct = int(included[inside].sum()) + int((~included[outside]).sum())
        bound, largest = (epsilon_lower_bound(flips, count, hits, delta, corrected_level) for hits in (correct, count))
        bounds.append(Guesses(count, correct, bound, largest))
    return EpsilonBound(max(each.epsilon for each in bounds), 1 - level, delta, flips, tuple(bounds))
