"""Linkability: does the synthetic set help to link two views of one training patient?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from echodream.errors import UserError
from echodream.metrics.bootstrap import Interval, wilson_interval
from echodream.privacy.nearest_neighbors import check_embeddings, distance_blocks


@dataclass(frozen=True)
class Linkability:
    """Success rates of the linkability attack, and the residual risk (Giomi et al., arXiv 2211.10459).

    ``attack``: share of training patients that the attack links. ``control``: share of linked patients among patients
    on whom the generator was not trained. ``baseline``: success rate of a random guess. ``risk``: (attack - control) /
    (1 - control), in [0, 1]. If ``attack`` is not above ``baseline``, the attack failed, and ``risk`` has no meaning.
    """

    attack: Interval
    control: Interval
    baseline: float
    risk: Interval


def residual_risk(attack: Interval, control: Interval) -> Interval:
    """The risk (attack - control) / (1 - control), clipped to [0, 1], with first-order error propagation."""
    remaining = 1 - control.value
    if remaining <= 0:
        raise UserError("The attack links every control patient: the risk cannot be distinguished from chance.")
    value = (attack.value - control.value) / remaining
    errors = ((rate.high - rate.low) / 2 for rate in (attack, control))
    slopes = (1 / remaining, (attack.value - 1) / remaining**2)
    half = math.hypot(*(slope * error for slope, error in zip(slopes, errors, strict=True)))
    return Interval(*(min(max(bound, 0.0), 1.0) for bound in (value, value - half, value + half)))


def linkability(
    train: tuple[Tensor, Tensor], control: tuple[Tensor, Tensor], synthetic: tuple[Tensor, Tensor], neighbors: int = 1
) -> Linkability:
    """Linkability attack on two views of each patient or sample, one row each: (n, D_1) and (n, D_2).

    Views are frames, recordings, or parts of the features. The attack links two views if one sample is among the
    ``neighbors`` nearest samples of both views. Raises ``UserError`` for unpaired views and an invalid ``neighbors``.
    """
    for name, (first, second) in (("train", train), ("control", control), ("synthetic", synthetic)):
        if len(first) != len(second):
            raise UserError(f"The two views of {name} have {len(first)} and {len(second)} rows: they must be paired.")
    distances = [
        tuple(
            torch.cat([block for _, block in distance_blocks(*check_embeddings("linkability", x, y))]) for x, y in pair
        )
        for pair in (zip(views, synthetic, strict=True) for views in (train, control))
    ]
    return linkability_from_distances(distances[0], distances[1], neighbors)


def linkability_from_distances(train: Sequence[Tensor], control: Sequence[Tensor], neighbors: int = 1) -> Linkability:
    """``linkability`` from the distances of both views to the views of the samples, (n, samples) for each view."""
    samples = train[0].shape[1]
    if not 1 <= neighbors <= samples:
        raise UserError(f"neighbors={neighbors} must be between 1 and the number of synthetic samples, {samples}.")
    rates = []
    for views in (train, control):
        first, second = (view.topk(neighbors, largest=False).indices for view in views)
        linked = (first[:, :, None] == second[:, None, :]).any(dim=2).any(dim=1)
        rates.append(wilson_interval(int(linked.sum()), len(linked)))
    disjoint = math.prod((samples - neighbors - i) / (samples - i) for i in range(neighbors))
    return Linkability(rates[0], rates[1], 1 - max(disjoint, 0.0), residual_risk(*rates))
