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
    controls = max(1, math.ceil(math.log(delta) / math.log1p(-beta)) - 1)
    while clopper_pearson_upper(0, controls, delta) > beta:
        controls += 1
    return controls


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
def passes_for_power(selection: int, certification: int, beta: float, delta: float, power: float) -> int:
    """Largest number k of controls that may pass in threshold selection so that certification has ``power``.

    The threshold is the (k + 1)-th lowest score of ``selection`` controls; a separate set of ``certification`` controls
    certifies ``beta``. The number of certification controls that pass is beta-binomial, Beta(k + 1, selection - k), for
    any distribution of scores. Returns -1 if k = 0 does not reach ``power``.
    """
    from scipy.stats import betabinom

    allowed = allowed_passes(certification, beta, delta)
    if allowed < 0:
        return -1
    too_many = bisect_left(
        range(selection), True, key=lambda k: not betabinom.cdf(allowed, certification, k + 1, selection - k) >= power
    )
    return too_many - 1


def passing_copies_bound(rejections: int, beta: float, delta: float) -> int:
    """Upper bound, at confidence 1 - ``delta``, of the number of passing copies if ``rejections`` samples are rejected.

    Copies pass independently, with probability at most ``beta``. The number of copies that pass before ``rejections`` +
    1 copies are rejected is at most negative binomial, NB(rejections + 1, 1 - beta). The bound is the quantile of this
    distribution.
    """
    from scipy.stats import nbinom

    return int(nbinom.ppf(1 - delta, rejections + 1, 1 - beta))
