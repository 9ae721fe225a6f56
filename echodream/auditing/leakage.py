"""Privacy measures of ``stage=audit``: whether samples are closer to training patients than new patients are."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TypeVar

import numpy as np

from echodream.auditing.embedding_sets import AuditSets
from echodream.auditing.measure import ONE_SIDED_LEVEL, PRIVACY, Measure, control_details, exact_interval
from echodream.errors import UserError
from echodream.metrics.bootstrap import clopper_pearson_interval
from echodream.privacy.attacks.attributes import attribute_disclosure
from echodream.privacy.attacks.closeness import Closeness, dcr_and_nndr
from echodream.privacy.attacks.copying import copying_score
from echodream.privacy.attacks.linkability import Linkability, linkability, linkability_from_distances
from echodream.privacy.attacks.membership import (
    controlled_auc,
    drop_self_distances,
    nearest_sample_scores,
    trained_attacker_scores,
)
from echodream.privacy.attacks.tails import nearer_than_new_patients, singling_out

T = TypeVar("T")


def linkability_risk(sets: AuditSets) -> Iterator[Measure]:
    """Residual risk of the linkability attack."""
    for name, patients in (("in training", sets.train), ("held out", sets.held_out)):
        if (count := int(patients.has_two_views.sum())) < 2:
            raise UserError(f"linkability needs two or more patients {name} with two frames each: there are {count}")
    views = sets.sample_distances.views
    assert views is not None
    groups = views[:, :, : len(sets.train)], views[:, :, len(sets.train) :]
    train_views, held_out_views = (
        [part[:, k, patients.has_two_views].T for k in (0, 1)]
        for part, patients in zip(groups, (sets.train, sets.held_out), strict=True)
    )
    result = linkability_from_distances(train_views, held_out_views)
    control = _result_of_new_patients(sets, "linkability", _linkability_of_new_patients)
    expected = exact_interval(0.0) if control is None else control.risk
    yield Measure(
        f"linkability, residual risk{sets.suffix}",
        PRIVACY,
        "share of the links between two views of a training patient, made through the synthetic set, that are due to "
        "training on this patient",
        "0, or the value of new patients in place of samples; the value has no meaning if the attack is not better "
        "than a random guess (baseline)",
        result.risk,
        expected,
        result.risk.low > max(expected.value, 0.0) and result.attack.low > result.baseline,
        {"samples": asdict(result), "new patients": None if control is None else asdict(control)},
    )


def _linkability_of_new_patients(sets: AuditSets) -> Linkability:
    """Linkability attack in which half of the held-out patients replace samples; the remaining half is the control."""
    halves = np.split(np.random.default_rng([sets.seed, 1]).permutation(len(sets.held_out)), [len(sets.held_out) // 2])
    control_samples, held_out = (sets.held_out.subset(half) for half in halves)
    pairs = (part.two_views[part.has_two_views] for part in (sets.train, held_out, control_samples))
    train, control, synthetic = ((views[:, 0], views[:, 1]) for views in pairs)
    return linkability(train, control, synthetic)


def _result_of_new_patients(sets: AuditSets, name: str, measure: Callable[[AuditSets], T]) -> T | None:
    """Cached result of ``measure``, in which new patients replace the samples; None if there are too few patients."""

    def compute() -> T | None:
        try:
            return measure(sets)
        except UserError:
            return None

    return sets.compute_once(name, compute)


def closeness_to_training(sets: AuditSets) -> Iterator[Measure]:
    """DCR (distance to closest record) of samples, and NNDR; half of the held-out patients give the expected values."""
    distances, m = sets.sample_distances.to_patients, len(sets.train)
    sets.patient_distances()  # raises UserError if a patient is both in training and held out
    result = dcr_and_nndr(distances[:, :m], distances[:, m:], sets.seed, sets.repeats)
    control = _result_of_new_patients(sets, "closeness", _closeness_of_new_patients)
    expected = exact_interval(0.5) if control is None else control.nearest_in_train
    yield Measure(
        f"nearest in training (DCR){sets.suffix}",
        PRIVACY,
        "share of samples that are closer to a training patient than to any of equally many held-out patients, "
        "averaged over random choices of these patients",
        ".5, or the value of new patients in place of samples; a high share with a small p_value indicates copies",
        result.nearest_in_train,
        expected,
        result.p_value <= ONE_SIDED_LEVEL and result.nearest_in_train.value > max(0.5, expected.value),
        {"samples": asdict(result), "new patients": None if control is None else asdict(control)},
    )


def _closeness_of_new_patients(sets: AuditSets) -> Closeness:
    """DCR and NNDR of half of the held-out patients, compared with training patients and the remaining half."""
    patients, distances = sets.held_out_distances()
    order = np.random.default_rng([sets.seed, 1]).permutation(len(patients))
    half, m = len(order) // 2, len(sets.train)
    controls = distances.to_patients[order[:half]]
    return dcr_and_nndr(controls[:, :m], controls[:, m + patients[order[half:]]], sets.seed, sets.repeats)


def nearer_than_any_new_patient(sets: AuditSets) -> Iterator[Measure]:
    """Share of samples that are nearer to a training patient than any held-out patient is; permutation test."""
    rows, of_patients = sets.patient_distances()
    distances = sets.sample_distances.to_patients, of_patients.to_patients
    result = nearer_than_new_patients(*distances, rows, sets.is_member, sets.repeats, sets.seed)
    yield Measure(
        f"nearer to training than any new patient{sets.suffix}",
        PRIVACY,
        f"share of samples that are nearer to a training patient than any of {result.controls} held-out patients is",
        "1 / (held-out patients + 1); a p_value of the permutation test of at most .025 indicates copies",
        result.share,
        result.expected,
        result.p_value <= ONE_SIDED_LEVEL and result.share.value > result.expected.value,
        {"samples": asdict(result)},
    )


def singling_out_share(sets: AuditSets) -> Iterator[Measure]:
    """Share of samples that are close to one training patient and far from all other patients."""
    patients, distances = sets.held_out_distances()
    controls = distances.to_patients.copy()
    controls[np.arange(len(patients)), len(sets.train) + patients] = np.inf
    result = singling_out(sets.sample_distances.to_patients, controls, sets.is_member, ONE_SIDED_LEVEL)
    yield Measure(
        f"training patients singled out{sets.suffix}",
        PRIVACY,
        "share of samples that are significantly closer to one training patient than to the second nearest patient",
        "0; the probability that one or more samples are significant by chance is at most .025",
        result.share,
        clopper_pearson_interval(result.controls_singled_out, result.controls),
        result.count > 0,
        {"samples": asdict(result)},
    )


def data_copying_test(sets: AuditSets) -> Iterator[Measure]:
    """Data-copying score C_T, from the frame of each sample and held-out patient that is nearest to training frames."""
    cells = sets.cell_count()
    if cells > sets.train.all_frames.shape[0] * sets.train.all_frames.shape[1]:
        raise UserError(f"cells={cells} is more than the number of training embeddings: choose fewer cells.")
    samples, held_out = (
        (distances.to_patients[:, : len(sets.train)].min(axis=1), distances.cell)
        for distances in (sets.sample_distances, sets.held_out_distances()[1])
    )
    result = copying_score(samples, held_out, cells)
    yield Measure(
        f"data copying, C_T{sets.suffix}",
        PRIVACY,
        "z-score that tests whether samples lie closer to the training set than held-out patients do",
        "between -3 and 3; a value below -3 indicates copies",
        result.score,
        exact_interval(0.0),
        result.score.value < -3,
        {"cells": list(result.cells), "cells left out": result.left_out},
    )


def authentic_share(sets: AuditSets) -> Iterator[Measure]:
    """Share of samples whose frames are all authentic (Alaa et al., arXiv 2102.08921)."""
    groups = (sets.sample_distances.authentic, sets.held_out_distances()[1].authentic)
    samples, new_patients = (clopper_pearson_interval(int(authentic.sum()), len(authentic)) for authentic in groups)
    yield Measure(
        f"authenticity{sets.suffix}",
        PRIVACY,
        "share of samples that are not closer to a training frame than this frame is to another training patient",
        "the share of new patients whose frames are all authentic",
        samples,
        new_patients,
        samples.high < new_patients.low,
    )


def membership_by_samples(sets: AuditSets) -> Iterator[Measure]:
    """Membership inference by an adversary who has only the samples; in controls, training patients replace samples."""

    def scores_without_samples() -> list[np.ndarray]:
        rows, distances = sets.patient_distances()
        training = rows < len(sets.train)
        if training.sum() < 2:
            raise UserError("membership inference by samples needs two or more patients in training")
        replacements = drop_self_distances(distances.to_patients[training], rows[training], sets.seed)
        return [score(replacements) for score in attacks.values()]

    attacks: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "the nearest sample": nearest_sample_scores,
        "a trained attacker": lambda distances: trained_attacker_scores(distances, sets.is_member, sets.seed),
    }
    controls = sets.compute_once("membership", scores_without_samples)
    for (name, score), control in zip(attacks.items(), controls, strict=True):
        result = controlled_auc(score(sets.sample_distances.to_patients), control, sets.is_member)
        yield Measure(
            f"membership by {name}, AUC{sets.suffix}",
            PRIVACY,
            f"ROC AUC of membership inference (training patients against held-out patients) by {name}, without access "
            "to the generator",
            "the value of the same attack with other training patients in place of samples, about .5",
            result.auc,
            result.control,
            result.succeeds,
            control_details(result),
        )


def attribute_disclosure_risk(sets: AuditSets) -> Iterator[Measure]:
    """Residual risk that the nearest sample reveals an attribute of a training patient, for each attribute."""
    if not sets.attributes:
        raise UserError("the stores of samples and patients share no column with an attribute of the patient")
    distances = sets.sample_distances.to_patients
    for name, (samples, patients) in sets.attributes.items():
        result = attribute_disclosure(distances, samples, patients, sets.is_member)
        yield Measure(
            f"attribute disclosure, {name}{sets.suffix}",
            PRIVACY,
            f"share of the correct guesses of {name} of a training patient, made from the nearest sample, that are due "
            "to training on this patient",
            "0: the attribute of a new patient is guessed as often; the value has no meaning if the attack is not "
            "better than the best constant guess (baseline)",
            result.risk,
            exact_interval(0.0),
            result.risk.low > 0 and result.attack.low > result.baseline,
            asdict(result),
        )


LEAKAGE_MEASURES: dict[str, Callable[[AuditSets], Iterator[Measure]]] = {
    "linkability": linkability_risk,
    "training patients singled out": singling_out_share,
    "nearer to training than any new patient": nearer_than_any_new_patient,
    "DCR and NNDR": closeness_to_training,
    "data copying, C_T": data_copying_test,
    "authenticity": authentic_share,
}
"""Privacy measures by name, computed both for embeddings of the identity network and for whitened latents."""
LATENT_MEASURES: dict[str, Callable[[AuditSets], Iterator[Measure]]] = {
    "membership by samples": membership_by_samples,
    "attribute disclosure": attribute_disclosure_risk,
}
"""Privacy measures for whitened latents only: the identity network was trained on the training patients."""


def leakage_measures(sets: AuditSets) -> Iterator[tuple[str, Callable[[AuditSets], Iterator[Measure]]]]:
    """Name and function of each privacy measure for the embeddings of ``sets``."""
    selected = LEAKAGE_MEASURES | (LATENT_MEASURES if sets.suffix else {})
    return ((f"{name}{sets.suffix}", measure) for name, measure in selected.items())
