"""Kernel distances compared with brute force and torchmetrics' KID."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from echodream.metrics.bootstrap import SamplingUnits, influence_interval
from echodream.metrics.mmd import DotProducts, gaussian_mmd, polynomial_mmd

N, M, D = 9, 7, 4


def features(count: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, D)) + shift


def brute(x: np.ndarray, y: np.ndarray, kernel: Callable[[np.ndarray, np.ndarray], float]) -> float:
    """Unbiased estimate over all pairs of different rows (Gretton et al. 2012, equation 3)."""
    within = [kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j]
    others = [kernel(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j]
    between = [kernel(a, b) for a in x for b in y]
    return float(np.mean(within) + np.mean(others) - 2 * np.mean(between))


def test_kernel_distance_by_brute_force() -> None:
    x, y = features(N, 0, 0.5), features(M, 1)
    products = DotProducts.from_features(x, y)
    cubic = brute(x, y, lambda a, b: (a @ b / D + 1) ** 3)
    assert polynomial_mmd(products).value == pytest.approx(cubic)
    assert polynomial_mmd(products, 2, 0.0).value == pytest.approx(brute(x, y, lambda a, b: (a @ b / D) ** 2))
    assert polynomial_mmd(DotProducts.from_features(y, x)).value == pytest.approx(cubic)


def test_the_width_of_the_gaussian_is_the_median_within_the_second_set() -> None:
    x, y = features(N, 0, 0.5), features(M, 1)
    width = np.median([((y[i] - y[j]) ** 2).sum() for i in range(M) for j in range(i)])
    truth = brute(x, y, lambda a, b: np.exp(-((a - b) ** 2).sum() / (2 * width)))
    assert gaussian_mmd(DotProducts.from_features(x, y)).value == pytest.approx(truth)
    assert gaussian_mmd(DotProducts.from_features(1000 * x, 1000 * y)).value == pytest.approx(truth)


def test_kernel_distance_equals_torchmetrics_kid() -> None:
    from torchmetrics.image.kid import poly_mmd

    x, y = features(N, 2, 0.3), features(N, 3)
    assert polynomial_mmd(DotProducts.from_features(x, y)).value == pytest.approx(
        float(poly_mmd(*map(torch.from_numpy, (y, x))))
    )


@pytest.mark.slow
def test_equal_distributions_have_mean_zero_and_covering_intervals() -> None:
    """Unbiased: the biased estimate also compares each row with itself and would have a mean of about 0.2."""
    values, inside = [], 0
    for seed in range(120):
        found = polynomial_mmd(DotProducts.from_features(features(30, 2 * seed), features(25, 2 * seed + 1)))
        values.append(found.value)
        ends = influence_interval(found, SamplingUnits(np.arange(30)), SamplingUnits(np.arange(25)))
        inside += ends.low <= 0 <= ends.high
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(120)
    assert inside >= 108


def test_influences_are_derivatives_by_row_weights() -> None:
    x, y = features(N, 0, 0.5), features(M, 1)
    found = polynomial_mmd(DotProducts.from_features(x, y))
    weights = np.random.default_rng(4).normal(size=N) * 1e-4
    k = [(a @ b.T / D + 1) ** 3 for a, b in ((x, x), (x, y))]
    np.fill_diagonal(k[0], 0)
    w = np.full(N, 1 / N) + weights - weights.mean()
    within = [v @ k[0] @ v * N / (N - 1) for v in (w, np.full(N, 1 / N))]
    between = [v @ k[1].mean(axis=1) for v in (w, np.full(N, 1 / N))]
    change = within[0] - within[1] - 2 * (between[0] - between[1])
    assert (found.x * (weights - weights.mean())).sum() == pytest.approx(change, rel=1e-2)
    assert polynomial_mmd(DotProducts.from_features(y, x)).y == pytest.approx(found.x)


@pytest.mark.parametrize("wrong", [np.zeros((5, 3)), np.zeros((1, 4)), np.zeros(4)])
def test_invalid_features_are_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"features are"):
        DotProducts.from_features(wrong, features(M, 0))
