"""Distance to the closest record (DCR) and nearest-neighbor distance ratio (NNDR), compared with held-out patients."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from echodream.errors import UserError
from echodream.metrics.bootstrap import Interval, bootstrap_mean, bootstrap_median, unit_indices
from echodream.privacy.nearest_neighbors import check_embeddings, distance_to_each_patient


@dataclass(frozen=True)
class Closeness:
    """Distances of synthetic samples to training patients and to equally many held-out patients.

    ``dcr_*``: median distance to the closest patient. ``nndr_*``: median ratio of the distances to the closest and the
    second closest patient, 1 if both are 0. ``nearest_in_train``: share of samples that are closer to a training
    patient than to any held-out one (ties count half), with its interval over samples; .5 is expected of a generator
    that copies nobody. ``p_value``: how often a random split of the patients gives a share as high (permutation test).
    ``patients``: number in each group. A small DCR alone proves nothing (arXiv 2505.01524).
    """

    dcr_train: Interval
    dcr_holdout: Interval
    nndr_train: Interval
    nndr_holdout: Interval
    nearest_in_train: Interval
    p_value: float
    patients: int


def closeness(
    synthetic: Tensor,
    train: Tensor,
    train_patients: Sequence[object],
    holdout: Tensor,
    holdout_patients: Sequence[object],
    groups: Sequence[object] | np.ndarray | None = None,
    seed: int = 0,
    repeats: int = 1000,
) -> Closeness:
    """DCR, NNDR and the share nearest in training, of embeddings (n, D), (m, D), (l, D), by Euclidean distance.

    All patients need equally many frames. The larger group of patients is subsampled to the size of the smaller. With
    ``groups``, (n,), rows of ``synthetic`` are frames, and the closest frame of each sample counts. Raises
    ``UserError`` if a patient is in both groups, or a group has fewer than two patients.
    """
    if {str(name) for name in train_patients} & {str(name) for name in holdout_patients}:
        raise UserError("A patient is both in training and held out: split the study by patient.")
    x, y, z = check_embeddings("closeness", synthetic, train, holdout)
    generator = np.random.default_rng(seed)
    sample = unit_indices(groups, len(x))
    distances = [
        _sample_distances(distance_to_each_patient(x, rows, unit_indices(names, len(rows))).cpu().numpy(), sample)
        for rows, names in ((y, train_patients), (z, holdout_patients))
    ]
    patients = min(part.shape[1] for part in distances)
    if patients < 2:
        raise UserError("closeness needs two or more patients in training and held out.")
    to_train, to_holdout = (part[:, generator.permutation(part.shape[1])[:patients]] for part in distances)
    to_all = np.concatenate([to_train, to_holdout], axis=1)
    closer = _closer_to_first(to_train, to_holdout)
    permuted = np.empty(repeats)
    for repeat in range(repeats):
        order = generator.permutation(2 * patients)
        permuted[repeat] = _closer_to_first(to_all[:, order[:patients]], to_all[:, order[patients:]]).mean()
    return Closeness(
        dcr_train=bootstrap_median(to_train.min(axis=1), repeats=repeats, seed=seed),
        dcr_holdout=bootstrap_median(to_holdout.min(axis=1), repeats=repeats, seed=seed),
        nndr_train=bootstrap_median(_distance_ratio(to_train), repeats=repeats, seed=seed),
        nndr_holdout=bootstrap_median(_distance_ratio(to_holdout), repeats=repeats, seed=seed),
        nearest_in_train=bootstrap_mean(closer, repeats=repeats, seed=seed),
        p_value=float((1 + (permuted >= closer.mean() - 1e-12).sum()) / (repeats + 1)),
        patients=patients,
    )


def _sample_distances(distances: np.ndarray, sample: np.ndarray) -> np.ndarray:
    """Minimum over the frames of each sample: ``distances`` (n, patients), ``sample`` (n,) to (samples, patients)."""
    order = np.argsort(sample, kind="stable")
    starts = np.flatnonzero(np.diff(sample[order], prepend=-1))
    minimum: np.ndarray = np.minimum.reduceat(distances[order], starts, axis=0)
    return minimum


def _closer_to_first(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """1 where a sample is closer to the first group of patients, .5 for a tie, else 0; (n, patients) each to (n,)."""
    near, far = first.min(axis=1), second.min(axis=1)
    return (near < far) + 0.5 * (near == far)


def _distance_ratio(distances: np.ndarray) -> np.ndarray:
    """Nearest over second nearest distance of each row, (n, patients); 1 if the second is 0."""
    first, second = np.partition(distances, 1, axis=1)[:, :2].T
    return np.divide(first, second, out=np.ones_like(first), where=second > 0)
