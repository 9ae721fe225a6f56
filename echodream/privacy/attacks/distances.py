"""Distances between sets of embeddings, by blocks of rows."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from echodream.errors import UserError

BLOCK = 512


def check(what: str, *sets: Tensor) -> None:
    """Raise ``UserError``, which names ``what`` is broken, unless all are embeddings, (n_i, D) with the same D."""
    for one in sets:
        if one.ndim != 2 or 0 in one.shape or one.shape[1] != sets[0].shape[1]:
            shapes = ", ".join(str(tuple(each.shape)) for each in sets)
            raise UserError(f"{what} needs embeddings (n, D) of the same D and at least one row each, not {shapes}.")
        if not torch.isfinite(one).all():
            raise UserError(f"{what} was given NaN or infinite embeddings: the network that made them is broken.")


def checked(what: str, *sets: Tensor) -> list[Tensor]:
    """The ``sets`` of embeddings, (n_i, D) each, as float64. Raises as ``check`` does."""
    check(what, *sets)
    return [one.detach().double() for one in sets]


def blocks(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Euclidean distances of ``BLOCK`` rows of ``x`` at a time to all of ``y``: rows, and (b, m) without rounding."""
    for start in range(0, len(x), BLOCK):
        rows = slice(start, min(start + BLOCK, len(x)))
        yield rows, torch.cdist(x[rows], y, compute_mode="donot_use_mm_for_euclid_dist")


def nearest_distance(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Distance of each row of ``x``, (n, D), to the nearest of ``y``, (m, D), and which it is; (n,) each."""
    found = [distances.min(dim=1) for _, distances in blocks(x, y)]
    return torch.cat([each.values for each in found]), torch.cat([each.indices for each in found])


def radii(x: Tensor, k: int) -> Tensor:
    """Distance of each row of ``x``, (n, D), to its ``k``-th nearest other row; (n,)."""
    if not 1 <= k < len(x):
        raise UserError(f"k={k} neighbours need more than {k} embeddings, and there are {len(x)}.")
    found = []
    for rows, distances in blocks(x, x):
        distances[torch.arange(len(distances)), torch.arange(rows.start, rows.stop)] = torch.inf
        found.append(distances.kthvalue(k, dim=1).values)
    return torch.cat(found)


def to_other_units(x: Tensor, unit: np.ndarray) -> Tensor:
    """Distance of each row of ``x``, (n, D), to the nearest row of another unit (``unit``, (n,)); (n,)."""
    units = torch.from_numpy(unit).to(x.device)
    if len(units.unique()) < 2:
        raise UserError("There is only one patient: the nearest other patient needs two or more.")
    found = []
    for rows, distances in blocks(x, x):
        distances.masked_fill_(units[rows][:, None] == units[None, :], torch.inf)
        found.append(distances.amin(dim=1))
    return torch.cat(found)


def to_units(x: Tensor, y: Tensor, unit: np.ndarray) -> Tensor:
    """Distance of each row of ``x``, (n, D), to each unit of ``y``: of its nearest row. Returns (n, units)."""
    units = torch.from_numpy(unit).to(y.device)
    found = torch.full((len(x), int(units.max()) + 1), torch.inf, dtype=x.dtype, device=x.device)
    for rows, distances in blocks(x, y):
        found[rows] = found[rows].scatter_reduce(1, units.expand_as(distances), distances, "amin")
    return found
