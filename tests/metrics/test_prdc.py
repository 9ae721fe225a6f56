"""Precision, recall, density and coverage compared with the equations of Naeem et al. and with the audit."""

import numpy as np
import pytest
import torch

from echodream.metrics.bootstrap import SamplingUnits, influence_interval
from echodream.metrics.mmd import DotProducts
from echodream.metrics.prdc import prdc_estimates, squared_radii
from echodream.privacy.attacks.embedding_prdc import prdc_intervals

N, M, D = 23, 17, 3
NAMES = ("precision", "recall", "density", "coverage")


def sides() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(N, D)) * 0.9 + 1.1, rng.normal(size=(M, D))


def brute(x: np.ndarray, y: np.ndarray, k: int) -> dict[str, float]:
    """Equations 2, 3, 5 and 6 of Naeem et al., with loops over all pairs."""
    ball = [np.sort([np.linalg.norm(a - b) for b in x])[k] for a in x]
    balls = [np.sort([np.linalg.norm(a - b) for b in y])[k] for a in y]
    d = [[np.linalg.norm(a - b) for b in y] for a in x]
    return {
        "precision": np.mean([any(d[i][j] < balls[j] for j in range(M)) for i in range(N)]),
        "recall": np.mean([any(d[i][j] < ball[i] for i in range(N)) for j in range(M)]),
        "density": np.mean([sum(d[i][j] < balls[j] for j in range(M)) / k for i in range(N)]),
        "coverage": np.mean([any(d[i][j] < balls[j] for i in range(N)) for j in range(M)]),
    }


@pytest.mark.parametrize("k", [1, 4])
def test_prdc_equals_the_paper_and_the_audit(k: int) -> None:
    x, y = sides()
    found, truth = prdc_estimates(*DotProducts.from_features(x, y).squared_distances(), k), brute(x, y, k)
    audited = prdc_intervals(torch.from_numpy(x), torch.from_numpy(y), k=k)
    assert tuple(found) == NAMES
    for name, value in truth.items():
        assert found[name].value == pytest.approx(value), name
        assert audited[name].value == pytest.approx(value), name
    assert len({round(value, 6) for value in truth.values()}) == 4


def test_precision_needs_several_samples_and_recall_several_patients() -> None:
    x, y = sides()
    found = prdc_estimates(*DotProducts.from_features(x, y).squared_distances(), 2)
    for name, own in (("precision", N), ("density", N), ("recall", M), ("coverage", M)):
        together = influence_interval(found[name], *(SamplingUnits(np.arange(n) * (n != own)) for n in (N, M)))
        assert np.isnan(together.low), name
        ends = influence_interval(found[name], SamplingUnits(np.arange(N)), SamplingUnits(np.arange(M)))
        assert 0 <= ends.low < ends.value < ends.high, name
        assert ends.high <= 1 or name == "density"


@pytest.mark.slow
def test_interval_width_matches_the_spread_of_the_metric() -> None:
    """The standard deviation of each metric over new random sets matches the width of the interval."""
    rng, units = np.random.default_rng(3), SamplingUnits(np.arange(60))
    values: dict[str, list[float]] = {name: [] for name in NAMES}
    widths: dict[str, list[float]] = {name: [] for name in NAMES}
    for seed in range(60):
        x, y = rng.normal(size=(60, 6)) * 0.8 + 0.7, rng.normal(size=(60, 6))
        for name, found in prdc_estimates(*DotProducts.from_features(x, y).squared_distances(), 5).items():
            ends = influence_interval(found, units, units, seed)
            values[name].append(found.value)
            widths[name].append((ends.high - ends.low) / 2 / 1.96)
    for name in NAMES:
        assert 0.75 < np.mean(widths[name]) / np.std(values[name]) < 1.4, name


def test_influence_of_the_other_set_equals_leaving_a_row_out() -> None:
    x, y = sides()
    within, between, others = DotProducts.from_features(x, y).squared_distances()
    found = prdc_estimates(within, between, others, 2)
    inside, balls = between < squared_radii(others, 2)[None], between < squared_radii(within, 2)[:, None]
    less = {
        "precision": [inside.any(1).mean() - np.delete(inside, j, 1).any(1).mean() for j in range(M)],
        "recall": [balls.any(0).mean() - np.delete(balls, i, 0).any(0).mean() for i in range(N)],
        "coverage": [inside.any(0).mean() - np.delete(inside, i, 0).any(0).mean() for i in range(N)],
        "density": [inside[:, j].sum() / N / 2 for j in range(M)],
    }
    for name, lost in less.items():
        influence = found[name].y if len(lost) == M else found[name].x
        assert np.any(influence), name
        assert influence == pytest.approx(len(lost) * (np.array(lost) - np.mean(lost))), name


def test_a_proportion_of_1_has_the_exact_interval() -> None:
    near = np.random.default_rng(0).normal(size=(N, D)) * 0.01
    found = prdc_estimates(
        *DotProducts.from_features(near, np.concatenate([near + 0.001, near[:5]])).squared_distances(), 4
    )
    ends = influence_interval(found["precision"], SamplingUnits(np.arange(N)), SamplingUnits(np.arange(N + 5)))
    assert (ends.value, ends.high) == (1.0, 1.0)
    assert ends.low == pytest.approx(0.025 ** (1 / N))


def test_a_row_is_not_its_own_neighbor() -> None:
    x = np.array([[0.0], [1.0], [3.0], [7.0]])
    within = DotProducts.from_features(x, x).squared_distances()[0]
    assert squared_radii(within, 1).tolist() == [1, 1, 4, 16]
    assert squared_radii(within, 2).tolist() == [9, 4, 9, 36]


@pytest.mark.parametrize("k", [0, 17])
def test_more_neighbors_than_rows_are_refused(k: int) -> None:
    with pytest.raises(ValueError, match=rf"k={k} neighbors need more than {k} rows"):
        prdc_estimates(*DotProducts.from_features(*sides()).squared_distances(), k)
