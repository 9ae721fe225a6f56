"""Disagreement of two networks: votes counted by hand, equal networks, and independent networks."""

import numpy as np
import pytest
from scipy import stats

from echodream.privacy.decision import disagreement


def test_votes_are_counted() -> None:
    scores = np.array([[0.9, 0.9, 0.1, 0.2, 0.5], [0.8, 0.1, 0.7, 0.1, 0.4]])
    found = disagreement(scores, 0.5)
    # the score of the fifth sample equals the threshold in the first network
    assert (found.samples, found.by_all, found.by_some) == (5, 1, 3)
    interval = stats.binomtest(3, 5).proportion_ci(0.95, "exact")
    assert (found.share.low, found.share.high) == pytest.approx((interval.low, interval.high))


def test_equal_networks_agree_and_independent_networks_disagree_as_often_as_chance_says() -> None:
    generator = np.random.default_rng(0)
    one, two = generator.uniform(size=(2, 4000))
    assert disagreement(np.stack([one, one]), 0.9).by_some == 0
    found = disagreement(np.stack([one, two]), 0.9)
    assert found.share.low < 2 * 0.1 * 0.9 < found.share.high
