"""Quality and variety measures of ``stage=audit``, to compare with the privacy measures.

A new measure is a function that yields each ``Measure``, and an entry of ``QUALITY_MEASURES``.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from echodream.audit.embedding_sets import AuditSets
from echodream.audit.measure import ONE_SIDED_LEVEL, QUALITY, Measure
from echodream.errors import UserError
from echodream.metrics.bootstrap import clopper_pearson_interval
from echodream.privacy.attacks.collisions import collisions
from echodream.privacy.attacks.drift import Drift, drift
from echodream.privacy.attacks.fidelity import fidelity
from echodream.privacy.attacks.retrieval import retrieval

SHORTEST = 0.2
"""Share of recordings, of samples or of new patients, that may be too short for the measure of identity drift."""


def precision_recall_density_coverage(sets: AuditSets) -> Iterator[Measure]:
    """PRDC of samples; the expected value is the PRDC of equally many new patients."""
    count = min(len(sets.samples), len(sets.held_out))
    parts = (sets.samples.first_frames(), sets.held_out.first_frames())
    subsets = [part[np.random.default_rng([sets.seed, 2]).permutation(len(part))[:count]] for part in parts]
    neighbors = min(5, count - 1, len(sets.train) - 1)
    values, expected = (fidelity(part, sets.train.first_frames(), k=neighbors, seed=sets.seed) for part in subsets)
    means = {
        "precision": "share of samples that lie where training patients lie",
        "recall": "share of training patients who lie where samples lie",
        "density": "how densely training patients lie around a sample",
        "coverage": "share of training patients who have a sample nearby",
    }
    details = {"neighbours": neighbors, "samples": count}
    for name, text in means.items():
        yield Measure(name, QUALITY, text, "as much as new patients", values[name], expected[name], details=details)


def retrieved_patients(sets: AuditSets) -> Iterator[Measure]:
    """Image retrieval score by patient, and the share of training patients covered."""
    total = len(sets.train)
    patients = sets.nearest_training_patient(sets.samples).patient
    control = sets.nearest_training_patient(sets.held_out).patient
    subset = np.random.default_rng([sets.seed, 3]).permutation(len(patients))[: len(control)]
    parts = patients, patients[subset], control[: len(subset)]
    all_samples, as_many, new_patients = (retrieval(part, total) for part in parts)
    scores = {"all samples": asdict(all_samples), "as many samples as new patients": asdict(as_many)}
    yield Measure(
        "image retrieval score",
        QUALITY,
        "share of training patients who would be the nearest of some sample, with an unlimited number of samples",
        "as much as new patients (as many of both)",
        as_many.score,
        new_patients.score,
        details=scores,
    )
    yield Measure(
        "training patients covered",
        QUALITY,
        "share of training patients who are the nearest of some sample; it grows with the number of samples",
        "as much as new patients (as many of both)",
        clopper_pearson_interval(round(as_many.covered * total), total),
        clopper_pearson_interval(round(new_patients.covered * total), total),
        details={"all samples": all_samples.covered, "samples": all_samples.samples},
    )


def seed_collisions(sets: AuditSets) -> Iterator[Measure]:
    """Share of pairs of samples that show the same identity."""
    threshold = sets.same_patient_threshold()
    frames = sets.samples.first_frames(), sets.held_out.first_frames()
    samples, new_patients = (collisions(part, threshold, sets.similarity) for part in frames)
    yield Measure(
        "collisions between seeds",
        QUALITY,
        "probability that two samples show one identity, by a threshold that different patients rarely reach",
        f"about {sets.far:g}, as two different patients",
        samples.pairs,
        new_patients.pairs,
        samples.pairs.low > new_patients.pairs.high,
        {"threshold": threshold, "samples that collide": samples.samples, "identities": samples.identities},
    )


def identity_drift(sets: AuditSets) -> Iterator[Measure]:
    """Share of samples whose frames do not all show the same patient."""
    lengths = [np.array([len(part) for part in sets_.sequences]) for sets_ in (sets.samples, sets.held_out)]
    if lengths[0].max() < 2:
        raise UserError("every sample has a single frame")
    if lengths[1].max() < 2:
        raise UserError("no held-out patient has a recording of two frames to compare with")
    options: dict[str, Any] = {"similarity": sets.similarity, "seed": sets.seed}
    threshold = sets.same_patient_threshold()
    frames = int(min(np.quantile(part[part > 1], SHORTEST, method="lower") for part in lengths))
    parts = [
        [rows[:frames] for rows in part.sequences if len(rows) >= frames] for part in (sets.samples, sets.held_out)
    ]
    samples, new_patients = (drift(part, threshold=threshold, **options) for part in parts)
    assert samples.lost is not None
    assert new_patients.lost is not None
    lost = [
        (round(share.value * len(part)), len(part))
        for share, part in zip((samples.lost, new_patients.lost), parts, strict=True)
    ]
    p_value = _fisher(*lost)
    details = {"threshold": threshold, "samples": _drift_curves(samples), "new patients": _drift_curves(new_patients)}
    left_out = {
        name: len(part) - len(kept)
        for name, part, kept in zip(("samples", "new patients"), lengths, parts, strict=True)
    }
    yield Measure(
        "identity lost along a sample",
        QUALITY,
        f"share of samples with a frame, of {frames} each, that is not recognized as the patient of the first frame, "
        "by the same threshold",
        "as much as recordings of new patients",
        samples.lost,
        new_patients.lost,
        p_value <= ONE_SIDED_LEVEL,
        {**details, "p_value": p_value, "frames": frames, "shorter, left out": left_out},
    )


def _fisher(samples: Sequence[int], controls: Sequence[int]) -> float:
    """One-sided p-value of Fisher's exact test: the share of ``samples``, (hits, total), is above ``controls``."""
    from scipy.stats import fisher_exact

    table = [[hits, total - hits] for hits, total in (samples, controls)]
    return float(fisher_exact(table, alternative="greater")[1])


def _drift_curves(result: Drift) -> dict[str, Any]:
    """Similarity to the first frame, by frame, for the record."""
    curves = {name: [float(value) for value in getattr(result, name)] for name in ("curve", "low", "high")}
    return {**curves, "last": asdict(result.last), "step": asdict(result.step)}


QUALITY_MEASURES: dict[str, Callable[[AuditSets], Iterator[Measure]]] = {
    "precision, recall, density, coverage": precision_recall_density_coverage,
    "image retrieval score": retrieved_patients,
    "collisions between seeds": seed_collisions,
    "identity drift": identity_drift,
}
"""Measures in the embedding space of the identity network."""
