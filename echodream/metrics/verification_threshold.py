"""Verification at a threshold that other pairs chose: pure functions of ``verification.Pairs``.

A pair is accepted, taken for one patient, when its score is at least the threshold.
"""

from dataclasses import dataclass, fields

import numpy as np

from echodream.metrics.verification import Array, Pairs, roc


@dataclass(frozen=True)
class Rates:
    """What a threshold does to pairs; NaN where there is no pair of the kind that a rate is of."""

    f1: float
    precision: float
    """Share of accepted pairs that are genuine; 0 where none is accepted."""
    recall: float
    """Share of genuine pairs that are accepted: the true accept rate, TAR."""
    accuracy: float
    """Share of pairs that are judged rightly."""
    far: float
    """False accept rate: share of impostor pairs that are accepted."""
    frr: float
    """False reject rate: share of genuine pairs that are not accepted."""
    average_accuracy: float
    """1 - (FAR + FRR) / 2: both kinds count the same, however many there are."""


NAMES = tuple(each.name for each in fields(Rates))
"""Of the rates."""


def pairs_of(score: Array, first: Array, second: Array) -> Pairs:
    """Pairs with their ``score`` and the patients of both images, (P,) each."""
    names, number = np.unique(np.concatenate([first, second]).astype(str), return_inverse=True)
    order = np.argsort(-score, kind="stable")
    count = len(score)
    return Pairs(score[order], number[:count][order], number[count:][order], len(names))


def rates(pairs: Pairs, threshold: float, weight: Array | None = None) -> Rates:
    """All rates at ``threshold``; ``weight``, (P,), says how often each pair counts."""
    weight = np.ones(len(pairs.score)) if weight is None else weight
    taken, same = pairs.score >= threshold, pairs.same
    hit, false = float(weight[taken & same].sum()), float(weight[taken & ~same].sum())
    genuine, impostor = float(weight[same].sum()), float(weight[~same].sum())
    recall, far = _share(hit, genuine), _share(false, impostor)
    return Rates(
        f1=_share(2 * hit, hit + false + genuine),
        precision=_share(hit, hit + false) if hit + false else 0.0,
        recall=recall,
        accuracy=_share(hit + impostor - false, genuine + impostor),
        far=far,
        frr=1 - recall,
        average_accuracy=1 - (far + 1 - recall) / 2,
    )


def _share(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def best_f1(pairs: Pairs) -> float:
    """The threshold with the highest F1; of several the highest. NaN without a genuine pair."""
    far, tar, threshold = roc(pairs)
    genuine = np.count_nonzero(pairs.same)
    impostor = len(pairs.score) - genuine
    if not genuine:
        return float("nan")
    hit = tar * genuine
    false = far * impostor if impostor else np.zeros_like(hit)
    return float(threshold[1:][np.argmax((2 * hit / (hit + false + genuine))[1:])])


def at_far(pairs: Pairs, far: float) -> float:
    """The lowest threshold that accepts at most ``far`` of the impostors; NaN with fewer than 1 / ``far`` of them.

    Where even the highest score is an impostor's too often, it is infinite: nothing is accepted.
    """
    if np.count_nonzero(~pairs.same) < 1 / far:
        return float("nan")
    found, _, threshold = roc(pairs)
    return float(threshold[found <= far].min())


def eer(pairs: Pairs, weight: Array | None = None) -> float:
    """The equal error rate, where FAR and FRR meet on the ROC curve, its points joined by lines. NaN without both."""
    far, tar, _ = roc(pairs, weight)
    gap = far - (1 - tar)  # from -1 to 1, never falling
    if not np.isfinite(gap).all():
        return float("nan")
    after = int(np.argmax(gap >= 0))
    if after == 0:
        return float(far[0])
    step = -gap[after - 1] / (gap[after] - gap[after - 1])
    return float(far[after - 1] + step * (far[after] - far[after - 1]))


@dataclass(frozen=True)
class Folds:
    """A threshold by k folds of the patients, and how it did on those that it was not chosen on."""

    threshold: float
    """The median of the folds'."""
    f1: float
    """Mean over folds, on the fold left out, with the threshold of the others. NaN folds do not count."""
    accuracy: float
    """The same."""
    count: int
    """Folds that had a value."""


def by_folds(pairs: Pairs, folds: int = 10, seed: int = 0) -> Folds:
    """The threshold with the best F1, found on all folds but one, in turns. A pair is in the fold of its first patient.

    With fewer patients than ``folds`` there are as many as patients. Raises ``ValueError`` without pairs of each kind.
    """
    if not pairs.same.any() or pairs.same.all():
        raise ValueError("a threshold needs pairs of one patient and pairs of two")
    count = min(folds, len(np.unique(pairs.first)))
    order = np.random.default_rng(seed).permutation(np.unique(pairs.first))
    fold = np.full(pairs.patients, -1)
    fold[order] = np.arange(len(order)) % count
    of = fold[pairs.first]
    found, judged = [], []
    for number in range(count if count > 1 else 0):
        threshold = best_f1(_only(pairs, of != number))
        if np.isfinite(threshold):
            found.append(threshold)
            judged.append(rates(_only(pairs, of == number), threshold))
    if not found:
        threshold = best_f1(pairs)
        return Folds(threshold, float("nan"), float("nan"), 0)
    f1, accuracy = (np.array([getattr(each, name) for each in judged]) for name in ("f1", "accuracy"))
    return Folds(float(np.median(found)), _mean(f1), _mean(accuracy), len(found))


def _mean(values: Array) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _only(pairs: Pairs, kept: Array) -> Pairs:
    return Pairs(pairs.score[kept], pairs.first[kept], pairs.second[kept], pairs.patients)
