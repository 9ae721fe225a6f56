"""Measures of leakage: are samples closer to training patients than new patients are?"""

from collections.abc import Callable
from dataclasses import asdict
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from echodream.audit.embedding_sets import EmbeddingSet
from echodream.audit.measure import LEVEL, PRIVACY, Measure, Sides, exactly
from echodream.errors import UserError
from echodream.metrics.bootstrap import clopper_pearson_interval
from echodream.privacy.attacks.closeness import Closeness, authenticity, closeness
from echodream.privacy.attacks.copying import data_copying
from echodream.privacy.attacks.linkability import linkability
from echodream.privacy.nearest_neighbors import nearest_rows

T = TypeVar("T")


def linking(sides: Sides) -> list[Measure]:
    """Residual risk of linkability."""
    for name, side in (("in training", sides.train), ("held out", sides.held_out)):
        if (count := int(side.paired.sum())) < 2:
            raise UserError(f"two or more patients {name} need two frames each, and there are {count}")
    found = linkability(_views(sides.train), _views(sides.held_out), _views(sides.samples))
    placebo, control = _halves(sides)
    idle = _or_none(lambda: linkability(_views(sides.train), _views(control), _views(placebo)))
    expected = exactly(0.0) if idle is None else idle.risk
    return [
        Measure(
            f"linkability, residual risk{sides.suffix}",
            PRIVACY,
            "of the links between two views of a training patient that the synthetic set helps to make, the share that "
            "is due to having been in training",
            "0, or what new patients give in place of samples; without meaning where the attack is no better than a "
            "guess (baseline)",
            found.risk,
            expected,
            found.risk.low > max(expected.value, 0.0) and found.attack.low > found.baseline,
            {"samples": asdict(found), "new patients": None if idle is None else asdict(idle)},
        )
    ]


def _views(side: EmbeddingSet) -> tuple[Tensor, Tensor]:
    """The two views of those who have two: (n, D) each."""
    first, second = side.pairs[side.paired].unbind(1)
    return first, second


def _halves(sides: Sides) -> tuple[EmbeddingSet, EmbeddingSet]:
    """The held-out patients at random in two parts, the first to stand in for samples."""
    mixed = np.random.default_rng([sides.seed, 1]).permutation(len(sides.held_out))
    half = len(mixed) // 2
    return sides.held_out.only(mixed[:half]), sides.held_out.only(mixed[half:])


def _or_none(measure: Callable[[], T]) -> T | None:
    """What new patients give, or None where they are too few for it."""
    try:
        return measure()
    except UserError:
        return None


def closest(sides: Sides) -> list[Measure]:
    """DCR and NNDR with a held-out group of the same size; half of the held-out patients stand in for samples."""
    found = _closeness(sides, sides.samples, sides.held_out)
    placebo, others = _halves(sides)
    control = _or_none(lambda: _closeness(sides, placebo, others))
    expected = exactly(0.5) if control is None else control.nearest_in_train
    return [
        Measure(
            f"nearest in training (DCR){sides.suffix}",
            PRIVACY,
            "share of samples that are closer to a training patient than to any held-out one, of as many",
            ".5, or what new patients give in place of samples; a high share with a small p_value points to copies",
            found.nearest_in_train,
            expected,
            found.p_value <= LEVEL and found.nearest_in_train.value > max(0.5, expected.value),
            {"samples": asdict(found), "new patients": None if control is None else asdict(control)},
        )
    ]


def _closeness(sides: Sides, side: EmbeddingSet, held_out: EmbeddingSet) -> Closeness:
    frames = [patients.frames for patients in (sides.train, held_out)]
    rows = [part.flatten(0, 1) for part in frames]
    names = [
        np.repeat(patients.names, part.shape[1]).tolist()
        for patients, part in zip((sides.train, held_out), frames, strict=True)
    ]
    groups = np.repeat(np.arange(len(side)), side.seen.shape[1])
    return closeness(side.seen.flatten(0, 1), rows[0], names[0], rows[1], names[1], groups, sides.seed)


def copying(sides: Sides) -> list[Measure]:
    """C_T, each sample and held-out patient by the frame that is nearest to training."""
    train = sides.train.frames.flatten(0, 1)
    cells = sides.cells if sides.cells is not None else max(1, len(sides.held_out) // 20)
    rows = [_nearest_frame(side, train) for side in (sides.samples, sides.held_out)]
    found = data_copying(rows[0], train, rows[1], cells, seed=sides.seed)
    return [
        Measure(
            f"data copying, C_T{sides.suffix}",
            PRIVACY,
            "whether samples lie closer to the training set than held-out patients do, as a z-score",
            "between -3 and 3; -3 and less points to copies",
            found.score,
            exactly(0.0),
            found.score.value < -3,
            {"cells": list(found.cells), "cells left out": found.left_out},
        )
    ]


def _nearest_frame(side: EmbeddingSet, train: Tensor) -> Tensor:
    """Of each of ``side`` the frame nearest to any row of ``train``: (n, D)."""
    count, frames = side.seen.shape[:2]
    distance, _ = nearest_rows(side.seen.flatten(0, 1).double(), train.double())
    return side.seen[torch.arange(count), distance.view(count, frames).argmin(dim=1)]


def authentic(sides: Sides) -> list[Measure]:
    """The share of samples of which all frames are authentic."""
    train = sides.train.frames
    names = np.repeat(sides.train.names, train.shape[1]).tolist()
    shares = []
    for side in (sides.samples, sides.held_out):
        frames = authenticity(side.seen.flatten(0, 1), train.flatten(0, 1), names)
        shares.append(clopper_pearson_interval(int(frames.reshape(len(side), -1).all(axis=1).sum()), len(side)))
    return [
        Measure(
            f"authenticity{sides.suffix}",
            PRIVACY,
            "share of samples that are no closer to a training frame than that frame is to the next patient",
            "as much as new patients",
            shares[0],
            shares[1],
            shares[0].high < shares[1].low,
        )
    ]
