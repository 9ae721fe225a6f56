"""Linkability, membership, retrieval, collisions, drift and intervals, compared with planted truth and brute force."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from echodream.errors import UserError
from echodream.metrics.bootstrap import (
    Interval,
    bootstrap_mean,
    bootstrap_statistic,
    clopper_pearson_interval,
    wilson_interval,
)
from echodream.metrics.classification import auc_interval
from echodream.privacy.attacks.collisions import collisions
from echodream.privacy.attacks.drift import drift
from echodream.privacy.attacks.linkability import linkability, residual_risk
from echodream.privacy.attacks.membership import combine_noise_levels, membership, tpr_at_fpr
from echodream.privacy.attacks.retrieval import occupancy, retrieval


def normal(rows: int, seed: int, width: int = 6) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def auc(members: np.ndarray, others: np.ndarray) -> float:
    return auc_interval(members, others).value


def test_shares_are_scipys() -> None:
    for hits, trials in ((0, 17), (5, 40), (12, 12)):
        test = stats.binomtest(hits, trials)
        exact, score = test.proportion_ci(0.9, method="exact"), test.proportion_ci(0.9, method="wilson")
        found, other = clopper_pearson_interval(hits, trials, 0.9), wilson_interval(hits, trials, 0.9)
        assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=1e-9)
        assert (other.low, other.high) == pytest.approx((score.low, score.high), abs=1e-9)
        assert (found.value, other.value) == pytest.approx((hits / trials, (other.low + other.high) / 2))


def test_the_bootstrap_draws_whole_patients() -> None:
    """Ten patients with 30 equal rows each: the interval is as wide as for ten values, not for 300."""
    values = np.random.default_rng(0).normal(size=10)
    rows, groups = np.repeat(values, 30), np.repeat(np.arange(10), 30)
    found = bootstrap_mean(rows, groups.tolist(), repeats=4000)
    assert found.value == pytest.approx(values.mean())
    half = 1.96 * values.std() / math.sqrt(10)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.12)
    assert (found.low + found.high) / 2 == pytest.approx(values.mean(), abs=0.1)


@pytest.mark.slow
def test_the_bootstrap_covers() -> None:
    generator, hits = np.random.default_rng(1), 0
    for seed in range(300):
        x, y = generator.normal(1, 1, 40), generator.normal(0, 1, 60)
        found = bootstrap_statistic(lambda a, b: a.mean() - b.mean(), (x, y), repeats=200, seed=seed)
        hits += found.low <= 1 <= found.high
    assert 0.89 <= hits / 300 <= 0.98


def test_residual_risk_by_hand_and_by_simulation() -> None:
    found = residual_risk(Interval(0.5, 0.4, 0.6), Interval(0.2, 0.15, 0.25))
    assert found.value == pytest.approx(0.375)
    drawn = np.random.default_rng(0).normal([0.5, 0.2], [0.1, 0.05], (200_000, 2))
    spread = ((drawn[:, 0] - drawn[:, 1]) / (1 - drawn[:, 1])).std()
    assert found.high - 0.375 == pytest.approx(spread, rel=0.05)
    assert residual_risk(Interval(0.1, 0.0, 0.2), Interval(0.3, 0.2, 0.4)).value == 0
    with pytest.raises(UserError, match="every control patient"):
        residual_risk(Interval(1, 1, 1), Interval(1, 1, 1))


def test_linkability_finds_the_planted_half() -> None:
    """Samples copy both views of half of the 200 training patients; all other views are unrelated."""
    train, control = ((normal(200, seed), normal(200, seed + 1)) for seed in (0, 2))
    samples = tuple(
        torch.cat([view[:100] + 0.01 * normal(100, 9), normal(300, 5 + place)]) for place, view in enumerate(train)
    )
    found = linkability(train, control, samples)  # type: ignore[arg-type]
    assert found.attack.low < 0.5 < found.attack.high
    assert found.control.value < 0.05
    assert found.baseline == pytest.approx(1 / 400)
    assert 0.4 < found.risk.low < found.risk.value < found.risk.high < 0.6
    harmless = linkability(control, (normal(200, 7), normal(200, 8)), samples)  # type: ignore[arg-type]
    assert harmless.risk.low == 0
    assert harmless.risk.value < 0.03


def test_links_and_guesses_by_brute_force() -> None:
    train, control, samples = (
        tuple(normal(rows, 10 * rows + view, width) for view, width in enumerate((4, 3))) for rows in (17, 19, 13)
    )
    found = linkability(train, control, samples, neighbors=3)  # type: ignore[arg-type]
    for views, rate in ((train, found.attack), (control, found.control)):
        links = 0
        for row in range(len(views[0])):
            near = [set((samples[v] - views[v][row]).norm(dim=1).argsort()[:3].tolist()) for v in (0, 1)]
            links += bool(near[0] & near[1])
        assert rate == wilson_interval(links, len(views[0]))
    pairs = list(itertools.product(itertools.combinations(range(13), 3), repeat=2))
    assert found.baseline == pytest.approx(np.mean([bool(set(a) & set(b)) for a, b in pairs]))
    assert linkability(train, control, samples, neighbors=7).baseline == 1  # type: ignore[arg-type]


def test_auc_and_tpr_by_definition() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(0.5, 1, 37).round(1), generator.normal(0, 1, 210).round(1)
    assert auc(x, y) == pytest.approx(np.mean((x[:, None] > y) + 0.5 * (x[:, None] == y)))
    for fpr in (0.01, 0.1, 0.004):
        best = max((x > t).mean() for t in [*x, *y] if (y > t).mean() <= fpr)
        assert tpr_at_fpr(x, y, fpr) == pytest.approx(best)


def test_membership_is_of_patients() -> None:
    """Simulated scores of members and of other patients are normal with unit variance, and their means differ by 2.

    Each patient has four noisy records; their mean is the score of the patient, so each patient counts once.
    """
    generator, names = np.random.default_rng(0), np.repeat(np.arange(1200), 4)
    inside = names < 600
    level = generator.normal(size=1200)[names] * math.sqrt(0.75) + 2 * inside
    values = level + generator.normal(size=4800)
    found = membership(values, inside, names.tolist(), repeats=200)
    assert (found.members, found.others, found.resolved) == (600, 600, True)
    assert found.auc.low < stats.norm.cdf(2 / math.sqrt(2)) < found.auc.high
    assert found.tpr.low < stats.norm.sf(stats.norm.isf(0.01) - 2) < found.tpr.high
    order = generator.permutation(4800)
    again = membership(values[order], inside[order], names[order].tolist(), repeats=200)
    assert again.auc.value == found.auc.value
    few = membership(values[:2600], inside[:2600], names[:2600].tolist(), repeats=20)
    assert (few.others, few.resolved) == (50, False)


def test_membership_refuses_what_it_cannot_tell() -> None:
    with pytest.raises(UserError, match="both a member and not"):
        membership(np.array([1.0, 2.0]), np.array([True, False]), ["a", "a"])
    with pytest.raises(UserError, match="patients who were in training and"):
        membership(np.array([1.0, 2.0]), np.array([True, True]), ["a", "b"])
    with pytest.raises(UserError, match="NaN"):
        membership(np.array([1.0, math.nan]), np.array([True, False]), ["a", "b"])


def test_all_noise_levels_have_a_say() -> None:
    """Denoising errors at high noise levels are a thousand times larger and carry no information; errors at low noise
    levels separate members from non-members.
    """
    generator = np.random.default_rng(0)
    inside = np.arange(400) < 200
    errors = np.stack([generator.normal(1 - 1.5 * inside, 0.5), generator.normal(1000, 500, 400)], axis=1)
    scores = combine_noise_levels(errors)
    assert auc(scores[inside], scores[~inside]) > 0.75
    assert auc(-errors.mean(axis=1)[inside], -errors.mean(axis=1)[~inside]) < 0.6
    by_hand = [-np.mean([(row[k] - errors[:, k].mean()) / errors[:, k].std() for k in (0, 1)]) for row in errors]
    assert scores == pytest.approx(by_hand)
    # the scale of the errors of a noise level has no effect
    assert combine_noise_levels(errors * [7.0, 0.01] + 3) == pytest.approx(scores)
    assert (combine_noise_levels(np.ones((3, 2))) == 0).all()
    for broken in (np.ones(3), np.ones((0, 2)), np.full((2, 2), np.nan)):
        with pytest.raises(UserError, match="finite errors"):
            combine_noise_levels(broken)


def test_occupancy_by_enumeration() -> None:
    for size, draws in ((1, 3), (2, 4), (3, 4), (5, 3)):
        distinct = [len(set(drawn)) for drawn in itertools.product(range(size), repeat=draws)]
        mean, spread = occupancy(np.array([float(size)]), draws)
        assert mean[0] == pytest.approx(np.mean(distinct))
        assert spread[0] == pytest.approx(np.std(distinct), abs=1e-7)


@pytest.mark.parametrize("samples", [100, 400, 3000])
def test_the_retrieval_score_finds_the_share_that_is_retrievable(samples: int) -> None:
    """200 of 500 training images can be retrieved: the score is .4 for any number of samples."""
    generator, hits, scores = np.random.default_rng(samples), 0, []
    for _ in range(200):
        found = retrieval(generator.integers(200, size=samples), 500)
        scores.append(found.score.value)
        hits += found.score.low <= 0.4 <= found.score.high
    assert np.median(scores) == pytest.approx(0.4, abs=0.02)
    assert hits >= 180
    assert found.covered == pytest.approx(0.4 * (1 - (1 - 1 / 200) ** samples), abs=0.06)


def test_retrieval_counts_patients() -> None:
    found = retrieval(["a", "b", "a", "c"], 30)
    assert (found.covered, found.samples, found.total) == (0.1, 4, 30)
    with pytest.raises(UserError, match="3 distinct training images were retrieved of 2"):
        retrieval(["a", "b", "c"], 2)


def test_collisions_pair_by_pair() -> None:
    """Among forty samples, seven show one identity, three show a second identity, and all others differ."""
    x = normal(40, 0, 32)
    x[:7], x[7:10] = x[0] + 0.01 * normal(7, 1, 32), x[7] + 0.01 * normal(3, 2, 32)
    found = collisions(x, 0.9, block=11)
    rows = torch.nn.functional.normalize(x.double(), dim=1).numpy()
    pairs = [rows[i] @ rows[j] >= 0.9 for i, j in itertools.combinations(range(40), 2)]
    assert sum(pairs) == 21 + 3
    assert found.pairs.value == pytest.approx(np.mean(pairs))
    assert found.samples == 10 / 40
    assert found.identities == pytest.approx(780 / 24)
    jack = [
        np.mean([p for p, two in zip(pairs, itertools.combinations(range(40), 2), strict=True) if out not in two])
        for out in range(40)
    ]
    half = 1.96 * math.sqrt(39 / 40 * np.sum((np.array(jack) - np.mean(jack)) ** 2))
    assert found.pairs.high == pytest.approx(np.mean(pairs) + half, rel=1e-3)
    assert collisions(normal(40, 0, 32), 0.99).identities == math.inf


@pytest.mark.parametrize("similarity", ["cosine", "euclidean", "pearson"])
def test_a_sample_does_not_collide_with_itself(similarity: str) -> None:
    x = normal(9, 3)
    assert collisions(x, -1e-9 if similarity == "euclidean" else 0.99999, similarity, block=4).pairs.value == 0  # type: ignore[arg-type]


def turning(frames: int, degrees: float) -> Tensor:
    """Embeddings that rotate by ``degrees`` per frame: the similarity to the first frame is a cosine."""
    angle = torch.arange(frames) * math.radians(degrees)
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def test_drift_of_embeddings_that_turn() -> None:
    found = drift([turning(5, 10), turning(7, 20)], threshold=0.5)
    short, long_ = ([math.cos(math.radians(turn * frame)) for frame in range(7)] for turn in (10, 20))
    truth = [(a + b) / 2 for a, b in zip(short[:5], long_[:5], strict=True)] + long_[5:]
    assert found.curve == pytest.approx(truth, abs=1e-6)
    assert found.last.value == pytest.approx((short[4] + long_[6]) / 2, abs=1e-6)
    assert found.step.value == pytest.approx((short[1] + long_[1]) / 2, abs=1e-6)
    assert found.lost.value == 0.5  # one of two videos: the longer video ends at 120 degrees
    assert (found.low <= found.curve + 1e-12).all()
    assert (found.curve <= found.high + 1e-12).all()
    assert found.low[2] < found.high[2]


def test_drift_needs_a_video_of_two_frames() -> None:
    with pytest.raises(UserError, match="single frame"):
        drift([turning(1, 5)], threshold=0.5)
    with pytest.raises(UserError, match="at least one video"):
        drift([], threshold=0.5)
