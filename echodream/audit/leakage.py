"""Privacy measures of ``stage=audit``: are samples closer to training patients than new patients are?

A new measure is a function that yields each ``Measure``, and an entry of ``LEAKAGE_MEASURES``.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TypeVar

import numpy as np
from torch import Tensor

from echodream.audit.embedding_sets import AuditSets, EmbeddingSet
from echodream.audit.measure import ONE_SIDED_LEVEL, PRIVACY, Measure, exact_value
from echodream.errors import UserError
from echodream.metrics.bootstrap import clopper_pearson_interval
from echodream.privacy.attacks.closeness import Closeness, closeness_of_distances
from echodream.privacy.attacks.copying import copying_score
from echodream.privacy.attacks.linkability import Linkability, linkability, linkability_of_distances
from echodream.privacy.attacks.tails import nearer_than_new_patients, singling_out

T = TypeVar("T")


def linkability_risk(sets: AuditSets) -> Iterator[Measure]:
    """Residual risk of the linkability attack."""
    for name, patients in (("in training", sets.train), ("held out", sets.held_out)):
        if (count := int(patients.has_two_views.sum())) < 2:
            raise UserError(f"two or more patients {name} need two frames each, and there are {count}")
    views = sets.sample_tables.views
    assert views is not None
    groups = views[:, :, : len(sets.train)], views[:, :, len(sets.train) :]
    train_views, control_views = (
        [part[:, k, patients.has_two_views].T for k in (0, 1)]
        for part, patients in zip(groups, (sets.train, sets.held_out), strict=True)
    )
    result = linkability_of_distances(train_views, control_views)
    baseline = sets.once("linkability", lambda: _none_if_too_few(lambda: _linkability_of_new_patients(sets)))
    expected = exact_value(0.0) if baseline is None else baseline.risk
    yield Measure(
        f"linkability, residual risk{sets.suffix}",
        PRIVACY,
        "of the links between two views of a training patient that the synthetic set helps to make, the share that "
        "is due to having been in training",
        "0, or what new patients give in place of samples; without meaning where the attack is no better than a "
        "guess (baseline)",
        result.risk,
        expected,
        result.risk.low > max(expected.value, 0.0) and result.attack.low > result.baseline,
        {"samples": asdict(result), "new patients": None if baseline is None else asdict(baseline)},
    )


def _linkability_of_new_patients(sets: AuditSets) -> Linkability:
    halves = np.split(np.random.default_rng([sets.seed, 1]).permutation(len(sets.held_out)), [len(sets.held_out) // 2])
    placebo, control = (sets.held_out.subset(half) for half in halves)
    return linkability(_two_views(sets.train), _two_views(control), _two_views(placebo))


def _two_views(embedding_set: EmbeddingSet) -> tuple[Tensor, Tensor]:
    """The first and the second view of all samples or patients with two views: (n, D) each."""
    first, second = embedding_set.two_views[embedding_set.has_two_views].unbind(1)
    return first, second


def _none_if_too_few(measure: Callable[[], T]) -> T | None:
    """The result of ``measure``, or None if there are too few patients."""
    try:
        return measure()
    except UserError:
        return None


def closeness_to_training(sets: AuditSets) -> Iterator[Measure]:
    """DCR and NNDR of samples; the expected values are those of half of the held-out patients."""
    distances, m = sets.sample_tables.to_patients, len(sets.train)
    sets.patient_tables()  # raises if a patient is in both groups
    result = closeness_of_distances(distances[:, :m], distances[:, m:], sets.seed, sets.repeats)
    baseline = sets.once("closeness", lambda: _none_if_too_few(lambda: _closeness_of_new_patients(sets)))
    expected = exact_value(0.5) if baseline is None else baseline.nearest_in_train
    yield Measure(
        f"nearest in training (DCR){sets.suffix}",
        PRIVACY,
        "share of samples that are closer to a training patient than to any held-out one, of as many, on average over "
        "random choices of these patients",
        ".5, or what new patients give in place of samples; a high share with a small p_value points to copies",
        result.nearest_in_train,
        expected,
        result.p_value <= ONE_SIDED_LEVEL and result.nearest_in_train.value > max(0.5, expected.value),
        {"samples": asdict(result), "new patients": None if baseline is None else asdict(baseline)},
    )


def _closeness_of_new_patients(sets: AuditSets) -> Closeness:
    """Half of the held-out patients in place of samples, compared with training patients and the other half."""
    patients, tables = sets.held_out_tables()
    order = np.random.default_rng([sets.seed, 1]).permutation(len(patients))
    half, m = len(order) // 2, len(sets.train)
    placebo = tables.to_patients[order[:half]]
    return closeness_of_distances(placebo[:, :m], placebo[:, m + patients[order[half:]]], sets.seed, sets.repeats)


def nearer_than_any_new_patient(sets: AuditSets) -> Iterator[Measure]:
    """Share of samples nearer to training than any held-out patient, with a permutation test over the patients."""
    rows, tables = sets.patient_tables()
    distances = sets.sample_tables.to_patients, tables.to_patients
    result = nearer_than_new_patients(*distances, rows, sets.member, sets.repeats, sets.seed)
    yield Measure(
        f"nearer to training than any new patient{sets.suffix}",
        PRIVACY,
        f"share of samples that are nearer to a training patient than any of {result.controls} held-out patients is",
        "1 / (held-out patients + 1); a p_value, over random choices of the training patients, of at most .025 points "
        "to copies",
        result.share,
        result.expected,
        result.p_value <= ONE_SIDED_LEVEL and result.share.value > result.expected.value,
        {"samples": asdict(result)},
    )


def singled_out(sets: AuditSets) -> Iterator[Measure]:
    """Share of samples that are close to one training patient and far from all other patients."""
    patients, tables = sets.held_out_tables()
    controls = tables.to_patients.copy()
    controls[np.arange(len(patients)), len(sets.train) + patients] = np.inf
    result = singling_out(sets.sample_tables.to_patients, controls, sets.member, ONE_SIDED_LEVEL)
    yield Measure(
        f"training patients singled out{sets.suffix}",
        PRIVACY,
        "share of samples that are close to one training patient and far from the next, more than chance allows",
        "0: one or more such samples, among all, with probability of at most .025",
        result.share,
        clopper_pearson_interval(result.controls_singled_out, result.controls),
        result.count > 0,
        {"samples": asdict(result)},
    )


def data_copying_test(sets: AuditSets) -> Iterator[Measure]:
    """C_T of the frame of each sample and held-out patient that is nearest to a training patient."""
    cells = sets.cell_count()
    if cells > sets.train.all_frames.shape[0] * sets.train.all_frames.shape[1]:
        raise UserError(f"cells={cells} is more than the training embeddings: choose fewer.")
    samples, held_out = (
        (tables.to_patients[:, : len(sets.train)].min(axis=1), tables.cell)
        for tables in (sets.sample_tables, sets.held_out_tables()[1])
    )
    result = copying_score(samples, held_out, cells)
    yield Measure(
        f"data copying, C_T{sets.suffix}",
        PRIVACY,
        "whether samples lie closer to the training set than held-out patients do, as a z-score",
        "between -3 and 3; -3 and less points to copies",
        result.score,
        exact_value(0.0),
        result.score.value < -3,
        {"cells": list(result.cells), "cells left out": result.left_out},
    )


def authentic_share(sets: AuditSets) -> Iterator[Measure]:
    """Share of samples whose frames are all authentic."""
    parts = [tables.authentic for tables in (sets.sample_tables, sets.held_out_tables()[1])]
    shares = [clopper_pearson_interval(int(authentic.sum()), len(authentic)) for authentic in parts]
    yield Measure(
        f"authenticity{sets.suffix}",
        PRIVACY,
        "share of samples that are no closer to a training frame than that frame is to the next patient",
        "as much as new patients",
        shares[0],
        shares[1],
        shares[0].high < shares[1].low,
    )


LEAKAGE_MEASURES: dict[str, Callable[[AuditSets], Iterator[Measure]]] = {
    "linkability": linkability_risk,
    "training patients singled out": singled_out,
    "nearer to training than any new patient": nearer_than_any_new_patient,
    "DCR and NNDR": closeness_to_training,
    "data copying, C_T": data_copying_test,
    "authenticity": authentic_share,
}
"""Measures in the space of the identity network and in whitened latents: the network was trained on these patients."""
