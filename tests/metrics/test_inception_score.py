"""The inception score compared with torchmetrics and closed forms, also with weights."""

import numpy as np
import pytest
import torch

from echodream.metrics.inception_score import inception_score


def test_confident_balanced_predictions_score_k_and_a_single_class_scores_one() -> None:
    sure = 1e3 * np.eye(5)[np.arange(20) % 5]
    assert inception_score(sure).value == pytest.approx(5)
    assert inception_score(sure[:1].repeat(7, axis=0)).value == pytest.approx(1)
    assert inception_score(np.zeros((9, 5))).value == pytest.approx(1)


def test_inception_score_equals_torchmetrics_with_one_split() -> None:
    from torchmetrics.image.inception import InceptionScore

    scores = torch.from_numpy(np.random.default_rng(0).normal(size=(40, 6)) * 3)
    theirs = InceptionScore(feature=torch.nn.Identity(), splits=1)
    theirs.features = [scores]
    assert inception_score(scores.numpy()).value == pytest.approx(float(theirs.compute()[0]), rel=1e-6)


def test_influence_is_the_derivative_by_sample_weight() -> None:
    scores = np.random.default_rng(1).normal(size=(12, 4)) * 2
    found, step = inception_score(scores), 1e-6
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    for k in (0, 5):
        moved = []
        for s in (-step, step):
            w = np.full(12, (1 - s) / 12) + s * (np.arange(12) == k)
            moved.append(np.exp((w[:, None] * p * np.log(p / (w @ p))).sum()))
        assert found.x[k] == pytest.approx((moved[1] - moved[0]) / (2 * step), rel=1e-4)


@pytest.mark.parametrize("wrong", [np.zeros(4), np.zeros((1, 4)), np.full((3, 4), np.nan)])
def test_invalid_logits_are_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="logits are"):
        inception_score(wrong)
