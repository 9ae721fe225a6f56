"""The Frechet distance compared with closed forms, scipy's matrix square root, and torchmetrics."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from echodream.metrics.bootstrap import SamplingUnits, influence_interval
from echodream.metrics.frechet import frechet_estimate


def features(count: int, dimensions: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    """Correlated features with a random mean."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(dimensions, dimensions))
    return rng.normal(size=(count, dimensions)) @ mixing * scale + rng.normal(size=dimensions)


def by_sqrtm(x: np.ndarray, y: np.ndarray) -> float:
    s, t = np.cov(x.T), np.cov(y.T)
    means = ((x.mean(axis=0) - y.mean(axis=0)) ** 2).sum()
    return float(means + np.trace(s + t - 2 * sqrtm(s @ t).real))


@pytest.mark.parametrize(("n", "m", "d"), [(40, 31, 5), (6, 90, 5), (2, 3, 1)])
def test_frechet_distance_equals_scipy(n: int, m: int, d: int) -> None:
    x, y = features(n, d), features(m, d, seed=1, scale=1.7)
    x, y = x.reshape(n, d), y.reshape(m, d)
    if d > 1:
        assert frechet_estimate(x, y).value == pytest.approx(by_sqrtm(x, y), rel=1e-8)
    else:  # one dimension: closed form for two normal distributions
        truth = (x.mean() - y.mean()) ** 2 + (x.std(ddof=1) - y.std(ddof=1)) ** 2
        assert frechet_estimate(x, y).value == pytest.approx(truth)


def test_frechet_distance_equals_torchmetrics() -> None:
    from torchmetrics.image.fid import _compute_fid

    x, y = features(50, 7), features(44, 7, seed=3)
    parts = [torch.from_numpy(part) for side in (x, y) for part in (side.mean(axis=0), np.cov(side.T))]
    assert frechet_estimate(x, y).value == pytest.approx(float(_compute_fid(*parts)), rel=1e-5)


def test_few_samples_of_many_features_are_exact() -> None:
    """Six samples with 3 features keep their Frechet distance after a rotation into 40 dimensions."""
    x, y = features(6, 3), features(5, 3, seed=1)
    rotation = np.linalg.qr(np.random.default_rng(2).normal(size=(40, 40)))[0][:3]
    assert frechet_estimate(x @ rotation, y @ rotation).value == pytest.approx(by_sqrtm(x, y), rel=1e-9)
    apart = np.zeros((5, 40))
    apart[:, 20:] = features(5, 20, seed=4)
    first = np.zeros((6, 40))
    first[:, :20] = features(6, 20)
    truth = first.var(axis=0, ddof=1).sum() + apart.var(axis=0, ddof=1).sum()  # the two sets vary in different features
    truth += ((first.mean(axis=0) - apart.mean(axis=0)) ** 2).sum()
    assert frechet_estimate(first, apart).value == pytest.approx(truth, rel=1e-9)


def test_many_samples_reach_the_distance_of_the_gaussians() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200_000, 2)) * [1.0, 2.0]
    y = rng.normal(size=(200_000, 2)) * [3.0, 2.0] + [1.0, -1.0]
    assert frechet_estimate(x, y).value == pytest.approx(1 + 1 + 4, rel=0.02)


def test_equal_sets_have_distance_zero_at_any_scale() -> None:
    for count in (4, 100):
        x = features(count, 9) * 1e3
        assert 0 <= frechet_estimate(x, x).value < 1e-6 * (x**2).sum()
        assert frechet_estimate(x, x[::-1] + 2.0).value == pytest.approx(9 * 4, rel=1e-6)


def test_float32_is_converted_to_float64() -> None:
    x, y = features(30, 4) + 1e4, features(30, 4, seed=1) + 1e4
    x, y = x.astype(np.float32), y.astype(np.float32)
    assert frechet_estimate(x, y).value == pytest.approx(by_sqrtm(x.astype(float), y.astype(float)), rel=1e-6)


SHAPES = [(40, 31, 5), (6, 8, 12), (9, 40, 12)]


def weighted(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> float:
    """Frechet distance with weights ``w`` for the rows of ``x``; the weights sum to 1."""
    mean = w @ x
    centred = (x - mean) * np.sqrt(w * len(x) / (len(x) - 1))[:, None]
    cross = centred @ ((y - y.mean(axis=0)) / np.sqrt(len(y) - 1)).T
    overlap = np.linalg.svd(cross, compute_uv=False).sum()
    means = ((mean - y.mean(axis=0)) ** 2).sum()
    return float(means + (centred**2).sum() + y.var(axis=0, ddof=1).sum() - 2 * overlap)


@pytest.mark.parametrize(("n", "m", "d"), SHAPES)
def test_influences_are_derivatives_by_sample_weights(n: int, m: int, d: int) -> None:
    x, y = features(n, d), features(m, d, seed=1, scale=1.7)
    found, step = frechet_estimate(x, y), 1e-5
    for k in (0, 3, n - 1):
        moved = [weighted(x, y, np.full(n, (1 - s) / n) + s * (np.arange(n) == k)) for s in (-step, step)]
        assert found.x[k] == pytest.approx((moved[1] - moved[0]) / (2 * step), rel=1e-3, abs=1e-3)
        assert frechet_estimate(y, x).y[k] == pytest.approx(found.x[k])
    assert found.x.mean() == pytest.approx(0, abs=1e-9)
    assert (len(found.x), len(found.y)) == (n, m)


def test_interval_width_matches_the_spread_of_new_samples() -> None:
    rng = np.random.default_rng(0)

    def draw() -> tuple[np.ndarray, np.ndarray]:
        return rng.normal(size=(150, 4)) * [1, 2, 1, 3] + [1, 0, 0, 0], rng.normal(size=(120, 4))

    values = [frechet_estimate(*draw()).value for _ in range(120)]
    widths = []
    for _ in range(12):
        found = influence_interval(
            frechet_estimate(*draw()), SamplingUnits(np.arange(150)), SamplingUnits(np.arange(120))
        )
        assert found.low < found.value < found.high
        widths.append(found.high - found.low)
    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.std(values), rel=0.25)


@pytest.mark.parametrize("wrong", [np.zeros((5, 3)), np.zeros((1, 4)), np.zeros(4), np.full((5, 4), np.nan)])
def test_invalid_features_are_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"features are"):
        frechet_estimate(wrong, features(5, 4))
