"""Sentences of a decision: its guarantee, or the reason why it has no guarantee, with a remedy."""

import math
from collections.abc import Mapping, Sequence

from echodream.metrics.binomial_bounds import calibration_patients_needed, controls_needed, controls_needed_at_rate
from echodream.privacy.certification import Certificate
from echodream.privacy.decision import SCOPE, PassingCopies, RejectionCost

NO_PATIENT_WITH_ALL_COPIES = (
    "Nothing may pass: rule.worst_case=true needs patients who have a copy under every transform and there is "
    "none; drop the transform that needs several recordings, or set it to false."
)


def percent(value: float) -> str:
    """Text of a probability as a percentage with up to three digits: 0.05 is ``5 %``."""
    return f"{100 * value:.3g} %"


def copy_guarantee(
    transforms: Mapping[str, str],
    certifying: int,
    beta: float,
    delta: float,
    worst_case: bool,
    tau_lowered: bool,
    choosing_fraction: float,
    networks: int = 1,
    outlier_level: float | None = None,
) -> str:
    """Text of the guarantee about copies. ``transforms``: amount of each transform by name, such as "by 4 %".

    ``certifying``: number of patients whose copies were counted. ``worst_case``: whether the bound also holds for the
    least recognizable copy of each patient. ``tau_lowered``: whether the threshold was lowered until the bound was at
    most beta. ``choosing_fraction``: fraction of the patients whose copies chose the first threshold. ``networks``:
    number of networks, each of which may reject a sample. ``outlier_level``: level of the outlier test, which is the
    last network; None: no outlier test.
    """
    names = [f"{name} {amount}".strip() for name, amount in transforms.items()]
    several = len(names) > 1
    under = f"any one of the declared transforms ({', '.join(names)})" if several else f"{names[0]!r}"
    joint = " This holds for all of these transforms at once." if several else ""
    weakest = " It also holds for the copy of each patient with the lowest score." if worst_case and several else ""
    patients = "patients who were not used to choose the first threshold" if choosing_fraction else "patients"
    threshold = " The threshold is the highest at which these copies confirm this bound." if tau_lowered else ""
    outliers = outlier_level is not None
    identity = "identity network" if networks - outliers == 1 else f"{networks - outliers} networks"
    these = f"{'this' if identity == 'identity network' else 'these'} {identity}"
    scope = SCOPE.replace("this identity network", f"{these} and this outlier test" if outliers else these)
    each, share = f"each of {identity} accepts it", "each rejects an equal share of harmless samples"
    if outliers:
        each = f"{'the ' if identity == 'identity network' else ''}{identity} and the outlier test accept it"
        share = f"the outlier test rejects at most {percent(outlier_level or 0)} of the harmless samples"
    joint += f" A sample passes if {each}; {share}." if networks > 1 else ""
    return (
        f"A copy of a random training patient under {under} passes with probability at most {percent(beta)}, with "
        f"confidence {percent(1 - delta)}, by copies of {certifying} or more {patients}."
        f"{threshold}{joint}{weakest} {scope}"
    )


def amount_and_patients(amount: str, patients: int, copied_patients: int | None) -> str:
    """Text of the ``amount`` of a transform, with the number of ``patients`` with copies if some patients have none."""
    missing = copied_patients is not None and patients < copied_patients
    note = f" for the {patients} of {copied_patients} patients who have such copies" if missing else ""
    return f"{amount}{note}".strip()


def rejection_guarantee(
    level: float, false_discovery_rate: bool, cost: RejectionCost | None, delta: float, outliers: bool = False
) -> str:
    """Bounds, in sentences, of the probability that a harmless sample is rejected."""
    if false_discovery_rate:
        no_outlier = ", and no more of an outlier," if outliers else ""
        return (
            f"Of the samples rejected, at most {percent(level)} are expected to be no closer to the training patients"
            f"{no_outlier} than new patients are."
        )
    conditional = ""
    if cost is not None:
        conditional = (
            f" With these {cost.patients} calibration patients, the probability is at most {percent(cost.bound)}, with "
            f"confidence {percent(1 - delta)}."
        )
    than_new = "and no more of an outlier, than a new patient is," if outliers else "than a new patient is,"
    return (
        f"A sample that is no closer to the training patients{',' if outliers else ''} {than_new} is rejected with "
        f"probability at most {percent(level)}, on average over the choice of calibration patients.{conditional}"
    )


def compared_frames(compared_count: int, frames: int) -> str:
    """Sentence about the number of compared frames of a sample of ``frames`` frames."""
    if compared_count == frames:
        return f"All {frames} frames of each sample are compared." if frames > 1 else "Samples have one frame."
    return (
        f"{compared_count} of the {frames} frames of each sample are compared, and copies are tested with "
        f"{compared_count} copied frames: a sample that copies only other frames can pass."
    )


def copies_in_the_set(copies: PassingCopies, delta: float) -> str:
    """Sentence about the possible number of copies among the shared samples."""
    return (
        f"Of the {copies.samples} samples that pass, at most {copies.expected:.2g} are expected to be such copies, "
        f"because {copies.rejected} were rejected and copies rarely pass; with confidence {percent(1 - delta)} at most "
        f"{copies.bound} are, if copies pass with this probability and independently of each other."
    )


def number_of_decisions(same_networks: int, other_networks: int, delta: float) -> str:
    """Sentence about the number of decisions on the same patients, with the same and with other networks."""
    patients = "with these networks on these patients"
    own = f"This is the first decision {patients}."
    if same_networks > 1:
        own = (
            f"This is one of {same_networks} decisions with different settings {patients}: the confidence of all "
            f"of them together is {percent(max(0.0, 1 - same_networks * delta))}."
        )
    others = f" with other networks on these patients ({other_networks}) and" if other_networks else ""
    return f"{own} Decisions{others} on other copies of the study are not counted."


UNKNOWN_GENERATOR = (
    "It was not checked which patients the generator was trained on, because the filter was not given the generator."
)


def unknown_generator(controls: Sequence[str], splits: Sequence[str], patients: int, rejected: int) -> list[str]:
    """Sentences about samples of another program: what is not known, and what was not tested.

    ``controls``: names of the controls that need the generator. The samples were also compared with the ``patients`` of
    ``splits``, and ``rejected`` samples were rejected only because of this comparison.
    """
    samples = "1 sample was" if rejected == 1 else f"{rejected} samples were"
    sentences = [
        "The samples, or the images that they began from, were made by another program: it is not known which "
        "generator made them, whether it was trained on the training patients of this study or on other persons, with "
        "which seeds and settings it sampled, and whether samples were selected afterwards."
    ]
    if patients:
        sentences.append(
            f"Because the generator may have been trained on them, the samples were also compared with the {patients} "
            f"patients of {' and '.join(splits)}, at the same threshold, and {samples} rejected by this comparison "
            "alone; no bound holds for copies of these patients, nor for harmless samples that the comparison rejects."
        )
    sentences.append("Copies of persons who are not in this study are not found.")
    if controls:
        sentences.append(f"Copies that only the generator can make were not tested: {', '.join(controls)}.")
    return [
        *sentences,
        "Membership inference on the generator is not possible: what the generator itself reveals is not known.",
    ]


def no_guarantee(percentile: float) -> str:
    """Statement of the published rule, whose threshold is the given ``percentile``."""
    return (
        f"No guarantee: the threshold is the {percentile:g}th percentile of the training images' highest similarity to "
        "a test image, which bounds neither the copies that pass nor the harmless samples that are rejected."
    )


def too_few_calibration_patients(alpha: float, patients: int, networks: int = 1, outliers: bool = False) -> str:
    """Reason for a missing guarantee: too few calibration patients for p-values of ``alpha`` / ``networks``."""
    needed = calibration_patients_needed(alpha / networks)
    alternative = f", or allow rule.alpha={_round_up(networks / (patients + 1)):g}" if patients else ""
    tests = f"{networks - outliers} networks" if networks - outliers > 1 else "the identity network"
    tests += " and the outlier test" if outliers else ""
    shared = "" if networks == 1 else f", shared by {tests},"
    return (
        f"Nothing may pass: rule.alpha={alpha:g}{shared} needs {needed} calibration patients and there are {patients}; "
        f"hold out {needed - patients} more patients from the training of the generator and of the identity network"
        f"{alternative}."
    )


def no_controls(beta: float, delta: float, choosing_fraction: float) -> str:
    """Reason for a missing guarantee: there are no copies of training patients."""
    patients = _patients_needed(controls_needed(beta, delta), choosing_fraction)
    return (
        "Nothing may pass: without known copies, the filter cannot be tested, and no bound for unknown copies can be "
        f"given; make copies of {patients} training patients under each transform."
    )


def too_few_controls(
    transform: str, certifying: int, patients: int, beta: float, delta: float, choosing_fraction: float
) -> str:
    """Reason for a missing guarantee: the copies are too few for the bound ``beta``, even if no copy passes."""
    needed = controls_needed(beta, delta)
    remedies = [f"make copies of {_patients_needed(needed, choosing_fraction)} training patients"]
    if patients >= needed:
        remedies.append("set rule.choose=0, which counts the copies of all patients")
    if certifying:
        remedies.append(f"allow rule.beta={_round_up(1 - delta ** (1 / certifying)):g}")
    return (
        f"Nothing may pass: under {transform!r}, copies of {certifying} patients count, and rule.beta={beta:g} with "
        f"confidence {percent(1 - delta)} needs {needed} even if no copy passes; {', or '.join(remedies)}."
    )


def bound_not_reached(row: Certificate, beta: float, delta: float, alpha_max: float, choosing_fraction: float) -> str:
    """Reason for a missing guarantee: every threshold has a bound above ``beta``; ``row`` has the largest bound."""
    rate = row.passes / row.controls
    needed = controls_needed_at_rate(rate, beta, delta) if rate < beta else None
    if needed:
        patients = _patients_needed(needed, choosing_fraction)
        remedy = f"if the same share passes, copies of {patients} training patients would be enough"
        if choosing_fraction and row.controls + row.choosing >= needed:
            remedy += " (rule.choose=0 counts the copies of all patients)"
    else:
        remedy = "more patients will not help: train a better identity network"
    return (
        f"Nothing may pass: rule.beta={beta:g} is not certified even where {percent(alpha_max)} of harmless samples "
        f"may be rejected: under {row.transform!r}, {row.passes} of {row.controls} copies pass, so up to "
        f"{percent(row.bound)} might pass, at confidence {percent(1 - delta)}; {remedy}, or "
        f"accept the rejection of more than {percent(alpha_max)} of harmless samples (rule.alpha_max)."
    )


def _patients_needed(certifying: int, choosing_fraction: float) -> int:
    """Number of patients of whom ``certifying`` remain if the fraction ``choosing_fraction`` chooses the threshold."""
    total = math.ceil(certifying / (1 - choosing_fraction) - 1e-9)
    while total - math.floor(total * choosing_fraction + 1e-9) < certifying:
        total += 1
    return total


def _round_up(value: float) -> float:
    """``value`` rounded up, to a multiple of 0.001."""
    return math.ceil(value * 1000 - 1e-9) / 1000
