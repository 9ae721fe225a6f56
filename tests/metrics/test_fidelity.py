"""Table of fidelity metrics: equal sample counts, and a floor computed from real sets alone."""

from dataclasses import replace

import numpy as np
import pytest

from echodream.metrics.bootstrap import SamplingUnits
from echodream.metrics.fidelity import METRICS, Features, average_subsets, compare_features, fidelity_metric
from echodream.metrics.frechet import frechet_estimate
from echodream.metrics.mmd import DotProducts, gaussian_mmd, polynomial_mmd

N, D = 20, 4


def side(seed: int, shift: float = 0.0, count: int = N) -> Features:
    rows = np.random.default_rng(seed).normal(size=(count, D)) + shift
    return Features(rows, SamplingUnits(np.array([f"p{k // 2}" for k in range(count)])))


def test_the_floor_compares_train_with_test() -> None:
    synthetic, test, train = side(0, 1.5), side(1), side(2)
    found = compare_features(synthetic, test, train)
    assert set(found) == {name for name, metric in METRICS.items() if metric.input_kind == "features"}
    for which, other in (("value", synthetic), ("floor", train)):
        products = DotProducts.from_features(other.rows, test.rows)
        truth = {"frechet": frechet_estimate(other.rows, test.rows).value, "kernel": polynomial_mmd(products).value}
        truth |= {"rbf": gaussian_mmd(products).value, "quadratic": polynomial_mmd(products, 2, 0.0).value}
        for name, value in truth.items():
            assert getattr(found[name], which).value == pytest.approx(value), (which, name)
    for name, each in found.items():
        assert each.value.low <= each.value.value <= each.value.high, name
        worse = each.value.value - each.floor.value
        assert worse > 0 if METRICS[name].better == "lower" else worse < 0, name


@pytest.mark.slow
def test_intervals_are_over_patients() -> None:
    sides = [side(seed, 0.4 * seed) for seed in range(3)]
    doubled = [
        Features(np.repeat(each.rows, 4, axis=0), SamplingUnits(np.repeat(each.units.names, 4))) for each in sides
    ]
    alone = [Features(each.rows, SamplingUnits(np.arange(4 * N))) for each in doubled]
    by_patient, by_row = (compare_features(*given)["frechet"].value for given in (doubled, alone))
    assert by_patient.value == by_row.value
    assert by_patient.high - by_patient.low > 1.5 * (by_row.high - by_row.low)


def test_unequal_sample_counts_are_refused() -> None:
    """Distances depend on the number of samples: 2,000 videos cannot be compared with 655."""
    for short in range(3):
        sides = [side(seed, count=N - 1 if seed == short else N) for seed in range(3)]
        with pytest.raises(ValueError, match="use equal numbers"):
            compare_features(*sides)


def test_spectra_have_the_log_spectral_distance_alone() -> None:
    sides = [replace(each, rows=np.exp(each.rows), are_spectra=True) for each in (side(0), side(1), side(2))]
    assert set(compare_features(*sides)) == {"log_spectral"}


@pytest.mark.slow
def test_the_average_over_draws_has_their_spread() -> None:
    draws = [compare_features(side(seed, 0.5), side(seed + 9), side(seed + 18)) for seed in range(3)]
    values = [draw["frechet"].value for draw in draws]
    found = average_subsets(draws)["frechet"]
    assert found.spread == (min(each.value for each in values), max(each.value for each in values))
    assert found.value.low == pytest.approx(np.mean([each.low for each in values]))
    assert average_subsets(draws[:1]) == draws[0]


@pytest.mark.slow
def test_small_sets_use_fewer_neighbors() -> None:
    few = [side(seed, count=4) for seed in range(3)]
    found, wanted = compare_features(*few, k=5), compare_features(*few, k=3)
    assert found == wanted
    assert found != compare_features(*few, k=1)


@pytest.mark.parametrize(
    ("title", "name"),
    [("FID", "frechet"), ("FVD128", "frechet"), ("frechet[c]", "frechet"), ("KID", "kernel"), ("IS", "IS")],
)
def test_published_names_have_the_description_of_their_metric(title: str, name: str) -> None:
    assert fidelity_metric(title) is METRICS[name]
    assert fidelity_metric("class agreement") is None
