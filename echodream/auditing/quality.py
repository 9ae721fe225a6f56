"""Quality and variety measures of ``stage=audit``, which complement the privacy measures."""

from collections.abc import Callable, Iterator
from dataclasses import asdict

import numpy as np

from echodream.auditing.embedding_sets import AuditSets
from echodream.auditing.measure import ONE_SIDED_LEVEL, QUALITY, Measure
from echodream.errors import UserError
from echodream.metrics.bootstrap import clopper_pearson_interval
from echodream.privacy.attacks.collisions import collisions
from echodream.privacy.attacks.drift import drift
from echodream.privacy.attacks.embedding_prdc import prdc_intervals
from echodream.privacy.attacks.retrieval import retrieval

MAX_SHORT_SHARE = 0.2
"""Maximum share of the sequences of two or more frames that identity drift leaves out because they are too short."""


def precision_recall_density_coverage(sets: AuditSets) -> Iterator[Measure]:
    """PRDC of samples; the expected value is the PRDC of equally many new patients."""
    count = min(len(sets.samples), len(sets.held_out))
    groups = (sets.samples.first_frames(), sets.held_out.first_frames())
    subsets = [frames[np.random.default_rng([sets.seed, 2]).permutation(len(frames))[:count]] for frames in groups]
    neighbors = min(5, count - 1, len(sets.train) - 1)
    values, expected = (
        prdc_intervals(frames, sets.train.first_frames(), k=neighbors, seed=sets.seed) for frames in subsets
    )
    definitions = {
        "precision": "share of samples in the neighborhood of a training patient",
        "recall": "share of training patients in the neighborhood of a sample",
        "density": "density of training patients around samples",
        "coverage": "share of training patients with a sample in their neighborhood",
    }
    details = {"neighbours": neighbors, "samples": count}
    for name, text in definitions.items():
        yield Measure(name, QUALITY, text, "the value of new patients", values[name], expected[name], details=details)


def retrieved_patients(sets: AuditSets) -> Iterator[Measure]:
    """Image retrieval score by patient, and the share of training patients covered."""
    total = len(sets.train)
    nearest = sets.nearest_training_patient(sets.samples).patient
    nearest_to_new = sets.nearest_training_patient(sets.held_out).patient
    subset = np.random.default_rng([sets.seed, 3]).permutation(len(nearest))[: len(nearest_to_new)]
    groups = nearest, nearest[subset], nearest_to_new[: len(subset)]
    all_samples, sample_subset, new_patients = (retrieval(patients, total) for patients in groups)
    yield Measure(
        "image retrieval score",
        QUALITY,
        "share of training patients who would be nearest to at least one sample if there were infinitely many samples",
        "the value of new patients (equally many samples and new patients)",
        sample_subset.score,
        new_patients.score,
        details={"all samples": asdict(all_samples), "as many samples as new patients": asdict(sample_subset)},
    )
    yield Measure(
        "training patients covered",
        QUALITY,
        "share of training patients who are nearest to at least one sample; it increases with the number of samples",
        "the value of new patients (equally many samples and new patients)",
        clopper_pearson_interval(round(sample_subset.covered * total), total),
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
        f"share of pairs of samples with a similarity that only {sets.far:g} of the pairs of new patients reach",
        f"about {sets.far:g}, as for pairs of different patients",
        samples.pairs,
        new_patients.pairs,
        samples.pairs.low > new_patients.pairs.high,
        {"threshold": threshold, "samples that collide": samples.samples, "identities": samples.identities},
    )


def identity_drift(sets: AuditSets) -> Iterator[Measure]:
    """Share of samples whose frames do not all show the same patient, with Fisher's exact test against new patients."""
    from scipy.stats import fisher_exact

    sequences = {"samples": sets.samples.sequences, "new patients": sets.held_out.sequences}
    lengths = {name: np.array([len(rows) for rows in part]) for name, part in sequences.items()}
    if lengths["samples"].max() < 2:
        raise UserError("every sample has a single frame")
    if lengths["new patients"].max() < 2:
        raise UserError("no held-out patient has a recording of two or more frames for comparison")
    threshold = sets.same_patient_threshold()
    frames = int(min(np.quantile(counts[counts > 1], MAX_SHORT_SHARE, method="lower") for counts in lengths.values()))
    lost, table, details, left_out = {}, [], {}, {}
    for name, part in sequences.items():
        long_enough = [rows[:frames] for rows in part if len(rows) >= frames]
        result = drift(long_enough, similarity=sets.similarity, seed=sets.seed, threshold=threshold)
        lost[name] = result.lost
        count = round(result.lost.value * len(long_enough))
        table.append([count, len(long_enough) - count])
        curves = {key: getattr(result, key).tolist() for key in ("curve", "low", "high")}
        details[name] = {**curves, "last": asdict(result.last), "step": asdict(result.step)}
        left_out[name] = len(part) - len(long_enough)
    p_value = float(fisher_exact(table, alternative="greater")[1])
    yield Measure(
        "identity lost along a sample",
        QUALITY,
        f"share of samples in which at least one of {frames} frames is not recognized as the patient of the first "
        f"frame; a false accept rate of {sets.far:g} sets the threshold",
        "the same share of recordings of new patients",
        lost["samples"],
        lost["new patients"],
        p_value <= ONE_SIDED_LEVEL,
        {"threshold": threshold, **details, "p_value": p_value, "frames": frames, "shorter, left out": left_out},
    )


QUALITY_MEASURES: dict[str, Callable[[AuditSets], Iterator[Measure]]] = {
    "precision, recall, density, coverage": precision_recall_density_coverage,
    "image retrieval score": retrieved_patients,
    "collisions between seeds": seed_collisions,
    "identity drift": identity_drift,
}
"""Measures in the embedding space of the identity network, by name."""
