"""Tail tests: are single samples much closer to a training patient than harmless samples or new patients are?

A mean over all samples hardly changes if a few samples are copies. In this file, the distance between a sample and a
patient is the distance between their two nearest frames.
"""

from dataclasses import dataclass

import numpy as np

from echodream.errors import UserError
from echodream.metrics.bootstrap import Interval, clopper_pearson_interval

LARGEST_GAP = np.log(1e6)
"""Upper limit of the log ratio of two distances, because a distance may be 0."""


@dataclass(frozen=True)
class NearerSampleCount:
    """Number of ``samples`` that are nearer to a training patient than all of the ``controls`` new patients are.

    ``count``: number of these samples; ``share``: ``count`` as a share of all samples, with its exact interval.
    ``expected``: expected ``share`` and interval if samples are like new patients; the count is then beta-binomial with
    Beta(1, controls). ``threshold``: distance of the nearest new patient. ``nearest``: number of samples that are
    nearer to a training patient than any two patients are to each other. ``p_value``: share of random choices of the
    training patients for which ``nearest`` is at least as high. ``smallest_p_value``: p-value of ``nearest`` copies of
    different patients, which is the smallest possible p-value.
    """

    count: int
    samples: int
    share: Interval
    expected: Interval
    controls: int
    threshold: float
    nearest: int
    p_value: float
    smallest_p_value: float


def nearer_than_new_patients(
    sample_distances: np.ndarray,
    patient_distances: np.ndarray,
    rows: np.ndarray,
    is_member: np.ndarray,
    repeats: int = 1000,
    seed: int = 0,
) -> NearerSampleCount:
    """Count samples that are nearer to a training patient than all new patients are, with a permutation test.

    ``sample_distances``, (n, P): distance of each sample to each patient. ``patient_distances``, (q, P): distance of
    each of the patients with the indices ``rows``, (q,), to each patient; the distance of a patient to itself is not
    used. ``is_member``, bool (P,): whether a patient is in training. The test is exact for exchangeable patients and
    groups of any sizes, because the smallest distance of two patients does not depend on their membership.
    """
    from scipy.stats import betabinom, hypergeom

    new, n = ~is_member[rows], len(sample_distances)
    threshold = float(patient_distances[new][:, is_member].min(initial=np.inf))
    count = int((sample_distances[:, is_member].min(axis=1) < threshold).sum())
    others = patient_distances.copy()
    others[np.arange(len(rows)), rows] = np.inf
    near = (sample_distances < others.min()).astype(np.float32)
    generator = np.random.default_rng(seed)
    choices = np.stack([is_member, *(generator.permutation(is_member) for _ in range(repeats))]).astype(np.float32)
    nearest = (near @ choices.T > 0).sum(axis=0)
    patients, training, controls = len(is_member), int(is_member.sum()), int(new.sum())
    low, high = betabinom.ppf([0.025, 0.975], n, 1, controls) / n
    copied = int(min(nearest[0], training))
    return NearerSampleCount(
        count=count,
        samples=n,
        share=clopper_pearson_interval(count, n),
        expected=Interval(1 / (controls + 1), float(low), float(high)),
        controls=controls,
        threshold=threshold,
        nearest=int(nearest[0]),
        p_value=float((nearest >= nearest[0]).sum() / (repeats + 1)),
        smallest_p_value=float(hypergeom.pmf(copied, patients, training, copied)),
    )


@dataclass(frozen=True)
class SinglingOut:
    """Number of ``samples`` that are close to one patient and far from all other patients.

    ``count``: number of these samples whose nearest patient was in training; ``others``: number of these samples whose
    nearest patient was not in training. ``share``: ``count`` as a share of all samples, with its exact interval.
    ``p_value``: smallest adjusted p-value of a sample whose nearest patient was in training. ``controls``: number of
    new patients that calibrate the test. ``controls_singled_out``: number of new patients that the same test finds.
    ``mean_gap``: mean log ratio of the distances of a new patient to the second nearest and to the nearest other
    patient.
    """

    count: int
    others: int
    samples: int
    share: Interval
    p_value: float
    controls: int
    controls_singled_out: int
    mean_gap: float


def singling_out(distances: np.ndarray, controls: np.ndarray, is_member: np.ndarray, level: float) -> SinglingOut:
    """Find samples whose nearest patient is much nearer than the second nearest, by the Benjamini-Hochberg rule.

    ``distances``, (n, P): distance of each sample to each patient. ``controls``, (K, P): distance of each new patient
    to each patient; the distance to the patient itself is infinite. ``is_member``, bool (P,): whether a patient is in
    training. In a smooth distribution of patients, the log ratio of the second nearest and the nearest distance is
    exponential (TwoNN, Facco et al. 2017). ``gap_p_values`` therefore has a closed form, and the smallest p-value does
    not depend on the number of patients. If no sample is a copy, the test finds a sample with probability at most
    ``level``. Raises ``UserError`` for fewer than three controls.
    """
    from scipy.stats import false_discovery_control

    if len(controls) < 3:
        raise UserError(f"singling out needs three or more held-out patients, and there are {len(controls)}")
    gaps, control_gaps = log_gaps(distances), log_gaps(controls)
    adjusted = false_discovery_control(gap_p_values(gaps, control_gaps))
    in_training = is_member[distances.argmin(axis=1)]
    found = adjusted <= level
    left_out = [gap_p_values(control_gaps[k : k + 1], np.delete(control_gaps, k))[0] for k in range(len(controls))]
    count = int((found & in_training).sum())
    return SinglingOut(
        count=count,
        others=int((found & ~in_training).sum()),
        samples=len(gaps),
        share=clopper_pearson_interval(count, len(gaps)),
        p_value=float(adjusted[in_training].min(initial=1.0)),
        controls=len(controls),
        controls_singled_out=int((false_discovery_control(left_out) <= level).sum()),
        mean_gap=float(control_gaps.mean()),
    )


def log_gaps(distances: np.ndarray) -> np.ndarray:
    """Log ratio of the second smallest and the smallest distance of each row, (n, P): (n,), at most ``LARGEST_GAP``."""
    first, second = np.partition(distances.astype(np.float64), 1, axis=1)[:, :2].T
    ratio = np.divide(second, first, out=np.full_like(first, np.inf), where=first > 0)
    gaps: np.ndarray = np.where(second > 0, np.minimum(np.log(np.maximum(ratio, 1)), LARGEST_GAP), 0.0)
    return gaps


def gap_p_values(gaps: np.ndarray, controls: np.ndarray) -> np.ndarray:
    """Probability that an exponential variable exceeds each of ``gaps``, (n,), given K ``controls`` with the same mean.

    The p-value (1 + gap / sum(controls))^-K is exact, because it accounts for the estimation of the mean. The k
    controls above the median give a second p-value, (k / K) (1 + (gap - median) / sum(controls - median))^-k, for a
    tail that is heavier than exponential. The larger p-value is returned.
    """
    if not controls.any():
        return np.ones_like(gaps)
    p_values: np.ndarray = (1 + gaps / controls.sum()) ** -len(controls)
    start = np.median(controls)
    excess = controls[controls > start] - start
    if len(excess) >= 3:
        above = np.maximum(gaps - start, 0)
        tail = len(excess) / len(controls) * (1 + above / excess.sum()) ** -len(excess)
        p_values = np.where(gaps > start, np.maximum(p_values, tail), p_values)
    return p_values
