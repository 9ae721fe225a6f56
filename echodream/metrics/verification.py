"""Verification of patients by embeddings: ROC, AUC, rates at a threshold, choice of a threshold, rank-1 retrieval.

A pair of frames is genuine if both are of one patient, otherwise an impostor. A pair is accepted if its similarity is
at least the threshold. Intervals come from a bootstrap over patients.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from echodream.metrics.bootstrap import CONFIDENCE, Interval, percentile_interval
from echodream.metrics.classification import roc_auc

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Pairs:
    """Pairs of frames with their similarity and patients. All arrays are (P,), sorted by descending score."""

    score: Array
    first: Array
    """Patient of the first frame: int64, from 0."""
    second: Array
    """Patient of the second frame."""
    patients: int
    """Number of patients."""

    @property
    def same(self) -> Array:
        """Whether each pair is genuine, bool (P,)."""
        return self.first == self.second

    def weights(self, counts: Array) -> Array:
        """Weight of each pair, float64 (P,), if a bootstrap sample contains patient p ``counts[p]`` times.

        A genuine pair has the count of its patient, an impostor pair the product of both counts.
        """
        return np.where(self.same, counts[self.first], counts[self.first] * counts[self.second]).astype(np.float64)

    def select(self, rows: Array) -> "Pairs":
        """The pairs at ``rows``, a boolean mask or ascending indices."""
        return Pairs(self.score[rows], self.first[rows], self.second[rows], self.patients)


def similarity_matrix(embeddings: Array, similarity: str = "cosine") -> Array:
    """Cosine similarity or Pearson correlation of all rows: (N, D) to float64 (N, N). A constant row has 0."""
    rows = np.asarray(embeddings, np.float64)
    if similarity == "pearson":
        rows = rows - rows.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.divide(rows, norm, out=np.zeros_like(rows), where=norm > 0)
    return rows @ rows.T


def all_pairs(similarities: Array, patient: Array, recording: Array | None = None) -> Pairs:
    """Every pair of two different frames, from ``similarities``, (N, N), and the ``patient`` of each frame, (N,).

    With ``recording``, (N,), pairs within one recording are left out: the patient must then be recognized across
    recordings.
    """
    names, number = np.unique(patient, return_inverse=True)
    first, second = np.triu_indices(len(number), 1)
    if recording is not None:
        kept = recording[first] != recording[second]
        first, second = first[kept], second[kept]
    score = similarities[first, second]
    order = np.argsort(-score, kind="stable")
    return Pairs(score[order], number[first[order]], number[second[order]], len(names))


def pairs_from_scores(score: Array, first: Array, second: Array) -> Pairs:
    """Pairs from their ``score`` and the patients of both frames, (P,) each."""
    names, number = np.unique(np.concatenate([first, second]).astype(str), return_inverse=True)
    order = np.argsort(-score, kind="stable")
    count = len(score)
    return Pairs(score[order], number[:count][order], number[count:][order], len(names))


def roc_curve(pairs: Pairs, weight: Array | None = None) -> tuple[Array, Array, Array]:
    """False accept rate, true accept rate and threshold, (T,) each, from no accepted pair to all.

    There is a point for each distinct score. Rates are NaN without genuine (or impostor) pairs.
    """
    weight = np.ones(len(pairs.score)) if weight is None else weight
    same = pairs.same
    last = np.flatnonzero(np.append(np.diff(pairs.score) != 0, True)) if len(same) else np.zeros(0, np.int64)
    rates = []
    for part in (~same, same):
        total = np.cumsum(weight * part)[last] if len(same) else np.zeros(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            rates.append(np.append(0.0, total) / (total[-1] if len(total) else 0.0))
    return rates[0], rates[1], np.append(np.inf, pairs.score[last])


def auc(pairs: Pairs, weight: Array | None = None) -> float:
    """Area under the ROC curve: probability that a genuine pair scores above an impostor; ties count one half."""
    return float(roc_auc(pairs.score, pairs.same, None if weight is None else weight[None])[0])


def tar_at_far(pairs: Pairs, far: float, weight: Array | None = None) -> float:
    """Highest true accept rate at a false accept rate of at most ``far``.

    NaN with fewer than 1 / ``far`` impostor pairs, which cannot resolve that rate.
    """
    if np.count_nonzero(~pairs.same) < 1 / far:
        return float("nan")
    rates, tar, _ = roc_curve(pairs, weight)
    allowed = rates <= far
    return float(tar[allowed].max()) if allowed.any() else float("nan")


def equal_error_rate(pairs: Pairs, weight: Array | None = None) -> float:
    """Where FAR and FRR meet on the ROC curve with linear interpolation; NaN without pairs of both kinds."""
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
    """``statistic(pairs, weight=...)`` with its bootstrap interval over patients.

    Bootstrap samples without a value, such as those without a genuine pair, are left out.
    """
    generator = np.random.default_rng(seed)
    probability = np.full(pairs.patients, 1 / max(pairs.patients, 1))
    counts = (generator.multinomial(pairs.patients, probability) for _ in range(repeats))
    resampled = [statistic(pairs, weight=pairs.weights(count)) for count in counts]
    return percentile_interval(statistic(pairs), resampled, confidence)


@dataclass(frozen=True)
class VerificationRates:
    """Rates at a threshold; NaN for a rate without genuine (or impostor) pairs."""

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
    """1 - (FAR + FRR) / 2: genuine and impostor pairs have equal weight."""


RATE_NAMES = tuple(field.name for field in fields(VerificationRates))


def verification_rates(pairs: Pairs, threshold: float, weight: Array | None = None) -> VerificationRates:
    """All rates at ``threshold``; ``weight``, (P,), is how often each pair counts."""
    weight = np.ones(len(pairs.score)) if weight is None else weight
    accepted, same = pairs.score >= threshold, pairs.same
    true_accepts, false_accepts = float(weight[accepted & same].sum()), float(weight[accepted & ~same].sum())
    genuine, impostor = float(weight[same].sum()), float(weight[~same].sum())
    recall, far = _safe_ratio(true_accepts, genuine), _safe_ratio(false_accepts, impostor)
    return VerificationRates(
        f1=_safe_ratio(2 * true_accepts, true_accepts + false_accepts + genuine),
        precision=_safe_ratio(true_accepts, true_accepts + false_accepts) if true_accepts + false_accepts else 0.0,
        recall=recall,
        accuracy=_safe_ratio(true_accepts + impostor - false_accepts, genuine + impostor),
        far=far,
        frr=1 - recall,
        average_accuracy=1 - (far + 1 - recall) / 2,
    )


def _safe_ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else float("nan")


def best_f1_threshold(pairs: Pairs) -> float:
    """The highest of the thresholds with the best F1. NaN without a genuine pair."""
    far, tar, threshold = roc_curve(pairs)
    genuine = np.count_nonzero(pairs.same)
    impostor = len(pairs.score) - genuine
    if not genuine:
        return float("nan")
    true_accepts = tar * genuine
    false_accepts = far * impostor if impostor else np.zeros_like(true_accepts)
    return float(threshold[1:][np.argmax((2 * true_accepts / (true_accepts + false_accepts + genuine))[1:])])


def threshold_at_far(pairs: Pairs, far: float) -> float:
    """The lowest threshold with a false accept rate of at most ``far``; NaN with fewer than 1 / ``far`` impostors.

    Infinite (no pair is accepted) if too many impostors have the highest score.
    """
    if np.count_nonzero(~pairs.same) < 1 / far:
        return float("nan")
    rates, _, threshold = roc_curve(pairs)
    return float(threshold[rates <= far].min())


@dataclass(frozen=True)
class CrossValidatedThreshold:
    """A threshold from k folds of the patients, with its performance on the held-out folds."""

    threshold: float
    """Median over folds."""
    f1: float
    """Mean over held-out folds, each at the threshold of the other folds; folds without a value are left out."""
    accuracy: float
    """Mean over held-out folds, as ``f1``."""
    count: int
    """Number of folds with a threshold."""


def cross_validated_threshold(pairs: Pairs, folds: int = 10, seed: int = 0) -> CrossValidatedThreshold:
    """The threshold with the best F1 on all folds but one, for each fold. A pair is in the fold of its first patient.

    The number of folds is at most the number of patients. Raises ``ValueError`` without pairs of both kinds.
    """
    if not pairs.same.any() or pairs.same.all():
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
    f1, accuracy = (np.array([getattr(rates, name) for rates in held_out]) for name in ("f1", "accuracy"))
    return CrossValidatedThreshold(
        float(np.median(thresholds)), _finite_mean(f1), _finite_mean(accuracy), len(thresholds)
    )


def _finite_mean(values: Array) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def rank1_accuracy(similarities: Array, patient: Array, recording: Array) -> float:
    """Share of frames whose most similar frame of another recording is of the same patient, averaged over patients.

    ``similarities`` is (N, N), ``patient`` and ``recording`` are (N,). Queries are frames of patients with at least two
    recordings, the gallery is all recordings. NaN without such a patient. Ties count as errors.
    """
    accuracies = []
    for name in np.unique(patient):
        rows = np.flatnonzero(patient == name)
        if len(np.unique(recording[rows])) < 2:
            continue
        genuine = (patient == name) & (recording[rows, None] != recording)
        same = np.where(genuine, similarities[rows], -np.inf).max(axis=1)
        others = similarities[np.ix_(rows, patient != name)].max(axis=1, initial=-np.inf)
        accuracies.append(np.mean(same > others))
    return float(np.mean(accuracies)) if accuracies else float("nan")


def subsample_patients(patient: Array, max_frames: int, frames_per_patient: int = 4) -> Array:
    """At most ``max_frames`` of N frames, ``frames_per_patient`` of each chosen patient: rows, (M,).

    Chosen patients are evenly spaced in the order of their names. The first frames of each are chosen. Rows ascend.
    """
    names, number = np.unique(patient, return_inverse=True)
    each = max(frames_per_patient, max_frames // max(len(names), 1))
    count = min(len(names), max_frames // each)
    chosen = np.zeros(len(names), bool)
    chosen[np.linspace(0, len(names) - 1, count).round().astype(int)] = True
    order = np.argsort(number, kind="stable")
    index = np.zeros(len(number), np.int64)  # position of the frame among those of its patient
    index[order] = np.arange(len(number)) - np.searchsorted(number[order], number[order])
    return np.flatnonzero(chosen[number] & (index < each))
