"""Exact binomial bounds, and how many patients they need."""

import math
from collections.abc import Callable
from functools import lru_cache


@lru_cache(maxsize=65536)
def clopper_pearson_upper(passes: int, trials: int, delta: float) -> float:
    """Upper bound of a probability after ``passes`` in ``trials``, with confidence 1 - ``delta`` (one-sided, exact)."""
    from scipy.special import betaincinv

    return 1.0 if passes >= trials else float(betaincinv(passes + 1, trials - passes, 1 - delta))


def clopper_pearson_lower(passes: int, trials: int, delta: float) -> float:
    """Lower bound of a probability after ``passes`` in ``trials``, with confidence 1 - ``delta`` (one-sided, exact)."""
    return 1 - clopper_pearson_upper(trials - passes, trials, delta)


@lru_cache(maxsize=4096)
def allowed_passes(trials: int, beta: float, delta: float) -> int:
    """The most passes in ``trials`` whose upper bound is still at most ``beta``; -1 where even none is too many."""
    return _last(lambda passes: clopper_pearson_upper(passes, trials, delta) <= beta, trials)


def controls_needed(beta: float, delta: float) -> int:
    """The fewest controls that certify ``beta`` with confidence 1 - ``delta`` when none passes."""
    needed = max(1, math.ceil(math.log(delta) / math.log1p(-beta)) - 1)
    while clopper_pearson_upper(0, needed, delta) > beta:
        needed += 1
    return needed


def controls_needed_at(rate: float, beta: float, delta: float, most: int = 1_000_000) -> int | None:
    """The fewest controls that certify ``beta`` when a share ``rate`` of them passes; None if ``most`` do not."""
    trials = controls_needed(beta, delta)
    while trials <= most:
        if clopper_pearson_upper(math.ceil(rate * trials - 1e-9), trials, delta) <= beta:
            return trials
        trials += max(1, trials // 100)
    return None


def calibration_needed(alpha: float) -> int:
    """The fewest calibration patients with which a conformal p-value can be as small as ``alpha``."""
    return max(1, math.ceil(1 / alpha - 1e-9) - 1)


@lru_cache(maxsize=4096)
def chosen_passes(choosing: int, certifying: int, beta: float, delta: float, power: float) -> int:
    """How many of ``choosing`` controls a threshold may let pass, so that the others certify it with chance ``power``.

    A threshold at the (k + 1)-th lowest of ``choosing`` scores lets a beta-binomial number of ``certifying`` others
    pass (Beta(k + 1, choosing - k)), whatever the distribution of scores. -1 where even k = 0 does not reach ``power``.
    """
    from scipy.stats import betabinom

    allowed = allowed_passes(certifying, beta, delta)
    if allowed < 0:
        return -1
    return _last(lambda k: betabinom.cdf(allowed, certifying, k + 1, choosing - k) >= power, choosing - 1)


def _last(holds: Callable[[int], bool], most: int) -> int:
    """The largest number up to ``most`` for which ``holds``, which is true up to some number; -1 if for none."""
    low, high = -1, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low
