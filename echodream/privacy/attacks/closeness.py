"""DCR and NNDR against a held-out group of the same size, and authenticity."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from echodream.errors import UserError
from echodream.metrics.bootstrap import Interval, bootstrap_mean, unit_indices
from echodream.privacy.nearest_neighbors import (
    check_embeddings,
    distance_to_each_patient,
)


@dataclass(frozen=True)
class Closeness:
    """Distances of synthetic samples to the closest patient, in training and held out, with as many patients in each.

    ``dcr_*``: median distance to the closest patient; ``nndr_*``: median ratio of the distances to the closest and the
    second closest patient, 1 where both are 0. ``nearest_in_train``: share of samples that are closer to a training
    patient than to any held-out one (ties count half): .5 is expected of a generator that copies nobody. Its interval
    is over samples; ``p_value``: how often a random division of the same patients gives a share as high: the patient
    is the unit. ``patients``: in each group. A small DCR alone proves nothing (arXiv 2505.01524).
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
    """DCR, NNDR and the share nearest in training. Embeddings (n, D), (m, D), (l, D), euclidean; give patients equally
    many frames on both sides. Of the larger group, a seeded draw of as many patients as the smaller has is used. With
    ``groups``, (n,), the rows of ``synthetic`` are frames, and a sample is as close as its closest frame.
    """
    if {str(name) for name in train_patients} & {str(name) for name in holdout_patients}:
        raise UserError("A patient is both in training and held out: split the study by patient.")
    x, y, z = check_embeddings("closeness", synthetic, train, holdout)
    generator = np.random.default_rng(seed)
    tables = [
        _closest(
            distance_to_each_patient(x, rows, unit_indices(names, len(rows))).cpu().numpy(),
            unit_indices(groups, len(x)),
        )
        for rows, names in ((y, train_patients), (z, holdout_patients))
    ]
    patients = min(table.shape[1] for table in tables)
    if patients < 2:
        raise UserError("closeness needs two or more patients in training and held out.")
    near, far = (table[:, generator.permutation(table.shape[1])[:patients]] for table in tables)
    everyone = np.concatenate([near, far], axis=1)
    wins = _wins(near.min(axis=1), far.min(axis=1))
    shuffled = np.empty(repeats)
    for repeat in range(repeats):
        order = generator.permutation(2 * patients)
        shuffled[repeat] = _wins(
            *(everyone[:, part].min(axis=1) for part in (order[:patients], order[patients:]))
        ).mean()
    return Closeness(
        dcr_train=_median(near.min(axis=1), seed, repeats),
        dcr_holdout=_median(far.min(axis=1), seed, repeats),
        nndr_train=_median(_ratio(near), seed, repeats),
        nndr_holdout=_median(_ratio(far), seed, repeats),
        nearest_in_train=bootstrap_mean(wins, repeats=repeats, seed=seed),
        p_value=float((1 + (shuffled >= wins.mean() - 1e-12).sum()) / (repeats + 1)),
        patients=patients,
    )


def _closest(table: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Distances of samples, (samples, patients), from those of their frames, (n, patients); ``unit``, (n,)."""
    order = np.argsort(unit, kind="stable")
    found: np.ndarray = np.minimum.reduceat(table[order], np.flatnonzero(np.diff(unit[order], prepend=-1)), axis=0)
    return found


def _wins(near: np.ndarray, far: np.ndarray) -> np.ndarray:
    return (near < far) + 0.5 * (near == far)


def _ratio(table: np.ndarray) -> np.ndarray:
    """Nearest over second nearest distance of each row, (n, patients); 1 where the second is 0."""
    first, second = np.partition(table, 1, axis=1)[:, :2].T
    return np.divide(first, second, out=np.ones_like(first), where=second > 0)


def _median(values: np.ndarray, seed: int, repeats: int) -> Interval:
    """The median and its bootstrap interval over samples."""
    drawn = np.random.default_rng(seed).integers(len(values), size=(repeats, len(values)))
    low, high = np.quantile(np.median(values[drawn], axis=1), [0.025, 0.975])
    return Interval(float(np.median(values)), float(low), float(high))
