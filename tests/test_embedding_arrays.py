"""Filter, audit and fidelity metrics of arrays: planted copies are found; the stages give the same numbers."""

from typing import Any

import numpy as np
import pytest
import torch

import echodream
from echodream.auditing.embedding_sets import AuditSets
from echodream.auditing.leakage import closeness_to_training
from echodream.embedding_arrays import _embedding_set
from echodream.errors import UserError
from echodream.metrics.frechet import frechet_estimate
from echodream.privacy.certification import PatientScores
from echodream.privacy.rules import Calibrated, Evidence

D = 24
COPIED = (3, 17, 40)
"""Training patients that three of the samples copy."""


def people(count: int, seed: int, frames: int = 1) -> np.ndarray:
    """Random embeddings of unrelated people, float32 (n, f, D); frames of one person are similar."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(count, 1, D)) + 0.1 * rng.normal(size=(count, frames, D))).astype(np.float32)


def planted() -> dict[str, Any]:
    """60 training patients, 19 new patients, 30 samples including 3 copies, and control copies by two transforms."""
    training = people(60, 1)[:, 0]
    samples = people(30, 2, frames=2)
    samples[[4, 9, 22], 1] = training[[*COPIED]] * 2
    rng = np.random.default_rng(3)
    controls = {name: training + rng.normal(size=training.shape) * 0.01 * scale for scale, name in enumerate("ab", 1)}
    return {"samples": samples, "training": training, "calibration": people(19, 4, frames=2), "controls": controls}


def cosine(samples: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Maximum cosine similarity of each sample, (n, f, D), over frames and references: (n,), computed in float64."""
    x, y = (part / np.linalg.norm(part, axis=-1, keepdims=True) for part in map(np.float64, (samples, references)))
    return (x @ y.T).max(axis=(1, 2))


def test_the_filter_rejects_planted_copies_and_says_of_whom() -> None:
    given = planted()
    result = echodream.filter(**given, alpha=0.05, beta=0.05, choose=0)
    assert result.decision.passed
    table = result.table
    assert not table["Kept"][[4, 9, 22]].any()
    assert table["NearestPatient"][[4, 9, 22]].tolist() == ["3", "17", "40"]
    expected = cosine(given["samples"], given["training"])
    np.testing.assert_allclose(table["Score"], expected, atol=1e-6)
    new = cosine(given["calibration"], given["training"])
    np.testing.assert_allclose(table["PValue"], [(1 + (new >= score).sum()) / 20 for score in expected])
    assert np.array_equal(result.kept, expected < result.decision.tau)
    assert "of 30 samples pass. A copy of" in str(result) or "pass" in str(result)
    assert "<table" in result._repr_html_()


def test_the_decision_is_that_of_the_rule() -> None:
    given = planted()
    names = [f"P{row:02}" for row in range(60)]
    shown = echodream.filter(**given, patients=names, report_only={"c": (given["training"][:7], names[:7])}, seed=5)
    scores = {key: cosine(part[:, None], given["training"]) for key, part in given["controls"].items()}
    evidence = Evidence(
        calibration=PatientScores(cosine(given["calibration"], given["training"]), np.arange(19)),
        controls={key: PatientScores(np.float32(part), np.array(names)) for key, part in scores.items()},
        copied_patients=60,
    )
    expected = Calibrated(seed=5).decide(evidence)
    assert shown.decision.passed is expected.passed is False  # 30 patients are too few to certify a beta of 5 %
    assert shown.decision.statement == expected.statement
    assert shown.decision.sizes == expected.sizes
    assert not shown.kept.any()


def test_without_copies_no_sample_passes() -> None:
    result = echodream.filter(**{**planted(), "controls": {}})
    assert not result.kept.any()
    assert not result.decision.passed


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"alhpa": 0.1}, "setting is 'alhpa': choose one of alpha, beta"),
        ({"alpha": 2}, r"rule\.alpha is 2"),
        ({"samples": [1, 2]}, "samples is a list: give a numpy array or a tensor"),
        ({"samples": np.zeros((0, D))}, "samples has the shape"),
        ({"training": people(60, 1)}, "training has the shape"),
        ({"patients": ["a"]}, "patients: 1 names for 60 rows"),
        ({"controls": {"a": people(3, 1)[:, 0]}}, r"controls\.a: 60 names for 3 rows"),
        ({"controls": {"a": (people(1, 1)[:, 0], ["stranger"])}}, "a copy of stranger, who is not in patients="),
        ({"similarity": "manhattan"}, "similarity='manhattan' is not known"),
    ],
)
def test_a_mistake_in_the_arrays_is_one_sentence(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        echodream.filter(**{**planted(), **changes})


@pytest.mark.slow
def test_the_audit_finds_copies_and_is_silent_without_them() -> None:
    training, new = people(60, 1, frames=2), people(40, 2, frames=2)
    honest, copies = people(50, 3, frames=2), training[np.arange(50) % 60] + people(50, 9, frames=2) * 0.02
    tables = [echodream.audit(torch.from_numpy(samples), training, new) for samples in (honest, copies)]
    private = [table[table["about"] == "privacy"] for table in tables]
    assert not private[0]["stands_out"].any()
    assert private[1]["stands_out"].sum() >= 3
    name = "nearest in training (DCR)"
    sets = (_embedding_set(key, part, "cosine") for key, part in zip("abc", (copies, training, new), strict=True))
    measure = next(closeness_to_training(AuditSets(*sets, "cosine", 0, 0.01, None)))
    assert tables[1].loc[name, ["value", "low", "high"]].tolist() == [
        measure.value.value,
        measure.value.low,
        measure.value.high,
    ]
    assert "does not prove privacy" in tables[0].attrs["statement"]


def test_an_audit_of_single_frames_names_what_it_cannot_measure() -> None:
    table = echodream.audit(people(30, 3)[:, 0], people(40, 1)[:, 0], people(20, 2)[:, 0])
    assert "linkability" in table.attrs["not measured"]
    assert "nearest in training (DCR)" in table.index


@pytest.mark.slow
def test_fidelity_metrics_are_those_of_the_same_number_of_rows() -> None:
    rng = np.random.default_rng(0)
    real, floor, synthetic = rng.normal(size=(80, 5)), rng.normal(size=(60, 5)), rng.normal(size=(60, 5)) + 3
    table = echodream.evaluate(synthetic, real[:60], floor, neighbours=4)
    expected = frechet_estimate(synthetic, real[:60]).value
    assert table.loc["frechet", "value"] == expected
    assert table.loc["frechet", "value"] > 20 * table.loc["frechet", "floor"]
    assert table.loc["frechet", "floor_low"] <= table.loc["frechet", "floor"] <= table.loc["frechet", "floor_high"]
    assert table.loc["frechet", "better"] == "lower"
    assert table.loc["coverage", "value"] < 0.2
    chosen = np.sort(np.random.default_rng(0).permutation(80)[:60])
    larger = echodream.evaluate(synthetic, real, floor, real_units=range(80))
    assert larger.equals(echodream.evaluate(synthetic, real[chosen], floor, real_units=chosen))
    with pytest.raises(UserError, match="1 rows of features"):
        echodream.evaluate(synthetic[:1], real, floor)
