"""Membership inference: does a score of the network, or of the samples, reveal which patients were in training?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from echodream.errors import UserError
from echodream.metrics.bootstrap import Interval, bootstrap_statistic, unit_indices
from echodream.metrics.classification import auc_interval
from echodream.privacy.conformal import finite_scores

FOLDS = 5
"""Number of patient folds for the cross-fitting of the trained attacker."""
NEIGHBORS = 10
"""Number of nearest samples whose distances the trained attacker uses."""


@dataclass(frozen=True)
class Membership:
    """Separation of training patients (members) from other patients by a score, with bootstrap intervals over patients.

    ``auc``: ROC AUC; 0.5 is chance level. ``tpr``: true positive rate at a false positive rate of at most ``fpr``. If
    ``resolved`` is false, there are fewer than 1 / fpr other patients, and ``tpr`` is at a false positive rate of 0.
    """

    auc: Interval
    tpr: Interval
    fpr: float
    resolved: bool
    members: int
    others: int


@dataclass(frozen=True)
class ControlledAuc:
    """AUC of an attack, and of a control: the same attack with scores that do not depend on the training.

    If the interval of ``control`` excludes 0.5, the training patients differ from the other patients for other reasons
    than the training. ``beyond``: ``auc`` minus ``control``. The interval of ``beyond`` assumes independent AUCs. The
    AUCs are of the same patients, so this interval tends to be too wide. The randomness of generated samples is not in
    any interval.
    """

    auc: Interval
    control: Interval
    beyond: Interval

    @property
    def groups_differ(self) -> bool:
        """Whether the control distinguishes training patients from other patients."""
        return not self.control.low <= 0.5 <= self.control.high

    @property
    def succeeds(self) -> bool:
        """Whether the attack is better than chance and better than its control."""
        return self.beyond.low > 0 if self.groups_differ else self.auc.low > max(0.5, self.control.value)


def controlled_auc(scores: np.ndarray, control: np.ndarray, is_member: np.ndarray) -> ControlledAuc:
    """AUC of the scores ``scores`` and ``control`` of patients, (P,), higher for members; ``is_member``: bool (P,)."""
    first, second = (auc_interval(values[is_member], values[~is_member]) for values in (scores, control))
    difference, half = first.value - second.value, math.hypot(*((each.high - each.low) / 2 for each in (first, second)))
    return ControlledAuc(first, second, Interval(difference, difference - half, difference + half))


def membership(
    scores: np.ndarray,
    is_member: np.ndarray,
    patients: Sequence[object],
    fpr: float = 0.01,
    repeats: int = 1000,
    seed: int = 0,
) -> Membership:
    """AUC and TPR of ``scores`` of records, (n,), which are higher for members (such as the negative loss).

    ``is_member``, bool (n,): whether the record was in training. Scores are averaged over the records of each of
    ``patients``, (n,). Raises ``UserError`` if a patient is in both groups, or if a group is empty.
    """
    values, is_member = finite_scores(scores, "membership scores"), np.asarray(is_member, dtype=bool)
    if len(is_member) != len(values):
        raise UserError(f"{len(values)} scores and {len(is_member)} memberships: give the membership of each score.")
    unit = unit_indices(patients, len(values))
    counts = np.bincount(unit)
    means, member_share = np.bincount(unit, values) / counts, np.bincount(unit, is_member) / counts
    if ((member_share > 0) & (member_share < 1)).any():
        raise UserError("A patient is both a member and not a member: split the study by patient.")
    members, others = means[member_share == 1], means[member_share == 0]
    if min(len(members), len(others)) == 0:
        raise UserError("Membership needs patients who were in training and patients who were not.")
    return Membership(
        auc=auc_interval(members, others),
        tpr=bootstrap_statistic(lambda x, y: tpr_at_fpr(x, y, fpr), (members, others), repeats=repeats, seed=seed),
        fpr=fpr,
        resolved=len(others) * fpr >= 1,
        members=len(members),
        others=len(others),
    )


def combine_noise_levels(errors: np.ndarray) -> np.ndarray:
    """Score of each record, (n,), from its errors at L noise levels, (n, L): minus the mean of standardized errors.

    Each level is standardized over all records, because errors grow with the noise level.
    """
    values = np.asarray(errors, dtype=np.float64)
    if values.ndim != 2 or 0 in values.shape or not np.isfinite(values).all():
        raise UserError(f"Membership needs finite errors (n, L) of records at noise levels, not {values.shape}.")
    spread = values.std(axis=0)
    score: np.ndarray = -((values - values.mean(axis=0)) / np.where(spread > 0, spread, 1)).mean(axis=1)
    return score


def calibrated_errors(errors: np.ndarray, difficulty: np.ndarray, is_member: np.ndarray) -> np.ndarray:
    """``errors`` of patients, (P,), minus the part that is proportional to their ``difficulty``, (P,).

    Some patients are difficult for every network (difficulty calibration, Watson et al. 2022, arXiv 2111.08440). The
    slope is estimated within members and within other patients (``is_member``, bool (P,)), so it does not depend on the
    difference of the mean errors of the two groups.
    """
    centered = difficulty.astype(np.float64)
    for group in (group for group in (is_member, ~is_member) if group.any()):
        centered[group] -= centered[group].mean()
    variance = centered @ centered
    calibrated: np.ndarray = errors - difficulty * (centered @ errors / variance if variance > 0 else 0.0)
    return calibrated


def nearest_sample_scores(distances: np.ndarray) -> np.ndarray:
    """Score of each patient, (P,): minus the distance of the nearest of n samples; ``distances``, (n, P)."""
    scores: np.ndarray = -distances.min(axis=0)
    return scores


def trained_attacker_scores(distances: np.ndarray, is_member: np.ndarray, seed: int = 0) -> np.ndarray:
    """Score of each patient, (P,), by a regression on the distances to the nearest samples.

    ``distances``, (n, P): distances of n samples to P patients. ``is_member``, bool (P,): whether a patient was in
    training. The features are the log distance to the nearest sample, and the log ratio of the distances to the
    ``NEIGHBORS``-th nearest and to the nearest sample. The regression is fitted without the patients that it scores
    (cross-fitting). Its coefficients cannot be negative: if the signs were fitted to few patients, the AUC would vary
    more than its interval shows. Raises ``UserError`` for a group of fewer than two patients.
    """
    from scipy.optimize import nnls

    if min(is_member.sum(), (~is_member).sum()) < 2:
        raise UserError("a trained attacker needs two or more patients in training and held out")
    far = min(NEIGHBORS, len(distances)) - 1
    nearest, further = np.partition(distances, (0, far), axis=0)[[0, far]].astype(np.float64)
    floor = max(1e-3 * np.median(nearest), np.finfo(np.float32).tiny)
    nearest, further = (np.log(np.maximum(each, floor)) for each in (nearest, further))
    features = np.stack([-nearest, further - nearest], axis=1)
    fold, scores = np.empty(len(is_member), int), np.empty(len(is_member))
    for group in (is_member, ~is_member):
        fold[group] = np.random.default_rng(seed).permutation(group.sum()) % FOLDS
    for number in np.unique(fold):
        fitted, scored = features[fold != number], features[fold == number]
        spread = np.where(fitted.std(axis=0) > 0, fitted.std(axis=0), 1)
        target = is_member[fold != number].astype(np.float64)
        weights = nnls((fitted - fitted.mean(axis=0)) / spread, target - target.mean())[0]
        scores[fold == number] = (scored - fitted.mean(axis=0)) / spread @ weights
    return scores


def drop_self_distances(distances: np.ndarray, patients: np.ndarray, seed: int = 0) -> np.ndarray:
    """Distances of q real patients, in place of samples, to P patients, without self-distances: (q, P) to (q - 1, P).

    Row k of ``distances`` belongs to the patient ``patients[k]``. For a patient without a row, a random row is left
    out, so that all patients are compared with q - 1 rows.
    """
    left_out = np.random.default_rng(seed).integers(len(distances), size=(distances.shape[1],))
    left_out[patients] = np.arange(len(distances))
    kept = np.arange(len(distances))[:, None] != left_out
    return distances.T[kept.T].reshape(distances.shape[1], -1).T


def tpr_at_fpr(members: np.ndarray, others: np.ndarray, fpr: float) -> float:
    """True positive rate at a false positive rate of at most ``fpr``; scores of ``members``, (n,), ``others``, (m,)."""
    allowed = int(np.floor(fpr * len(others) + 1e-9))
    threshold = np.sort(others)[-1 - allowed] if allowed < len(others) else -np.inf
    return float((members > threshold).mean())
