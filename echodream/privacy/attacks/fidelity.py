"""Precision, recall, density and coverage of samples (Naeem et al., arXiv 2002.09797)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from echodream.metrics.intervals import Interval, mean_interval
from echodream.privacy.attacks.distances import blocks, checked, radii


@dataclass(frozen=True)
class Fidelity:
    """``precision``: share of samples within a real row's ball; ``recall``: share of real rows within a sample's ball;
    ``density``: balls of real rows around a sample, over k; ``coverage``: share of real rows with a sample in their
    ball. A row's ball reaches to its k-th nearest neighbour in its own set. Intervals are bootstrapped over patients,
    with the balls as they are.
    """

    precision: Interval
    recall: Interval
    density: Interval
    coverage: Interval


def fidelity(
    synthetic: Tensor, real: Tensor, real_patients: Sequence[object] | None = None, k: int = 5, seed: int = 0
) -> Fidelity:
    """Of embeddings, (n, D) and (m, D), euclidean, with ``k`` neighbours."""
    x, y = checked("fidelity", synthetic, real)
    ball, balls = radii(x, k), radii(y, k)
    inside = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    recalled = torch.zeros(len(y), dtype=torch.bool, device=x.device)
    covered = torch.zeros_like(recalled)
    for rows, distances in blocks(x, y):
        within = distances < balls
        inside[rows] = within.double().sum(dim=1)
        covered |= within.any(dim=0)
        recalled |= (distances < ball[rows][:, None]).any(dim=0)
    precise, dense, recalled_, covered_ = (
        each.double().cpu().numpy() for each in (inside > 0, inside / k, recalled, covered)
    )
    return Fidelity(
        precision=mean_interval(precise, seed=seed),
        recall=mean_interval(recalled_, real_patients, seed=seed),
        density=mean_interval(dense, seed=seed),
        coverage=mean_interval(covered_, real_patients, seed=seed),
    )
