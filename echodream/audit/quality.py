"""Measures of quality and variety that an audit of privacy is read beside."""

from dataclasses import asdict
from typing import Any

import numpy as np

from echodream.audit.measure import QUALITY, Measure, Sides, near_train, threshold
from echodream.errors import UserError
from echodream.metrics.bootstrap import Interval, clopper_pearson_interval
from echodream.privacy.attacks.drift import Drift, drift
from echodream.privacy.attacks.fidelity import fidelity
from echodream.privacy.attacks.retrieval import collisions, retrieval


def faithful(sides: Sides) -> list[Measure]:
    """Precision, recall, density and coverage; new patients as the floor, as many as samples."""
    count = min(len(sides.samples), len(sides.held_out))
    rows = [
        side.only(np.random.default_rng([sides.seed, 2]).permutation(len(side))[:count]).first()
        for side in (sides.samples, sides.held_out)
    ]
    near = min(5, count - 1, len(sides.train) - 1)
    found, floor = (fidelity(part, sides.train.first(), k=near, seed=sides.seed) for part in rows)
    means = {
        "precision": "share of samples that lie where training patients lie",
        "recall": "share of training patients who lie where samples lie",
        "density": "how densely training patients lie around a sample",
        "coverage": "share of training patients who have a sample nearby",
    }
    return [
        Measure(
            name,
            QUALITY,
            text,
            "as much as new patients",
            found[name],
            floor[name],
            details={"neighbours": near, "samples": count},
        )
        for name, text in means.items()
    ]


def retrieved(sides: Sides) -> list[Measure]:
    """Image retrieval score by patient, and how many training patients are covered."""
    total = len(sides.train)
    names = near_train(sides, sides.samples).patient
    control = near_train(sides, sides.held_out).patient
    equal = np.random.default_rng([sides.seed, 3]).permutation(len(names))[: len(control)]
    every, alike, floor = (retrieval(part, total) for part in (names, names[equal], control[: len(equal)]))
    scores = {"all samples": asdict(every), "as many samples as new patients": asdict(alike)}
    return [
        Measure(
            "image retrieval score",
            QUALITY,
            "share of training patients whom samples would be nearest to, were there as many as one likes",
            "as much as new patients (as many of both)",
            alike.score,
            floor.score,
            details=scores,
        ),
        Measure(
            "training patients covered",
            QUALITY,
            "share of training patients who are the nearest of some sample; it grows with the number of samples",
            "as much as new patients (as many of both)",
            _covered(alike.covered, total),
            _covered(floor.covered, total),
            details={"all samples": every.covered, "samples": every.samples},
        ),
    ]


def _covered(value: float, total: int) -> Interval:
    return clopper_pearson_interval(round(value * total), total)


def drifting(sides: Sides) -> list[Measure]:
    """Whether samples of several frames stay one person."""
    if all(len(sequence) < 2 for sequence in sides.samples.sequences):
        raise UserError("every sample has a single frame")
    limit = threshold(sides)
    sequences = [[each for each in side.sequences if len(each) > 1] for side in (sides.samples, sides.held_out)]
    if not sequences[1]:
        raise UserError("no held-out patient has a recording of two frames to compare with")
    found, control = (drift(part, threshold=limit, similarity=sides.similarity, seed=sides.seed) for part in sequences)
    assert found.lost is not None
    assert control.lost is not None
    return [
        Measure(
            "identity lost along a sample",
            QUALITY,
            "share of samples with a frame that would not be taken for the person of the first, by the same threshold",
            "as much as recordings of new patients",
            found.lost,
            control.lost,
            found.lost.low > control.lost.high,
            {"threshold": limit, "samples": _curves(found), "new patients": _curves(control)},
        )
    ]


def _curves(found: Drift) -> dict[str, Any]:
    lines = {name: [float(value) for value in getattr(found, name)] for name in ("curve", "low", "high")}
    return {**lines, "last": asdict(found.last), "step": asdict(found.step)}


def colliding(sides: Sides) -> list[Measure]:
    """How often two seeds show one identity."""
    limit = threshold(sides)
    found, control = (collisions(side.first(), limit, sides.similarity) for side in (sides.samples, sides.held_out))
    return [
        Measure(
            "collisions between seeds",
            QUALITY,
            "probability that two samples show one identity, by a threshold that different patients rarely reach",
            f"about {sides.far:g}, as two different patients",
            found.pairs,
            control.pairs,
            found.pairs.low > control.pairs.high,
            {
                "threshold": limit,
                "samples that collide": found.samples,
                "identities": found.identities if np.isfinite(found.identities) else None,
            },
        )
    ]
