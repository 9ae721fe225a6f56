"""Verification of patients by embeddings: ROC, AUC, rates at a threshold, choice of a threshold, rank-1 retrieval.

A pair of frames is genuine if both frames show one patient; otherwise it is an impostor pair. A pair is accepted if its
similarity is at least the threshold. Intervals come from a bootstrap over patients.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from echodream.metrics import classification
from echodream.metrics.bootstrap import CONFIDENCE, Interval, percentile_interval

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Pairs:
    """Pairs of frames of ``patients`` patients, with their similarity. Arrays are (P,), sorted by descending score."""

    score: Array
    first: Array
    """Index of the patient of the first frame: int64, from 0."""
    second: Array
    """Index of the patient of the second frame."""
    patients: int

    @property
    def genuine(self) -> Array:
        """Whether each pair is genuine, bool (P,)."""
        return self.first == self.second

    def weights(self, counts: Array) -> Array:
        """Weight of each pair, float64 (P,), in a bootstrap sample that contains patient p ``counts[p]`` times.

        The weight of a genuine pair is the count of its patient; the weight of an impostor pair is the product of the
        counts of its two patients.
        """
        return np.where(self.genuine, counts[self.first], counts[self.first] * counts[self.second]).astype(float)

    def select(self, rows: Array) -> "Pairs":
        """The pairs at ``rows``, a boolean mask or ascending indices."""
        return Pairs(self.score[rows], self.first[rows], self.second[rows], self.patients)


def similarity_matrix(embeddings: Array, similarity: str = "cosine") -> Array:
    """Cosine similarity or Pearson correlation of all rows: (N, D) to float64 (N, N); 0 for constant rows."""
    from sklearn.metrics.pairwise import cosine_similarity

    rows = np.asarray(embeddings, np.float64)
    return np.asarray(cosine_similarity(rows - rows.mean(axis=1, keepdims=True) if similarity == "pearson" else rows))


def all_pairs(similarities: Array, patient: Array, recording: Array | None = None) -> Pairs:
    """All pairs of different frames, from ``similarities``, (N, N), and the ``patient`` of each frame, (N,).

    With ``recording``, (N,), pairs within one recording are left out.
    """
    names, number = np.unique(patient, return_inverse=True)
    first, second = np.triu_indices(len(number), 1)
    if recording is not None:
        differ = recording[first] != recording[second]
        first, second = first[differ], second[differ]
    score = similarities[first, second]
    order = np.argsort(-score, kind="stable")
    return Pairs(score[order], number[first[order]], number[second[order]], len(names))


def pairs_from_scores(score: Array, first: Array, second: Array) -> Pairs:
    """Pairs from their ``score`` and the patients of their ``first`` and ``second`` frame, (P,) each."""
    names, numbers = np.unique(np.stack([first, second]).astype(str), return_inverse=True)
    order = np.argsort(-score, kind="stable")
    first, second = numbers.reshape(2, -1)[:, order]
    return Pairs(score[order], first, second, len(names))


def roc_curve(pairs: Pairs, weight: Array | None = None) -> tuple[Array, Array, Array]:
    """False accept rate, true accept rate and threshold, (U + 1,) each, from an infinite threshold to the lowest score.

    There is a threshold for each of the U distinct scores. Rates are NaN without impostor (or genuine) pairs.
    """
    weights = None if weight is None else weight[None]
    far, tar = classification.roc_curve(pairs.score, pairs.genuine, weights)
    return far, tar, np.append(np.inf, np.unique(pairs.score)[::-1])


def auc(pairs: Pairs, weight: Array | None = None) -> float:
    """Area under the ROC curve: probability that a genuine pair scores above an impostor pair; ties count one half."""
    return float(classification.roc_auc(pairs.score, pairs.genuine, None if weight is None else weight[None])[0])


def tar_at_far(pairs: Pairs, far: float) -> float:
    """True accept rate at ``threshold_at_far``; NaN with fewer than 1 / ``far`` impostor pairs."""
    threshold = threshold_at_far(pairs, far)
    return float("nan") if np.isnan(threshold) else verification_rates(pairs, threshold).recall


def equal_error_rate(pairs: Pairs, weight: Array | None = None) -> float:
    """Error rate at which FAR = FRR on the linearly interpolated ROC curve; NaN without genuine or impostor pairs."""
    far, tar, _ = roc_curve(pairs, weight)
    difference = far - (1 - tar)  # from -1 to 1, never decreasing
    if not np.isfinite(difference).all():
        return float("nan")
    after = int(np.argmax(difference >= 0))
    if after == 0:
        return float(far[0])
    step = -difference[after - 1] / (difference[after] - difference[after - 1])
    return float(far[after - 1] + step * (far[after] - far[after - 1]))


def bootstrap_pairs(
    pairs: Pairs, statistic: Callable[..., float], repeats: int = 200, confidence: float = CONFIDENCE, seed: int = 0
) -> Interval:
    """``statistic(pairs, weight=...)`` with the bootstrap interval over patients.

    Bootstrap samples in which the statistic is NaN are left out, such as samples without a genuine pair.
    """
    generator = np.random.default_rng(seed)
    probability = np.full(pairs.patients, 1 / max(pairs.patients, 1))
    counts = (generator.multinomial(pairs.patients, probability) for _ in range(repeats))
    resampled = [statistic(pairs, weight=pairs.weights(count)) for count in counts]
    return percentile_interval(statistic(pairs), resampled, confidence)


@dataclass(frozen=True)
class VerificationRates:
    """Verification rates at a threshold; a rate without genuine (or impostor) pairs is NaN."""

    f1: float
    precision: float
    """Share of accepted pairs that are genuine; 0 if no pair is accepted."""
    recall: float
    """Share of genuine pairs that are accepted: the true accept rate, TAR."""
    accuracy: float
    """Share of pairs that are classified correctly."""
    far: float
    """False accept rate: share of impostor pairs that are accepted."""
    frr: float
    """False reject rate: share of genuine pairs that are not accepted."""
    average_accuracy: float
    """1 - (FAR + FRR) / 2: accuracy if genuine and impostor pairs have equal weight."""


RATE_NAMES = tuple(field.name for field in fields(VerificationRates))


def verification_rates(pairs: Pairs, threshold: float, weight: Array | None = None) -> VerificationRates:
    """All rates at ``threshold``, with the ``weight`` of each pair, (P,)."""
    weight = np.ones(len(pairs.score)) if weight is None else weight
    accepted, is_genuine = pairs.score >= threshold, pairs.genuine
    true_accepts, false_accepts, genuine, impostor = (
        weight[rows].sum() for rows in (accepted & is_genuine, accepted & ~is_genuine, is_genuine, ~is_genuine)
    )
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
        recall, far = true_accepts / genuine, false_accepts / impostor
        return VerificationRates(
            f1=float(2 * true_accepts / (true_accepts + false_accepts + genuine)),
            precision=float(true_accepts / (true_accepts + false_accepts or 1.0)),
            recall=float(recall),
            accuracy=float((true_accepts + impostor - false_accepts) / (genuine + impostor)),
            far=float(far),
            frr=float(1 - recall),
            average_accuracy=float(1 - (far + 1 - recall) / 2),
        )


def best_f1_threshold(pairs: Pairs) -> float:
    """The highest threshold with the maximum F1; NaN without genuine pairs."""
    if not pairs.genuine.any():
        return float("nan")
    accepted = np.arange(1, len(pairs.score) + 1)
    f1 = 2 * np.cumsum(pairs.genuine) / (accepted + np.count_nonzero(pairs.genuine))
    last = np.flatnonzero(np.diff(pairs.score, append=-np.inf))
    return float(pairs.score[last][np.argmax(f1[last])])


def threshold_at_far(pairs: Pairs, far: float) -> float:
    """The lowest threshold with a false accept rate of at most ``far``; NaN with fewer than 1 / ``far`` impostor pairs.

    The threshold is infinite (no pair is accepted) if too many impostor pairs have the highest score.
    """
    if np.count_nonzero(~pairs.genuine) < 1 / far:
        return float("nan")
    rates, _, threshold = roc_curve(pairs)
    return float(threshold[rates <= far].min())


@dataclass(frozen=True)
class CrossValidatedThreshold:
    """A threshold selected by k-fold cross-validation over patients, with its performance on the held-out folds."""

    threshold: float
    """Median of the thresholds of all folds."""
    f1: float
    """Mean F1 over held-out folds, each at the threshold of the remaining folds; undefined values are left out."""
    accuracy: float
    """Mean accuracy over held-out folds, each at the threshold of the remaining folds; without undefined values."""
    count: int
    """Number of folds with a threshold."""


def cross_validated_threshold(pairs: Pairs, folds: int = 10, seed: int = 0) -> CrossValidatedThreshold:
    """The threshold of maximum F1 by cross-validation over patients; a pair is in the fold of its first patient.

    The number of folds is at most the number of patients. Raises ``ValueError`` without genuine or impostor pairs.
    """
    if not pairs.genuine.any() or pairs.genuine.all():
        raise ValueError("a threshold needs genuine pairs (of one patient) and impostor pairs (of two patients)")
    count = min(folds, len(np.unique(pairs.first)))
    order = np.random.default_rng(seed).permutation(np.unique(pairs.first))
    fold_of_patient = np.full(pairs.patients, -1)
    fold_of_patient[order] = np.arange(len(order)) % count
    fold = fold_of_patient[pairs.first]
    thresholds, held_out = [], []
    for number in range(count if count > 1 else 0):
        threshold = best_f1_threshold(pairs.select(fold != number))
        if np.isfinite(threshold):
            thresholds.append(threshold)
            held_out.append(verification_rates(pairs.select(fold == number), threshold))
    if not thresholds:
        return CrossValidatedThreshold(best_f1_threshold(pairs), float("nan"), float("nan"), 0)
    rates = np.ma.masked_invalid([(fold_rates.f1, fold_rates.accuracy) for fold_rates in held_out])
    f1, accuracy = rates.mean(axis=0).filled(np.nan).tolist()
    return CrossValidatedThreshold(float(np.median(thresholds)), f1, accuracy, len(thresholds))


def rank1_accuracy(similarities: Array, patient: Array, recording: Array) -> float:
    """Share of frames whose most similar frame of another recording is of the same patient, averaged over patients.

    ``similarities``: (N, N); ``patient`` and ``recording``: (N,). Queries are frames of patients with two or more
    recordings; the gallery has all frames. NaN without queries. Ties count as errors.
    """
    accuracies = []
    for name in np.unique(patient):
        rows = np.flatnonzero(patient == name)
        if len(np.unique(recording[rows])) < 2:
            continue
        genuine = (patient == name) & (recording[rows, None] != recording)
        best_genuine = np.where(genuine, similarities[rows], -np.inf).max(axis=1)
        best_impostor = similarities[np.ix_(rows, patient != name)].max(axis=1, initial=-np.inf)
        accuracies.append(np.mean(best_genuine > best_impostor))
    return float(np.mean(accuracies)) if accuracies else float("nan")


def subsample_patients(patient: Array, max_frames: int, frames_per_patient: int = 4) -> Array:
    """Row numbers, ascending, (M,) with M <= ``max_frames``: the first k frames of each selected patient.

    k is ``max_frames`` divided by the number of patients, rounded down, but at least ``frames_per_patient``. The
    selected patients are evenly spaced in the order of their names.
    """
    import pandas as pd

    names, number = np.unique(patient, return_inverse=True)
    per_patient = max(frames_per_patient, max_frames // max(len(names), 1))
    count = min(len(names), max_frames // per_patient)
    selected = np.linspace(0, len(names) - 1, count).round().astype(int)
    index_in_patient = pd.Series(number).groupby(number).cumcount().to_numpy()
    return np.flatnonzero(np.isin(number, selected) & (index_in_patient < per_patient))
