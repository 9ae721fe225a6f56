"""Exact binomial (Clopper-Pearson) bounds, and the numbers of patients that they need."""

import math
from collections.abc import Callable
from functools import lru_cache


@lru_cache(maxsize=65536)
def clopper_pearson_upper(passes: int, trials: int, delta: float) -> float:
    """One-sided upper bound of a probability after ``passes`` in ``trials``, with confidence 1 - ``delta``."""
    from scipy.special import betaincinv

    return 1.0 if passes >= trials else float(betaincinv(passes + 1, trials - passes, 1 - delta))


def clopper_pearson_lower(passes: int, trials: int, delta: float) -> float:
    """One-sided lower bound of a probability after ``passes`` in ``trials``, with confidence 1 - ``delta``."""
    return 1 - clopper_pearson_upper(trials - passes, trials, delta)


@lru_cache(maxsize=4096)
def allowed_passes(trials: int, beta: float, delta: float) -> int:
    """The most passes in ``trials`` whose upper bound is at most ``beta``; -1 if the bound of 0 passes is higher."""
    return _largest_true(lambda passes: clopper_pearson_upper(passes, trials, delta) <= beta, trials)


def controls_needed(beta: float, delta: float) -> int:
    """The fewest controls that certify ``beta`` with confidence 1 - ``delta`` if none passes."""
    needed = max(1, math.ceil(math.log(delta) / math.log1p(-beta)) - 1)
    while clopper_pearson_upper(0, needed, delta) > beta:
        needed += 1
    return needed


def controls_needed_at_rate(rate: float, beta: float, delta: float, most: int = 1_000_000) -> int | None:
    """The fewest controls that certify ``beta`` if a fraction ``rate`` of them passes; None if ``most`` are too few."""
    trials = controls_needed(beta, delta)
    while trials <= most:
        if clopper_pearson_upper(math.ceil(rate * trials - 1e-9), trials, delta) <= beta:
            return trials
        trials += max(1, trials // 100)
    return None


def calibration_patients_needed(alpha: float) -> int:
    """The fewest calibration patients with which a conformal p-value can be as small as ``alpha``."""
    return max(1, math.ceil(1 / alpha - 1e-9) - 1)


@lru_cache(maxsize=4096)
def passes_to_aim_for(choosing: int, certifying: int, beta: float, delta: float, power: float) -> int:
    """The most of ``choosing`` controls that a threshold may let pass, so that the others certify it with ``power``.

    A threshold at the (k + 1)-th lowest of ``choosing`` scores lets a beta-binomial number of ``certifying`` controls
    pass (Beta(k + 1, choosing - k)), for any distribution of scores. -1 if k = 0 does not reach ``power``.
    """
    from scipy.stats import betabinom

    allowed = allowed_passes(certifying, beta, delta)
    if allowed < 0:
        return -1
    return _largest_true(lambda k: betabinom.cdf(allowed, certifying, k + 1, choosing - k) >= power, choosing - 1)


def _largest_true(holds: Callable[[int], bool], most: int) -> int:
    """The largest number from 0 to ``most`` for which ``holds``, true up to some number, is true; -1 if for none."""
    low, high = -1, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low
