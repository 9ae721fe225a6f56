"""Tails: are single samples much closer to a training patient than harmless samples or new patients are?

Means over samples do not see a few copies. Both tests take tables of distances to patients: the nearest frames count.
"""

from dataclasses import dataclass

import numpy as np

from echodream.errors import UserError
from echodream.metrics.bootstrap import Interval, clopper_pearson_interval

LARGEST_GAP = np.log(1e6)
"""Largest log ratio of two distances that counts: a distance may be 0."""


@dataclass(frozen=True)
class NearerCount:
    """Number of ``samples`` that are nearer to a training patient than any of ``controls`` new patients is.

    ``share``: with its exact interval. ``expected``: of samples that are like new patients; the number is then
    beta-binomial, Beta(1, controls). ``threshold``: distance of the nearest new patient. ``nearest``: number of samples
    that are nearer to a training patient than any two patients are to each other. ``p_value``: share of random choices
    of the training patients with at least as many. ``smallest_p_value``: that of ``nearest`` copies of as many
    patients; the test cannot find fewer copies than this allows.
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
    to_patients: np.ndarray,
    between_patients: np.ndarray,
    rows: np.ndarray,
    member: np.ndarray,
    repeats: int = 1000,
    seed: int = 0,
) -> NearerCount:
    """Count of samples and permutation test over which of P patients are in training.

    ``to_patients``, (n, P): distance of each sample to each patient. ``between_patients``, (q, P): the same of the
    patients ``rows``, indices (q,), in place of samples; the distance of a patient to itself is not used. ``member``,
    bool (P,): training patients. The test is exact if patients are exchangeable, for groups of any two sizes, since the
    smallest distance of two patients does not depend on who is in training.
    """
    from scipy.stats import betabinom, hypergeom

    new, n = ~member[rows], len(to_patients)
    threshold = float(between_patients[new][:, member].min(initial=np.inf))
    count = int((to_patients[:, member].min(axis=1) < threshold).sum())
    others = between_patients.copy()
    others[np.arange(len(rows)), rows] = np.inf
    near = (to_patients < others.min()).astype(np.float32)
    generator = np.random.default_rng(seed)
    choices = np.stack([member, *(generator.permutation(member) for _ in range(repeats))]).astype(np.float32)
    nearest = (near @ choices.T > 0).sum(axis=0)
    patients, training, controls = len(member), int(member.sum()), int(new.sum())
    low, high = betabinom.ppf([0.025, 0.975], n, 1, controls) / n
    copied = int(min(nearest[0], training))
    return NearerCount(
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
    """Number of ``samples`` that are close to one patient and far from all others.

    ``count``: the patient was in training; ``others``: the patient was not. ``share``: of ``count``, with its exact
    interval. ``p_value``: smallest adjusted p-value of a sample whose nearest patient was in training. ``controls``:
    new patients that the test is calibrated with. ``controls_singled_out``: how many of them the same test finds.
    ``mean_gap``: mean log ratio of the distances of a new patient to the second nearest and the nearest other patient.
    """

    count: int
    others: int
    samples: int
    share: Interval
    p_value: float
    controls: int
    controls_singled_out: int
    mean_gap: float


def singling_out(to_patients: np.ndarray, controls: np.ndarray, member: np.ndarray, level: float) -> SinglingOut:
    """Samples whose nearest patient is much nearer than the second nearest, by the Benjamini-Hochberg rule.

    ``to_patients``, (n, P): distance of each sample to each patient; ``controls``, (K, P): of new patients in place of
    samples, infinite to themselves. ``member``, bool (P,): training patients. In a smooth distribution of patients the
    log ratio of the second nearest and the nearest distance is exponential (TwoNN, Facco et al. 2017), so that a
    p-value has a closed form, see ``gap_p_values``, and is not limited by the number of patients. If no sample is a
    copy, any is found with probability at most ``level``. Raises ``UserError`` for fewer than three controls.
    """
    from scipy.stats import false_discovery_control

    if len(controls) < 3:
        raise UserError(f"singling out needs three or more held-out patients, and there are {len(controls)}")
    gaps, control_gaps = log_gaps(to_patients), log_gaps(controls)
    adjusted = false_discovery_control(gap_p_values(gaps, control_gaps))
    in_training = member[to_patients.argmin(axis=1)]
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

    (1 + gap / sum(controls))^-K: exact, since it accounts for the estimation of the mean. The upper half of the
    controls gives a second p-value, (k / K) (1 + (gap - median) / sum(controls - median))^-k over the k controls above
    the median, in case the tail is heavier than exponential; the larger one counts.
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
