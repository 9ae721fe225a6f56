"""Verification metrics compared with scikit-learn and with loops over every pair."""

import itertools

import numpy as np
import pytest
from sklearn import metrics as sk

from echodream.metrics.verification import (
    Pairs,
    all_pairs,
    auc,
    bootstrap_pairs,
    rank1_accuracy,
    roc_curve,
    similarity_matrix,
    subsample_patients,
    tar_at_far,
)

N, D = 23, 6
PATIENT = np.array(["d", "a", "b", "a", "c", "b", "a", "d", "a", "b", "c", "e", "a", "b", "d", *"aabbccdd"])
RECORDING = np.array([9, 1, 4, 1, 6, 4, 2, 9, 2, 5, 7, 8, 3, 5, 9, 1, 2, 4, 5, 6, 7, 9, 9])


def embeddings(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centre = {name: rng.normal(size=D) for name in np.unique(PATIENT)}
    return np.stack([centre[name] for name in PATIENT]) + rng.normal(size=(N, D)) * 0.8


def table(ties: bool = True) -> np.ndarray:
    found = similarity_matrix(embeddings())
    return np.round(found, 1) if ties else found


def pairs_of(scores: np.ndarray) -> tuple[list[float], list[bool]]:
    each = list(itertools.combinations(range(N), 2))
    return [float(scores[i, j]) for i, j in each], [bool(PATIENT[i] == PATIENT[j]) for i, j in each]


def test_similarities_are_cosines_and_correlations() -> None:
    x = embeddings()
    assert similarity_matrix(x, "pearson") == pytest.approx(np.corrcoef(x), abs=1e-12)
    by_hand = [[a @ b / np.sqrt(a @ a) / np.sqrt(b @ b) for b in x] for a in x]
    assert similarity_matrix(x) == pytest.approx(np.array(by_hand), abs=1e-12)
    x[3] = 2.0
    assert np.array_equal(similarity_matrix(x, "pearson")[3], np.zeros(N))


@pytest.mark.parametrize("ties", [False, True])
def test_auc_and_roc_equal_scikit_learn(ties: bool) -> None:
    scores, same = pairs_of(table(ties))
    made = all_pairs(table(ties), PATIENT)
    assert auc(made) == pytest.approx(sk.roc_auc_score(same, scores), abs=1e-12)
    far, tar, threshold = roc_curve(made)
    their_far, their_tar, their_threshold = sk.roc_curve(same, scores, drop_intermediate=False)
    assert far == pytest.approx(their_far, abs=1e-12)
    assert tar == pytest.approx(their_tar, abs=1e-12)
    assert threshold == pytest.approx(their_threshold)


def test_pairs_within_a_recording_can_be_left_out() -> None:
    kept = [(i, j) for i, j in itertools.combinations(range(N), 2) if RECORDING[i] != RECORDING[j]]
    made = all_pairs(table(), PATIENT, RECORDING)
    truth = sk.roc_auc_score([PATIENT[i] == PATIENT[j] for i, j in kept], [table()[i, j] for i, j in kept])
    assert auc(made) == pytest.approx(truth, abs=1e-12)
    assert truth != pytest.approx(auc(all_pairs(table(), PATIENT)), abs=1e-4)


@pytest.mark.parametrize("far", [0.3, 0.1, 0.02])
def test_tar_at_far_by_brute_force(far: float) -> None:
    scores, same = (np.array(part) for part in pairs_of(table()))
    best = 0.0
    for threshold in [*np.unique(scores), np.inf]:
        accepted = scores >= threshold
        if accepted[~same].mean() <= far:
            best = max(best, accepted[same].mean())
    assert tar_at_far(all_pairs(table(), PATIENT), far) == pytest.approx(best, abs=1e-12)
    assert 0 < best < 1


def test_tar_is_nan_with_too_few_impostors() -> None:
    made = all_pairs(table(), PATIENT)
    assert np.isnan(tar_at_far(made, 1 / (np.count_nonzero(~made.genuine) + 1)))
    assert not np.isnan(tar_at_far(made, 1 / np.count_nonzero(~made.genuine)))


def test_pair_weights_equal_repeated_pairs() -> None:
    """The weighted AUC equals the AUC of scikit-learn on repeated pairs."""
    counts = dict(zip("abcde", [2, 0, 1, 3, 1], strict=True))
    scores, same = [], []
    for i, j in itertools.combinations(range(N), 2):
        one, two = counts[PATIENT[i]], counts[PATIENT[j]]
        times = one if PATIENT[i] == PATIENT[j] else one * two
        scores += [table()[i, j]] * times
        same += [PATIENT[i] == PATIENT[j]] * times
    made = all_pairs(table(), PATIENT)
    weight = made.weights(np.array([2, 0, 1, 3, 1]))
    assert auc(made, weight) == pytest.approx(sk.roc_auc_score(same, scores), abs=1e-12)
    assert sk.roc_auc_score(same, scores) != pytest.approx(auc(made), abs=1e-3)


@pytest.mark.slow
def test_bootstrap_resamples_patients() -> None:
    made = all_pairs(table(), PATIENT)
    found = bootstrap_pairs(made, auc, repeats=40, confidence=0.9, seed=3)
    rng, values = np.random.default_rng(3), []
    for _ in range(40):
        counts = dict(zip("abcde", rng.multinomial(5, [0.2] * 5), strict=True))
        each = [
            (table()[i, j], PATIENT[i] == PATIENT[j], c if PATIENT[i] == PATIENT[j] else c * counts[PATIENT[j]])
            for i, j in itertools.combinations(range(N), 2)
            if (c := counts[PATIENT[i]])
        ]
        score, same, weight = (np.array(part) for part in zip(*each, strict=True))
        if (weight[same] > 0).any() and (weight[~same] > 0).any():
            values.append(sk.roc_auc_score(same, score, sample_weight=weight))
    assert len(values) > 30
    assert (found.low, found.high) == pytest.approx(np.quantile(values, [0.05, 0.95]), abs=1e-9)
    assert found.low < found.value == auc(made) < found.high


def test_a_single_patient_has_no_metrics() -> None:
    made = all_pairs(np.ones((3, 3)), np.array(["a"] * 3))
    assert np.isnan(auc(made))
    assert np.isnan(bootstrap_pairs(made, auc, repeats=5).low)


def test_rank_1_by_brute_force() -> None:
    scores = table(ties=False)
    shares = {}
    for name in np.unique(PATIENT):
        if len(np.unique(RECORDING[name == PATIENT])) < 2:
            continue
        hits = []
        for i in np.flatnonzero(name == PATIENT):
            others = [j for j in range(N) if RECORDING[j] != RECORDING[i]]
            hits.append(PATIENT[max(others, key=lambda j: scores[i, j])] == name)
        shares[name] = np.mean(hits)
    assert set(shares) == {"a", "b", "c"}
    assert rank1_accuracy(scores, PATIENT, RECORDING) == pytest.approx(np.mean(list(shares.values())))
    assert 0 < np.mean(list(shares.values())) < 1
    assert np.isnan(rank1_accuracy(scores, PATIENT, PATIENT))
    assert rank1_accuracy(np.ones((N, N)), PATIENT, RECORDING) == 0  # all scores are equal: no patient is recognized


def test_subsample_has_enough_frames_of_evenly_spaced_patients() -> None:
    kept = subsample_patients(PATIENT, 11, frames_per_patient=2)
    assert np.unique(PATIENT[kept], return_counts=True)[1].tolist() == [2, 2, 2, 2, 1]
    assert [kept.tolist()[k] for k in range(2)] == [0, 1]
    assert kept.tolist() == sorted(kept.tolist())
    few = subsample_patients(
        PATIENT, 9, frames_per_patient=3
    )  # three patients of the five: the first, the middle and the last name
    names, counts = np.unique(PATIENT[few], return_counts=True)
    assert (names.tolist(), counts.tolist()) == (["a", "c", "e"], [3, 3, 1])
    assert subsample_patients(PATIENT, 100).tolist() == list(range(N))


def test_pairs_are_sorted_and_unique() -> None:
    made = all_pairs(table(), PATIENT)
    assert isinstance(made, Pairs)
    assert len(made.score) == N * (N - 1) // 2
    assert (np.diff(made.score) <= 0).all()
    assert made.patients == 5
    assert made.genuine.sum() == sum(n * (n - 1) // 2 for n in np.unique(PATIENT, return_counts=True)[1])
