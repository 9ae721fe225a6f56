"""AUC by counting pairs, accuracy by counting."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from echodream.metrics.classification import auc, balanced_accuracy, class_accuracy, confusion

N, K = 37, 3


def scores(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Probabilities that know something of the target, some of them equal."""
    random = torch.Generator().manual_seed(seed)
    target = torch.randint(0, K, (N,), generator=random)
    logits = torch.randn(N, K, generator=random) + 0.8 * torch.nn.functional.one_hot(target, K)
    return (logits.softmax(dim=1) * 10).round() / 10, target


def pairs(values: np.ndarray, positive: np.ndarray) -> float:
    """Share of pairs of a positive and a negative in which the positive scores higher; ties count one half."""
    both = list(itertools.product(values[positive], values[~positive]))
    return float(np.mean([(a > b) + 0.5 * (a == b) for a, b in both]))


def test_auc_is_the_share_of_ordered_pairs() -> None:
    probabilities, target = scores()
    truth = [pairs(probabilities[:, k].numpy(), target.numpy() == k) for k in range(K)]
    assert auc(probabilities, target).tolist() == pytest.approx(truth, abs=1e-6)
    assert all(0.55 < value < 0.99 for value in truth)


def test_auc_needs_probabilities_and_not_decisions() -> None:
    probabilities, target = scores()
    hard = torch.nn.functional.one_hot(probabilities.argmax(dim=1), K).float()
    assert (auc(probabilities, target) - auc(hard, target)).abs().max() > 0.03


def test_a_class_that_is_absent_or_alone_has_no_auc() -> None:
    probabilities, target = scores()
    found = auc(probabilities, target.clamp(max=1))
    assert math.isnan(found[2])
    assert torch.isfinite(found[:2]).all()
    assert auc(probabilities, torch.zeros(N, dtype=torch.int64)).isnan().all()


def test_confusion_and_accuracy_by_hand() -> None:
    target = torch.tensor([0, 0, 0, 0, 1, 1, 3])
    predicted = torch.tensor([0, 0, 0, 2, 1, 0, 2])
    assert confusion(predicted, target, 4).tolist() == [[3, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]]
    shares = class_accuracy(predicted, target, 4).tolist()
    assert shares[:2] == [0.75, 0.5]
    assert math.isnan(shares[2])
    assert shares[3] == 0
    assert balanced_accuracy(predicted, target, 4) == pytest.approx((0.75 + 0.5 + 0) / 3)
