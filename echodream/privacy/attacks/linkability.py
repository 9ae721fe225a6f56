"""Linkability: does the synthetic set help to tell that two views belong to one training patient?"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from echodream.errors import UserError
from echodream.metrics.bootstrap import Interval, wilson_interval
from echodream.privacy.nearest_neighbors import check_embeddings, distance_blocks


@dataclass(frozen=True)
class Linkability:
    """Rates of links that an attacker gets right, and the residual risk (Giomi et al., arXiv 2211.10459).

    ``attack``: among training patients; ``control``: among patients whom the generator never saw; ``baseline``: of a
    guess. ``risk``: (attack - control) / (1 - control), in [0, 1]: what is due to having been in the training set.
    An attack that is no better than ``baseline`` found nothing, whatever ``risk`` says.
    """

    attack: Interval
    control: Interval
    baseline: float
    risk: Interval


def residual_risk(attack: Interval, control: Interval) -> Interval:
    """(attack - control) / (1 - control), its error carried over from both to first order, cut to [0, 1]."""
    room = 1 - control.value
    if room <= 0:
        raise UserError("The attack links every control patient: no risk can be told apart from chance.")
    value = (attack.value - control.value) / room
    errors = ((one.high - one.low) / 2 for one in (attack, control))
    slopes = (1 / room, (attack.value - 1) / room**2)
    half = math.hypot(*(slope * error for slope, error in zip(slopes, errors, strict=True)))
    return Interval(*(min(max(each, 0.0), 1.0) for each in (value, value - half, value + half)))


def linkability(
    train: tuple[Tensor, Tensor],
    control: tuple[Tensor, Tensor],
    synthetic: tuple[Tensor, Tensor],
    neighbours: int = 1,
    confidence: float = 0.95,
) -> Linkability:
    """The linkability attack with two views of each patient, one row per patient: (n, D_1) and (n, D_2).

    Views are what an attacker may hold apart: two frames or recordings, or two parts of the features; ``synthetic`` has
    the same two views of each sample. Views are linked where a sample is among the ``neighbours`` nearest of both.
    """
    for name, (first, second) in (("train", train), ("control", control), ("synthetic", synthetic)):
        if len(first) != len(second):
            raise UserError(f"The two views of {name} have {len(first)} and {len(second)} rows: they must be paired.")
    samples = len(synthetic[0])
    if not 1 <= neighbours <= samples:
        raise UserError(f"neighbours={neighbours} must be between 1 and the number of synthetic samples, {samples}.")
    rates = []
    for views in (train, control):
        sides = [_among(x, y, neighbours) for x, y in zip(views, synthetic, strict=True)]
        linked = (sides[0][:, :, None] == sides[1][:, None, :]).any(dim=2).any(dim=1)
        rates.append(wilson_interval(int(linked.sum()), len(linked), confidence))
    apart = math.prod((samples - neighbours - i) / (samples - i) for i in range(neighbours))
    return Linkability(rates[0], rates[1], 1 - max(apart, 0.0), residual_risk(*rates))


def _among(x: Tensor, y: Tensor, neighbours: int) -> Tensor:
    """Which rows of ``y`` are the nearest to each row of ``x``; (n, neighbours)."""
    rows, others = check_embeddings("linkability", x, y)
    return torch.cat(
        [distances.topk(neighbours, largest=False).indices for _, distances in distance_blocks(rows, others)]
    )
