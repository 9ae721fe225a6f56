"""Metrics of weighted rows compared with scikit-learn and torchmetrics; intervals over patients."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from echodream.metrics.bootstrap import bootstrap_interval, bootstrap_weights, paired_ratio
from echodream.metrics.classification import (
    CALIBRATION_BINS,
    average_precision,
    binary_metrics,
    binary_patients,
    calibration_error,
    f1,
    multiclass_metrics,
    multiclass_patients,
    roc_auc,
    roc_curve,
    sensitivity,
    specificity,
)
from echodream.metrics.regression import regression_metrics

N, R, K = 41, 5, 3
NAMES = ["a", "b", "c"]


def rows(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities with ties, targets, and integer weights that include 0."""
    rng = np.random.default_rng(seed)
    positive = rng.random(N) < 0.4
    p = np.round(1 / (1 + np.exp(-(rng.normal(size=N) + 1.2 * positive - 0.5))), 1)
    return p, positive, rng.integers(0, 4, (R, N)).astype(float)


SKLEARN: dict[str, Any] = {
    "auc": lambda p, y, w: sk.roc_auc_score(y, p, sample_weight=w),
    "average_precision": lambda p, y, w: sk.average_precision_score(y, p, sample_weight=w),
    "sensitivity": lambda p, y, w: sk.recall_score(y, p >= 0.5, sample_weight=w),
    "specificity": lambda p, y, w: sk.recall_score(~y, p < 0.5, sample_weight=w),
    "balanced_accuracy": lambda p, y, w: sk.balanced_accuracy_score(y, p >= 0.5, sample_weight=w),
    "f1": lambda p, y, w: sk.f1_score(y, p >= 0.5, sample_weight=w),
}


@pytest.mark.parametrize("name", list(SKLEARN))
def test_binary_metrics_equal_scikit_learn(name: str) -> None:
    p, positive, weights = rows()
    truth = [SKLEARN[name](p, positive, row) for row in weights]
    assert binary_metrics(p, positive, weights)[name] == pytest.approx(truth)
    assert binary_metrics(p, positive)[name] == pytest.approx([SKLEARN[name](p, positive, None)])
    assert len({round(value, 6) for value in truth}) > 2


def test_calibration_error_equals_torchmetrics() -> None:
    rng = np.random.default_rng(1)
    p = rng.random(200)
    positive = rng.random(200) < p**2
    truth = binary_calibration_error(torch.tensor(p), torch.tensor(positive).int(), n_bins=CALIBRATION_BINS, norm="l1")
    assert binary_metrics(p, positive)["calibration_error"] == pytest.approx([float(truth)], abs=1e-6)
    assert float(truth) > 0.05
    shares = torch.randn(200, K, generator=torch.Generator().manual_seed(0)).mul(2).softmax(dim=1).double()
    target = torch.randint(0, K, (200,), generator=torch.Generator().manual_seed(1))
    whole = multiclass_calibration_error(shares, target, K, n_bins=CALIBRATION_BINS, norm="l1")
    found = multiclass_metrics(shares.numpy(), target.numpy(), NAMES)["calibration_error"]
    assert found == pytest.approx([float(whole)], abs=1e-6)


def test_weights_equal_copies_of_rows() -> None:
    p, positive, weights = rows(3)
    often = weights[0].astype(int)
    copies, truth = np.repeat(p, often), np.repeat(positive, often)
    for name, values in binary_metrics(p, positive, weights).items():
        assert values[0] == pytest.approx(binary_metrics(copies, truth)[name][0]), name


def test_auc_of_hard_decisions_differs() -> None:
    p, positive, weights = rows()
    hard = (p >= 0.5).astype(float)
    for of in (roc_auc, average_precision):
        assert np.abs(of(p, positive, weights) - of(hard, positive, weights)).max() > 0.03


def test_multiclass_metrics_are_one_vs_rest_and_means_skip_absent_classes() -> None:
    rng = np.random.default_rng(2)
    target = rng.integers(0, 2, N)  # the third class is absent
    shares = np.exp(rng.normal(size=(N, K)) + 1.5 * np.eye(K)[target])
    shares /= shares.sum(axis=1, keepdims=True)
    found = multiclass_metrics(shares, target, NAMES)
    each = [sk.roc_auc_score(target == k, shares[:, k]) for k in range(2)]
    assert [found["auc_a"][0], found["auc_b"][0]] == pytest.approx(each)
    assert np.isnan(found["auc_c"][0])
    assert found["auc"][0] == pytest.approx(np.mean(each))
    said = shares.argmax(axis=1)
    assert found["accuracy_b"][0] == pytest.approx((said == 1)[target == 1].mean())
    assert found["balanced_accuracy"][0] == pytest.approx(sk.recall_score(target, said, labels=[0, 1], average="macro"))
    assert found["specificity_a"][0] == pytest.approx((said != 0)[target != 0].mean())
    assert found["f1_a"][0] == pytest.approx(sk.f1_score(target == 0, said == 0))


def test_roc_curve_equals_scikit_learn() -> None:
    p, positive, _ = rows()
    across, up = roc_curve(p, positive)
    truth = sk.roc_curve(positive, p, drop_intermediate=False)
    assert across == pytest.approx(truth[0])
    assert up == pytest.approx(truth[1])
    assert sk.auc(across, up) == pytest.approx(roc_auc(p, positive)[0])


def test_undefined_metrics_are_nan() -> None:
    p, _, _ = rows()
    none, every = np.zeros(N, bool), np.ones(N, bool)
    assert np.isnan(roc_auc(p, none)).all()
    assert np.isnan(average_precision(p, none)).all()
    assert np.isnan(sensitivity(none, none)).all()
    assert np.isnan(specificity(every, every)).all()
    assert np.isnan(f1(every, none)).all()
    assert f1(none, every) == [0.0]
    assert np.isnan(calibration_error(p, every, np.zeros((1, N)))).all()


def test_regression_metrics_equal_scikit_learn() -> None:
    rng = np.random.default_rng(4)
    truth = rng.normal(55, 10, N)
    predicted, weights = truth + rng.normal(2, 5, N), rng.integers(0, 4, (R, N)).astype(float)
    found = regression_metrics(predicted, truth, weights)
    for row in range(R):
        w = weights[row]
        assert found["r2"][row] == pytest.approx(sk.r2_score(truth, predicted, sample_weight=w))
        assert found["mae"][row] == pytest.approx(sk.mean_absolute_error(truth, predicted, sample_weight=w))
        assert found["rmse"][row] ** 2 == pytest.approx(sk.mean_squared_error(truth, predicted, sample_weight=w))
    assert np.isnan(regression_metrics(predicted, np.full(N, 3.0))["r2"]).all()


def test_bootstrap_weights_resample_whole_patients() -> None:
    patients = ["p", "q", "p", "r", "p", "q", "s"]
    found = bootstrap_weights(patients, repeats=50, seed=3)
    assert found.shape == (51, 7)
    assert (found[0] == 1).all()
    assert (found[:, 0] == found[:, 2]).all()
    assert (found[:, 1] == found[:, 5]).all()
    each = found[1:, [0, 1, 3, 6]]
    assert (each.sum(axis=1) == 4).all()  # each resample has as many patients as the data
    assert (each[:, 0] != each[:, 1]).any()
    assert (bootstrap_weights(patients, 50, 3) == found).all()
    assert (bootstrap_weights(patients, 50, 4) != found).any()


@pytest.mark.slow
def test_coverage_needs_patients_as_units() -> None:
    """Each patient has six similar recordings: an interval with recordings as units is far too narrow."""
    rng, hits = np.random.default_rng(0), {"patient": 0, "recording": 0}
    for trial in range(200):
        level = rng.normal(size=30)
        values = np.repeat(level, 6) + 0.1 * rng.normal(size=180)
        for unit, names in (("patient", np.repeat(np.arange(30), 6)), ("recording", np.arange(180))):
            weights = bootstrap_weights(names, 200, trial)
            found = bootstrap_interval(weights @ values / weights.sum(axis=1))
            hits[unit] += found.low <= 0 <= found.high
    assert hits["patient"] >= 176  # expected: 190 of 200; fewer than 177 occurs once in 10,000 runs
    assert hits["recording"] < 140


def test_intervals_ignore_undefined_values() -> None:
    values = np.array([0.5, *np.linspace(0, 1, 101), np.nan, np.inf])
    found = bootstrap_interval(values, confidence=0.9)
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.05, 0.95))
    assert np.isnan(bootstrap_interval(np.array([np.nan, 1.0, 2.0])).low)
    assert np.isnan(bootstrap_interval(np.array([0.3, np.nan])).high)


def test_metrics_without_errors_have_the_exact_interval() -> None:
    from scipy.stats import binomtest

    for hits, patients in ((13, 13), (0, 7)):
        exact = binomtest(hits, patients).proportion_ci(0.95, "exact")
        found = bootstrap_interval(np.full(50, hits / patients), patients=patients)
        assert (found.low, found.high) == pytest.approx((exact.low, exact.high))
    assert bootstrap_interval(np.full(50, 0.5), patients=9).low == 0.5
    assert bootstrap_interval(np.array([1.0, 1.0, 0.9]), patients=9).low > 0.89
    assert bootstrap_interval(np.full(50, 1.0)).low == 1.0


def test_the_exact_interval_of_a_perfect_auc_covers() -> None:
    """True AUC .8, six patients per class: the lower bound for an observed AUC of 1 must be below .8."""
    rng, seen = np.random.default_rng(0), 0
    shift = 2**0.5 * 0.8416  # distance between the means of two normal scores with AUC .8
    low = bootstrap_interval(np.ones(10), patients=6).low
    for _ in range(2000):
        score = np.concatenate([rng.normal(shift, 1, 6), rng.normal(0, 1, 6)])
        seen += roc_auc(score, np.arange(12) < 6)[0] == 1
    assert 0 < seen / 2000 <= 0.8**6
    assert low == pytest.approx(0.025 ** (1 / 6))
    assert low < 0.8


def test_patient_counts_of_metrics() -> None:
    target, patients = np.array([0, 0, 1, 1, 2]), np.array(["p", "p", "q", "r", "s"])
    found = multiclass_patients(target, NAMES, patients)
    assert (found["accuracy_a"], found["specificity_a"], found["auc_b"], found["auc"]) == (1, 3, 2, 1)
    assert binary_patients(target == 1, patients) == {
        **{"auc": 2, "balanced_accuracy": 2},
        **{"sensitivity": 2, "specificity": 2},
    }


def test_ratios_are_paired_within_bootstrap_samples() -> None:
    """For two classifiers with nearly equal errors, the paired ratio has a narrower interval than an unpaired ratio."""
    rng = np.random.default_rng(5)
    positive = np.arange(60) % 2 == 0
    p = positive + 1.2 * rng.normal(size=60)
    weights = bootstrap_weights(np.arange(60), 300, 0)
    one, same = roc_auc(p, positive, weights), roc_auc(p + 0.01 * rng.normal(size=60), positive, weights)
    paired, apart = bootstrap_interval(paired_ratio(same, one)), bootstrap_interval(paired_ratio(same, one[::-1]))
    assert paired.high - paired.low < 0.3 * (apart.high - apart.low)
    assert np.isnan(paired_ratio(np.array([1.0, 2.0]), np.array([0.0, -1.0]))).all()
