"""How well embeddings tell patients apart: ROC, AUC, TAR at a FAR, rank-1 retrieval. Pure functions of numpy arrays.

A pair is genuine when both frames are of one patient, else an impostor. The unit is the patient: intervals come from
drawing patients anew, not frames.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from echodream.metrics.bootstrap import CONFIDENCE, Interval, percentile_interval
from echodream.metrics.classification import roc_auc

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Pairs:
    """Pairs of frames, their similarity, and whose they are. All arrays are (P,), sorted by falling score."""

    score: Array
    first: Array
    """Patient of the first frame: int64, from 0."""
    second: Array
    patients: int

    @property
    def same(self) -> Array:
        """Which pairs are genuine: bool."""
        return self.first == self.second

    def weights(self, counts: Array) -> Array:
        """How often each pair comes when patient p is drawn ``counts[p]`` times: (P,) float64.

        A genuine pair comes as often as its patient, an impostor pair as often as there are pairs of its two patients.
        """
        return np.where(self.same, counts[self.first], counts[self.first] * counts[self.second]).astype(np.float64)


def similarities(embeddings: Array, similarity: str = "cosine") -> Array:
    """Cosine, or Pearson correlation, of all rows with all rows: (N, D) to float64 (N, N). A constant row has 0."""
    rows = np.asarray(embeddings, np.float64)
    if similarity == "pearson":
        rows = rows - rows.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.divide(rows, norm, out=np.zeros_like(rows), where=norm > 0)
    return rows @ rows.T


def all_pairs(table: Array, patient: Array, recording: Array | None = None) -> Pairs:
    """Each pair of different frames once, from their similarities (N, N) and the ``patient`` of each frame, (N,).

    With ``recording``, (N,), genuine pairs of one recording are left out: what remains must recognise the patient.
    """
    names, number = np.unique(patient, return_inverse=True)
    first, second = np.triu_indices(len(number), 1)
    if recording is not None:
        kept = recording[first] != recording[second]
        first, second = first[kept], second[kept]
    score = table[first, second]
    order = np.argsort(-score, kind="stable")
    return Pairs(score[order], number[first[order]], number[second[order]], len(names))


def roc(pairs: Pairs, weight: Array | None = None) -> tuple[Array, Array, Array]:
    """False accept rate, true accept rate and threshold, (T,) each, at each different score, from none accepted on.

    A pair is accepted when its score is at least the threshold. NaN rates where there is no pair of a kind.
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
    """Area under the ROC curve: how often a genuine pair scores above an impostor, ties counting one half."""
    return float(roc_auc(pairs.score, pairs.same, None if weight is None else weight[None])[0])


def tar_at(pairs: Pairs, far: float, weight: Array | None = None) -> float:
    """The largest share of genuine pairs accepted at a threshold that accepts at most ``far`` of the impostors.

    NaN where there are fewer than 1 / ``far`` impostor pairs: they cannot tell.
    """
    if np.count_nonzero(~pairs.same) < 1 / far:
        return float("nan")
    rates, tar, _ = roc(pairs, weight)
    fits = rates <= far
    return float(tar[fits].max()) if fits.any() else float("nan")


def bootstrap_pairs(
    pairs: Pairs, statistic: Callable[..., float], repeats: int = 200, confidence: float = CONFIDENCE, seed: int = 0
) -> Interval:
    """``statistic(pairs, weight=...)`` with its bootstrap interval over patients.

    Bootstrap samples without a value, as without a genuine pair, are left out.
    """
    generator = np.random.default_rng(seed)
    probability = np.full(pairs.patients, 1 / max(pairs.patients, 1))
    counts = (generator.multinomial(pairs.patients, probability) for _ in range(repeats))
    resampled = [statistic(pairs, weight=pairs.weights(count)) for count in counts]
    return percentile_interval(statistic(pairs), resampled, confidence)


def rank1(table: Array, patient: Array, recording: Array) -> float:
    """How often the nearest frame of all other recordings is of the same patient, averaged over patients.

    ``table`` has the similarities, (N, N). Only patients with a second recording are asked; all recordings are
    searched. NaN where there is no such patient. At equal similarity another patient counts as nearer.
    """
    shares = []
    for name in np.unique(patient):
        rows = np.flatnonzero(patient == name)
        if len(np.unique(recording[rows])) < 2:
            continue
        own = np.where((patient == name) & (recording[rows, None] != recording), table[rows], -np.inf).max(axis=1)
        others = table[np.ix_(rows, patient != name)].max(axis=1, initial=-np.inf)
        shares.append(np.mean(own > others))
    return float(np.mean(shares)) if shares else float("nan")


def spread(patient: Array, most: int, least: int = 4) -> Array:
    """At most ``most`` of N frames, of as many patients as can have ``least`` each: rows in their own order, (M,).

    The patients lie evenly in the order of their names; of each the first frames are taken.
    """
    names, number = np.unique(patient, return_inverse=True)
    each = max(least, most // max(len(names), 1))
    count = min(len(names), most // each)
    chosen = np.zeros(len(names), bool)
    chosen[np.linspace(0, len(names) - 1, count).round().astype(int)] = True
    order = np.argsort(number, kind="stable")
    place = np.zeros(len(number), np.int64)  # how many frames of the patient came before
    place[order] = np.arange(len(number)) - np.searchsorted(number[order], number[order])
    return np.flatnonzero(chosen[number] & (place < each))
