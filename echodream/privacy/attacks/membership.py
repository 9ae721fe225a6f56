"""Membership inference: can one tell from the network who was in its training set?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from echodream.errors import UserError
from echodream.metrics.bootstrap import Interval, bootstrap_statistic, unit_indices
from echodream.metrics.classification import roc_auc
from echodream.privacy.conformal import finite


@dataclass(frozen=True)
class Membership:
    """How well a score tells training patients from others; the patient is the unit, intervals are bootstrapped.

    ``auc``: .5 is chance. ``tpr``: share of training patients found where at most ``fpr`` of the others are. Where
    ``resolved`` is false there are fewer than 1 / fpr others, so ``tpr`` is where none of them is taken for a member.
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
    """From scores of records, (n,), higher for members (such as -loss), whether each is one, (n,), and its patient.

    The records of a patient are averaged. A patient who is both a member and not raises ``UserError``.
    """
    values, inside = finite(scores, "membership scores"), np.asarray(member, dtype=bool)
    if len(inside) != len(values):
        raise UserError(f"{len(values)} scores came with {len(inside)} memberships: each score needs its own.")
    unit = unit_indices(patients, len(values))
    counts = np.bincount(unit)
    means, inside_share = np.bincount(unit, values) / counts, np.bincount(unit, inside) / counts
    if ((inside_share > 0) & (inside_share < 1)).any():
        raise UserError("A patient is both a member and not a member: split the study by patient.")
    members, others = means[inside_share == 1], means[inside_share == 0]
    if min(len(members), len(others)) == 0:
        raise UserError("Membership needs patients who were in training and patients who were not.")
    return Membership(
        auc=bootstrap_statistic(auc, (members, others), repeats=repeats, seed=seed),
        tpr=bootstrap_statistic(lambda x, y: tpr_at(x, y, fpr), (members, others), repeats=repeats, seed=seed),
        fpr=fpr,
        resolved=len(others) * fpr >= 1,
        members=len(members),
        others=len(others),
    )


def combine_levels(errors: np.ndarray) -> np.ndarray:
    """One score of each record, (n,), from its errors at several noise levels, (n, L); higher for smaller errors.

    Errors of much noise are larger than those of little. Each level is scaled to mean 0 and standard deviation 1 over
    all records, members or not, so that all levels have a say; the score is minus their mean.
    """
    values = np.asarray(errors, dtype=np.float64)
    if values.ndim != 2 or 0 in values.shape or not np.isfinite(values).all():
        raise UserError(f"Membership needs finite errors (n, L) of records at noise levels, not {values.shape}.")
    spread = values.std(axis=0)
    found: np.ndarray = -((values - values.mean(axis=0)) / np.where(spread > 0, spread, 1)).mean(axis=1)
    return found


def auc(members: np.ndarray, others: np.ndarray) -> float:
    """Probability that a member scores higher than another, ties half. (n,) and (m,)."""
    return float(roc_auc(np.concatenate([members, others]), np.arange(len(members) + len(others)) < len(members))[0])


def tpr_at(members: np.ndarray, others: np.ndarray, fpr: float) -> float:
    """Share of members above a threshold that at most a share ``fpr`` of others exceed. (n,) and (m,)."""
    allowed = int(np.floor(fpr * len(others) + 1e-9))
    threshold = np.sort(others)[-1 - allowed] if allowed < len(others) else -np.inf
    return float((members > threshold).mean())
