"""Multilabel metrics compared with scikit-learn on the rows where each label is known."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from echodream.metrics.bootstrap import bootstrap_weights
from echodream.metrics.classification import known_labels, multilabel_metrics, multilabel_patients

NAMES = ["edema", "fracture", "half", "never"]
N = 60


def given() -> tuple[np.ndarray, np.ndarray]:
    """Scores with ties, and soft labels: label 0 includes NaN, label 2 includes 0.5, label 3 is always 0."""
    rng = np.random.default_rng(0)
    scores = np.round(rng.random((N, 4)), 1)
    target = rng.integers(0, 2, (N, 4)).astype(np.float64)
    target[rng.random(N) < 0.3, 0] = np.nan
    target[:, 2] = rng.choice([0.1, 0.5, 0.9, np.nan], N)
    target[:, 3] = 0
    return scores, target


def test_each_label_equals_scikit_learn_on_its_known_rows() -> None:
    scores, target = given()
    found = multilabel_metrics(scores, target, NAMES)
    for name, reference in (("auc", roc_auc_score), ("average_precision", average_precision_score)):
        each = []
        for k in range(3):
            rows = np.isfinite(target[:, k]) & (target[:, k] != 0.5)
            each.append(reference(target[rows, k] > 0.5, scores[rows, k]))
            assert found[f"{name}_{NAMES[k]}"][0] == pytest.approx(each[-1], abs=1e-12)
        assert np.isnan(found[f"{name}_never"][0])
        assert found[name][0] == pytest.approx(np.mean(each), abs=1e-12)


def test_weights_equal_repeated_rows() -> None:
    scores, target = given()
    weights = bootstrap_weights([f"p{row // 4}" for row in range(N)], repeats=3, seed=1)
    found = multilabel_metrics(scores, target, NAMES, weights)
    for number, weight in enumerate(weights):
        rows = np.repeat(np.arange(N), weight.astype(int))
        again = multilabel_metrics(scores[rows], target[rows], NAMES)
        for name, values in found.items():
            np.testing.assert_allclose(values[number], again[name][0], atol=1e-12, err_msg=name)


def test_an_unknown_label_has_no_metrics() -> None:
    scores, target = given()
    target[:, 1] = np.nan
    target[:, 2] = 0.5
    found = multilabel_metrics(scores, target, NAMES)
    assert np.isnan([found[f"auc_{name}"][0] for name in ("fracture", "half", "never")]).all()
    assert found["auc"][0] == found["auc_edema"][0]
    assert np.isnan(multilabel_metrics(scores[:, 3:], target[:, 3:], ["never"])["auc"][0])


def test_patient_counts_are_those_of_the_smaller_class() -> None:
    target = np.array([[1, 0.9], [1, 0.2], [0, np.nan], [0, 0.5], [0, 0]])
    patients = np.array(["a", "a", "b", "c", "d"])
    assert multilabel_patients(target, ["x", "y"], patients) == {"auc_x": 1, "auc_y": 1, "auc": 1}
    assert multilabel_patients(1 - target[:, :1], ["x"], patients)["auc_x"] == 1
    assert multilabel_patients(np.array([[1], [1], [0], [0], [0]]), ["x"], np.arange(5)) == {"auc_x": 2, "auc": 2}
    assert multilabel_patients(np.zeros((2, 1)), ["x"], np.arange(2)) == {"auc_x": 0, "auc": 0}
    rows, positive = known_labels(target[:, 1])
    assert rows.tolist() == [True, True, False, False, True]
    assert positive.tolist() == [True, False, False]
