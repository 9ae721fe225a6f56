"""ROC AUC and confusion matrix, counted by hand."""

import itertools

import numpy as np
import pytest

from echodream.metrics.classification import confusion_matrix, roc_auc

N = 37


def scores(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random probabilities with ties that depend on the class, and the class."""
    rng = np.random.default_rng(seed)
    positive = rng.random(N) < 0.4
    return (1 / (1 + np.exp(-rng.normal(size=N) - 0.8 * positive))).round(1), positive


def ordered_pairs(values: np.ndarray, positive: np.ndarray) -> float:
    """Share of pairs of a positive and a negative in which the positive scores higher; ties count one half."""
    both = list(itertools.product(values[positive], values[~positive]))
    return float(np.mean([(a > b) + 0.5 * (a == b) for a, b in both]))


def test_auc_is_the_share_of_ordered_pairs() -> None:
    for seed in range(5):
        probabilities, positive = scores(seed)
        assert roc_auc(probabilities, positive) == pytest.approx([ordered_pairs(probabilities, positive)])
    assert 0.55 < roc_auc(probabilities, positive)[0] < 0.99


def test_confusion_by_hand() -> None:
    target, predicted = np.array([0, 0, 0, 0, 1, 1, 3]), np.array([0, 0, 0, 2, 1, 0, 2])
    assert confusion_matrix(predicted, target, 4).tolist() == [[3, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]]
