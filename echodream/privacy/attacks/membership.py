"""Membership inference: does a score of the network reveal which patients were in its training set?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from echodream.errors import UserError
from echodream.metrics.bootstrap import Interval, bootstrap_statistic, unit_indices
from echodream.metrics.classification import roc_auc
from echodream.privacy.conformal import finite_scores


@dataclass(frozen=True)
class Membership:
    """Separation of training patients (members) from other patients by a score, with bootstrap intervals over patients.

    ``auc``: ROC AUC; 0.5 is chance level. ``tpr``: true positive rate at a false positive rate of at most ``fpr``. If
    ``resolved`` is false, there are fewer than 1 / fpr others, and ``tpr`` is at a false positive rate of 0.
    """

    auc: Interval
    tpr: Interval
    fpr: float
    resolved: bool
    members: int
    others: int


def membership(
    scores: np.ndarray,
    member: np.ndarray,
    patients: Sequence[object],
    fpr: float = 0.01,
    repeats: int = 1000,
    seed: int = 0,
) -> Membership:
    """AUC and TPR of ``scores`` of records, (n,), which are higher for members (such as the negative loss).

    ``member``, bool (n,): whether the record was in training. Scores are averaged over the records of each of
    ``patients``, (n,). Raises ``UserError`` if a patient is in both groups, or if a group is empty.
    """
    values, member = finite_scores(scores, "membership scores"), np.asarray(member, dtype=bool)
    if len(member) != len(values):
        raise UserError(f"{len(values)} scores and {len(member)} memberships: give the membership of each score.")
    unit = unit_indices(patients, len(values))
    counts = np.bincount(unit)
    means, member_share = np.bincount(unit, values) / counts, np.bincount(unit, member) / counts
    if ((member_share > 0) & (member_share < 1)).any():
        raise UserError("A patient is both a member and not a member: split the study by patient.")
    members, others = means[member_share == 1], means[member_share == 0]
    if min(len(members), len(others)) == 0:
        raise UserError("Membership needs patients who were in training and patients who were not.")
    return Membership(
        auc=bootstrap_statistic(auc, (members, others), repeats=repeats, seed=seed),
        tpr=bootstrap_statistic(lambda x, y: tpr_at_fpr(x, y, fpr), (members, others), repeats=repeats, seed=seed),
        fpr=fpr,
        resolved=len(others) * fpr >= 1,
        members=len(members),
        others=len(others),
    )


def combine_levels(errors: np.ndarray) -> np.ndarray:
    """Score of each record, (n,), from its errors at L noise levels, (n, L): minus the mean of standardized errors.

    Each level is standardized over all records, because errors grow with the noise level.
    """
    values = np.asarray(errors, dtype=np.float64)
    if values.ndim != 2 or 0 in values.shape or not np.isfinite(values).all():
        raise UserError(f"Membership needs finite errors (n, L) of records at noise levels, not {values.shape}.")
    spread = values.std(axis=0)
    score: np.ndarray = -((values - values.mean(axis=0)) / np.where(spread > 0, spread, 1)).mean(axis=1)
    return score


def auc(members: np.ndarray, others: np.ndarray) -> float:
    """ROC AUC of scores of ``members``, (n,), against ``others``, (m,)."""
    return float(roc_auc(np.concatenate([members, others]), np.arange(len(members) + len(others)) < len(members))[0])


def tpr_at_fpr(members: np.ndarray, others: np.ndarray, fpr: float) -> float:
    """True positive rate at a false positive rate of at most ``fpr``; scores of ``members``, (n,), ``others``, (m,)."""
    allowed = int(np.floor(fpr * len(others) + 1e-9))
    threshold = np.sort(others)[-1 - allowed] if allowed < len(others) else -np.inf
    return float((members > threshold).mean())
