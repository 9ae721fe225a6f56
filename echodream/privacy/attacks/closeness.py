"""Distance to the closest record (DCR) and nearest-neighbor distance ratio (NNDR), compared with held-out patients."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from echodream.errors import UserError
from echodream.metrics.bootstrap import Interval, bootstrap_mean, bootstrap_median

SUBSETS = 50
"""Number of random subsets of the larger group of patients."""


@dataclass(frozen=True)
class Closeness:
    """Distances of synthetic samples to training patients and to equally many held-out patients.

    ``dcr_*``: median distance to the closest patient. ``nndr_*``: median ratio of the distances to the closest and the
    second closest patient, 1 if both are 0. ``nearest_in_train``: share of samples that are closer to a training
    patient than to every held-out patient (ties count half), with its interval over samples; a generator that copies no
    patient has an expected share of 0.5. ``p_value``: fraction of random splits of the patients with a share at least
    as high (permutation test). ``patients``: number of patients in each group. A small DCR alone does not prove copying
    (arXiv 2505.01524).

    Random subsets of the larger group have the size of the smaller group. ``nearest_in_train`` is the mean over all
    subsets, in closed form; ``spread`` is the standard deviation over ``draws`` subsets. Medians are over samples and
    subsets.
    """

    dcr_train: Interval
    dcr_holdout: Interval
    nndr_train: Interval
    nndr_holdout: Interval
    nearest_in_train: Interval
    p_value: float
    patients: int
    spread: float
    draws: int


def dcr_and_nndr(train: np.ndarray, holdout: np.ndarray, seed: int = 0, repeats: int = 1000) -> Closeness:
    """Closeness from distances of n samples to m patients in ``train``, (n, m), and l patients in ``holdout``, (n, l).

    Raises ``UserError`` if a group has fewer than two patients.
    """
    m, patients = train.shape[1], min(train.shape[1], holdout.shape[1])
    if patients < 2:
        raise UserError("closeness needs two or more patients in training and held out.")
    generator = np.random.default_rng(seed)
    draws = 1 if train.shape == holdout.shape else SUBSETS
    drawn = [
        [part[:, generator.permutation(part.shape[1])[:patients]] for part in (train, holdout)] for _ in range(draws)
    ]
    shares = [float(_share_closer_to_first(*parts).mean()) for parts in drawn]
    unit = np.tile(np.arange(len(train)), draws)
    nearest = [np.concatenate([parts[k].min(axis=1) for parts in drawn]) for k in (0, 1)]
    ratios = [np.concatenate([_distance_ratio(parts[k]) for parts in drawn]) for k in (0, 1)]
    closer, to_all = _share_closer_to_first(train, holdout), np.concatenate([train, holdout], axis=1)
    permuted = np.empty(repeats)
    for repeat in range(repeats):
        order = generator.permutation(to_all.shape[1])
        permuted[repeat] = _share_closer_to_first(to_all[:, order[:m]], to_all[:, order[m:]]).mean()
    return Closeness(
        dcr_train=bootstrap_median(nearest[0], unit, repeats=repeats, seed=seed),
        dcr_holdout=bootstrap_median(nearest[1], unit, repeats=repeats, seed=seed),
        nndr_train=bootstrap_median(ratios[0], unit, repeats=repeats, seed=seed),
        nndr_holdout=bootstrap_median(ratios[1], unit, repeats=repeats, seed=seed),
        nearest_in_train=bootstrap_mean(closer, repeats=repeats, seed=seed),
        p_value=float((1 + (permuted >= closer.mean() - 1e-12).sum()) / (repeats + 1)),
        patients=patients,
        spread=float(np.std(shares)),
        draws=draws,
    )


def _share_closer_to_first(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Share of equal-size subsets for which each sample is closer to the first group, (n,), from (n, m) and (n, l).

    A subset has l of the m patients of the larger group. If k of the m patients are closer than the nearest patient of
    the smaller group, a subset contains none of these k patients with probability C(m - k, l) / C(m, l). Ties count
    half.
    """
    if first.shape[1] < second.shape[1]:
        share: np.ndarray = 1 - _share_closer_to_first(second, first)
        return share
    near = second.min(axis=1, keepdims=True)
    none = _probability_of_none(first.shape[1], second.shape[1])
    share = 1 - (none[(first < near).sum(axis=1)] + none[(first <= near).sum(axis=1)]) / 2
    return share


@lru_cache(maxsize=32)
def _probability_of_none(total: int, size: int) -> np.ndarray:
    """Probability that a random ``size`` of ``total`` items contain none of k given items, for k = 0, ..., total."""
    from scipy.stats import hypergeom

    none: np.ndarray = hypergeom.pmf(0, total, np.arange(total + 1), size)
    return none


def _distance_ratio(distances: np.ndarray) -> np.ndarray:
    """Ratio of the smallest and the second smallest distance of each row, (n, patients); 1 if both are 0."""
    first, second = np.partition(distances, 1, axis=1)[:, :2].T
    return np.divide(first, second, out=np.ones_like(first), where=second > 0)
