"""Privacy measures of ``stage=audit``: are samples closer to training patients than new patients are?

A new measure is a function that yields each ``Measure``, and an entry of ``LEAKAGE_MEASURES``.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from echodream.audit.embedding_sets import AuditSets, EmbeddingSet
from echodream.audit.measure import ONE_SIDED_LEVEL, PRIVACY, Measure, exact_value
from echodream.errors import UserError
from echodream.metrics.bootstrap import clopper_pearson_interval
from echodream.privacy.attacks.authenticity import authenticity
from echodream.privacy.attacks.closeness import Closeness, closeness
from echodream.privacy.attacks.copying import data_copying
from echodream.privacy.attacks.linkability import linkability
from echodream.privacy.nearest_neighbors import nearest_rows

T = TypeVar("T")


def linkability_risk(sets: AuditSets) -> Iterator[Measure]:
    """Residual risk of the linkability attack."""
    for name, patients in (("in training", sets.train), ("held out", sets.held_out)):
        if (count := int(patients.has_two_views.sum())) < 2:
            raise UserError(f"two or more patients {name} need two frames each, and there are {count}")
    result = linkability(_two_views(sets.train), _two_views(sets.held_out), _two_views(sets.samples))
    placebo, control = _split_held_out(sets)
    baseline = _none_if_too_few(lambda: linkability(_two_views(sets.train), _two_views(control), _two_views(placebo)))
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


def _two_views(embedding_set: EmbeddingSet) -> tuple[Tensor, Tensor]:
    """The first and the second view of all samples or patients with two views: (n, D) each."""
    first, second = embedding_set.two_views[embedding_set.has_two_views].unbind(1)
    return first, second


def _split_held_out(sets: AuditSets) -> tuple[EmbeddingSet, EmbeddingSet]:
    """Random halves of the held-out patients; the first half replaces the samples, as a harmless control."""
    order = np.random.default_rng([sets.seed, 1]).permutation(len(sets.held_out))
    half = len(order) // 2
    return sets.held_out.subset(order[:half]), sets.held_out.subset(order[half:])


def _none_if_too_few(measure: Callable[[], T]) -> T | None:
    """The result of ``measure``, or None if there are too few patients."""
    try:
        return measure()
    except UserError:
        return None


def closeness_to_training(sets: AuditSets) -> Iterator[Measure]:
    """DCR and NNDR of samples; the expected values are those of half of the held-out patients."""
    result = _measure_closeness(sets, sets.samples, sets.held_out)
    placebo, control = _split_held_out(sets)
    baseline = _none_if_too_few(lambda: _measure_closeness(sets, placebo, control))
    expected = exact_value(0.5) if baseline is None else baseline.nearest_in_train
    yield Measure(
        f"nearest in training (DCR){sets.suffix}",
        PRIVACY,
        "share of samples that are closer to a training patient than to any held-out one, of as many",
        ".5, or what new patients give in place of samples; a high share with a small p_value points to copies",
        result.nearest_in_train,
        expected,
        result.p_value <= ONE_SIDED_LEVEL and result.nearest_in_train.value > max(0.5, expected.value),
        {"samples": asdict(result), "new patients": None if baseline is None else asdict(baseline)},
    )


def _measure_closeness(sets: AuditSets, samples: EmbeddingSet, held_out: EmbeddingSet) -> Closeness:
    rows, groups = samples.grouped_frames()
    return closeness(rows, *sets.train.reference_frames(), *held_out.reference_frames(), groups, sets.seed)


def data_copying_test(sets: AuditSets) -> Iterator[Measure]:
    """C_T of the frame of each sample and held-out patient that is nearest to a training patient."""
    train, _ = sets.train.reference_frames()
    cells = sets.cells if sets.cells is not None else max(1, len(sets.held_out) // 20)
    samples, held_out = (_frame_nearest_to_training(part, train) for part in (sets.samples, sets.held_out))
    result = data_copying(samples, train, held_out, cells, seed=sets.seed)
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


def _frame_nearest_to_training(embedding_set: EmbeddingSet, train: Tensor) -> Tensor:
    """The frame of each sample or patient that is nearest to any row of ``train``: (n, D)."""
    frames = embedding_set.sample_frames
    distance, _ = nearest_rows(frames.flatten(0, 1).double(), train.double())
    return frames[torch.arange(len(frames)), distance.view(frames.shape[:2]).argmin(dim=1)]


def authentic_share(sets: AuditSets) -> Iterator[Measure]:
    """Share of samples whose frames are all authentic."""
    shares = []
    for part in (sets.samples, sets.held_out):
        frames = authenticity(part.sample_frames.flatten(0, 1), *sets.train.reference_frames())
        authentic = frames.reshape(len(part), -1).all(axis=1)
        shares.append(clopper_pearson_interval(int(authentic.sum()), len(part)))
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
    "DCR and NNDR": closeness_to_training,
    "data copying, C_T": data_copying_test,
    "authenticity": authentic_share,
}
"""Measures in the space of the identity network and in whitened latents: the network was trained on these patients."""
