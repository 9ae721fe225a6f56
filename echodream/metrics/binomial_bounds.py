"""Exact binomial (Clopper-Pearson) bounds, and the sample sizes that certify a bound."""

import math
from bisect import bisect_left
from functools import lru_cache


@lru_cache(maxsize=65536)
def clopper_pearson_upper(passes: int, trials: int, delta: float) -> float:
    """One-sided upper bound of a probability from ``passes`` in ``trials`` trials, at confidence 1 - ``delta``."""
    from scipy.special import betaincinv

    return 1.0 if passes >= trials else float(betaincinv(passes + 1, trials - passes, 1 - delta))


def clopper_pearson_lower(passes: int, trials: int, delta: float) -> float:
    """One-sided lower bound of a probability from ``passes`` in ``trials`` trials, at confidence 1 - ``delta``."""
    return 1 - clopper_pearson_upper(trials - passes, trials, delta)


@lru_cache(maxsize=4096)
def allowed_passes(trials: int, beta: float, delta: float) -> int:
    """Largest number of passes in ``trials`` trials with an upper bound of at most ``beta``; -1 if there is none."""
    return bisect_left(range(trials + 1), True, key=lambda n: clopper_pearson_upper(n, trials, delta) > beta) - 1


def controls_needed(beta: float, delta: float) -> int:
    """Smallest number of controls that certify ``beta`` at confidence 1 - ``delta`` if no control passes."""
    needed = max(1, math.ceil(math.log(delta) / math.log1p(-beta)) - 1)
    while clopper_pearson_upper(0, needed, delta) > beta:
        needed += 1
    return needed


def controls_needed_at_rate(rate: float, beta: float, delta: float) -> int | None:
    """Smallest number of controls that certify ``beta`` if a fraction ``rate`` passes; None if above 1,000,000."""
    trials = controls_needed(beta, delta)
    while trials <= 1_000_000:
        if clopper_pearson_upper(math.ceil(rate * trials - 1e-9), trials, delta) <= beta:
            return trials
        trials += max(1, trials // 100)
    return None


def calibration_patients_needed(alpha: float) -> int:
    """Smallest number of calibration patients with which a conformal p-value can be as small as ``alpha``."""
    return max(1, math.ceil(1 / alpha - 1e-9) - 1)


@lru_cache(maxsize=4096)
def passes_for_power(choosing: int, certifying: int, beta: float, delta: float, power: float) -> int:
    """Largest number k of passing controls in threshold selection with which certification succeeds at ``power``.

    ``choosing`` controls select the threshold, the (k + 1)-th lowest of their scores; ``certifying`` other controls
    certify ``beta``. The number of certifying controls that pass is beta-binomial, Beta(k + 1, choosing - k), for any
    distribution of scores. Returns -1 if k = 0 does not reach ``power``.
    """
    from scipy.stats import betabinom

    allowed = allowed_passes(certifying, beta, delta)
    if allowed < 0:
        return -1
    too_many = bisect_left(
        range(choosing), True, key=lambda k: not betabinom.cdf(allowed, certifying, k + 1, choosing - k) >= power
    )
    return too_many - 1


def passing_copies_bound(rejected: int, beta: float, delta: float) -> int:
    """Upper bound, at confidence 1 - ``delta``, of the number of passing copies if ``rejected`` samples are rejected.

    Copies pass independently, with probability at most ``beta``. The number of copies that pass before ``rejected`` + 1
    are rejected is at most negative binomial, NB(rejected + 1, 1 - beta). The bound is the quantile of this
    distribution.
    """
    from scipy.stats import nbinom

    return int(nbinom.ppf(1 - delta, rejected + 1, 1 - beta))
