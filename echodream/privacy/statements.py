"""What a decision says to its reader: the guarantee, or why there is none and what would help."""

import math
from collections.abc import Mapping

from echodream.metrics.binomial_bounds import calibration_needed, controls_needed, controls_needed_at
from echodream.privacy.certification import Certificate
from echodream.privacy.decision import SCOPE


def percent(value: float) -> str:
    """A probability as a percentage with up to three digits: 0.05 is ``5 %``."""
    return f"{100 * value:.3g} %"


def guarantee(
    transforms: Mapping[str, str],
    certifiers: int,
    beta: float,
    delta: float,
    worst_case: bool,
    lowered: bool,
    choose: float,
) -> str:
    """What is certified about copies under ``transforms``, by name what each does.

    ``lowered``: the certifying copies made the threshold lower than it would have been.
    """
    names = [f"{name} {amount}".strip() for name, amount in transforms.items()]
    several = len(names) > 1
    under = f"any one of the declared transforms ({', '.join(names)})" if several else f"{names[0]!r}"
    held = " This holds for all of these transforms at once." if several else ""
    chosen = " It holds also for whichever transform hides each patient best." if worst_case and several else ""
    of = "patients who did not choose where the threshold begins" if choose else "patients"
    how = " The threshold is the highest at which these copies certify this." if lowered else ""
    return (
        f"A copy of a random training patient under {under} passes with probability at most {percent(beta)}, with "
        f"confidence {percent(1 - delta)}, by copies of {certifiers} or more {of}.{how}{held}{chosen} {SCOPE}"
    )


def price(level: float, discoveries: bool) -> str:
    """What is certified about harmless samples."""
    if discoveries:
        return f"Of the samples rejected, at most {percent(level)} are expected to be no closer than new patients are."
    return (
        "A sample that is no closer to the training patients than a new patient is, is rejected with probability at "
        f"most {percent(level)}, on average over the choice of calibration patients."
    )


def percentile(share: float) -> str:
    """The published rule guarantees nothing."""
    return (
        f"No guarantee: the threshold is the {share:g}th percentile of the training images' highest similarity to a "
        "test image, which bounds neither the copies that pass nor the harmless samples that are rejected."
    )


def few_calibration(alpha: float, patients: int) -> str:
    """Too few patients for a conformal p-value as small as alpha."""
    needed = calibration_needed(alpha)
    reach = f", or allow rule.alpha={_up(1 / (patients + 1)):g}" if patients else ""
    return (
        f"Nothing may pass: rule.alpha={alpha:g} needs {needed} calibration patients and there are {patients}; hold "
        f"out {needed - patients} more whom neither the generator nor the identity network sees{reach}."
    )


def no_controls(beta: float, delta: float, choose: float) -> str:
    """Without copies, nothing can be said of them."""
    return (
        "Nothing may pass: there are no known copies to test with, so nothing can be said of unknown ones; make copies "
        f"of {_total(controls_needed(beta, delta), choose)} training patients under each transform."
    )


def no_weakest() -> str:
    """The worst case is over patients with all transforms."""
    return (
        "Nothing may pass: rule.worst_case=true needs patients who have a copy under every transform and there is "
        "none; drop the transform that needs several recordings, or set it to false."
    )


def few_controls(transform: str, certifiers: int, all_: int, beta: float, delta: float, choose: float) -> str:
    """Too few copies to certify beta even when none passes."""
    needed = controls_needed(beta, delta)
    ways = [f"make copies of {_total(needed, choose)} training patients"]
    if all_ >= needed:
        ways.append("set rule.choose=0, so that all of them certify")
    if certifiers:
        ways.append(f"allow rule.beta={_up(1 - delta ** (1 / certifiers)):g}")
    return (
        f"Nothing may pass: under {transform!r}, {certifiers} patients certify, and rule.beta={beta:g} with confidence "
        f"{percent(1 - delta)} needs {needed} even if no copy passes; {', or '.join(ways)}."
    )


def not_reached(row: Certificate, beta: float, delta: float, alpha_max: float, choose: float) -> str:
    """The certifying copies did not meet beta at any threshold that was allowed."""
    rate = row.passes / row.controls
    more = controls_needed_at(rate, beta, delta) if rate < beta else None
    if more:
        help_ = f"if the same share passes, copies of {_total(more, choose)} training patients would certify it"
        if choose and row.controls + row.choosing >= more:
            help_ += " (rule.choose=0 lets all patients certify)"
    else:
        help_ = "more patients will not help: train a better identity network"
    return (
        f"Nothing may pass: rule.beta={beta:g} is not certified even where {percent(alpha_max)} of harmless samples "
        f"may be lost: under {row.transform!r}, {row.passes} of {row.controls} copies pass, so up to "
        f"{percent(row.bound)} might, at confidence {percent(1 - delta)}; {help_}, or "
        f"accept losing more than {percent(alpha_max)} of harmless samples (rule.alpha_max)."
    )


def _total(certifiers: int, choose: float) -> int:
    """How many patients it takes for so many to certify."""
    total = math.ceil(certifiers / (1 - choose) - 1e-9)
    while total - math.floor(total * choose + 1e-9) < certifiers:
        total += 1
    return total


def _up(value: float) -> float:
    """Rounded up to three decimals."""
    return math.ceil(value * 1000 - 1e-9) / 1000
