"""Who is nearer: exact Euclidean comparisons of two sets by blocks, in memory that does not grow with n x m.

A block of products in single precision decides all but what it cannot: pairs within its error bound are compared again
in double precision. Distances are rounded to single precision, so what differs by less than that is a tie.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from echodream.privacy.attacks.distances import check
from echodream.privacy.similarity import exact

BLOCK = 2048
"""Rows of each set in a block."""
FEATURES = 512
"""Features that are summed up in single precision at a time: it bounds the error, whatever the processor does."""
PAIRS = 8192
"""Pairs that are compared in double precision at a time."""
GROUP = 64
"""Rows that have one maximum, when candidates for the nearest are looked for."""


def distance(x: Tensor, y: Tensor) -> Tensor:
    """Distance of rows of two sets, (n, D) each, at single precision; float64 (n,)."""
    if not len(x):
        return torch.zeros(0, dtype=torch.float64)
    return torch.cat([-exact(a, b, "euclidean") for a, b in zip(x.split(PAIRS), y.split(PAIRS), strict=True)])


def between(x: Tensor, y: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Distances of the rows ``row`` of ``x`` to ``column`` of ``y``, (p,) each; float64 (p,)."""
    parts = zip(row.split(PAIRS), column.split(PAIRS), strict=True)
    found = [-exact(x[one], y[other], "euclidean") for one, other in parts]
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64)


class Points:
    """A set of embeddings, (n, D), ready for blocks: about ``centre``, (D,), with the norms of its rows."""

    def __init__(self, given: Tensor, centre: Tensor) -> None:
        self.given = given
        self.shifted = torch.cat([(part.double() - centre).float() for part in given.split(BLOCK)])
        self.norm = torch.cat([part.double().square().sum(dim=1).sqrt() for part in self.shifted.split(BLOCK)])
        self.half = (self.norm.square() / 2).float()

    def __len__(self) -> int:
        return len(self.given)


def points(what: str, *sets: Tensor) -> list[Points]:
    """``sets`` of embeddings, (n_i, D) each, about their common centre. ``UserError`` for what cannot be compared."""
    check(what, *sets)
    given = [one.detach().float().cpu() for one in sets]
    centre = sum((part.sum(dim=0, dtype=torch.float64) for part in given[1:]), given[0].sum(dim=0, dtype=torch.float64))
    return [Points(one, centre / sum(map(len, given))) for one in given]


class Block:
    """Of some rows of ``x`` and some of ``y``: minus half the squared distance, (r, c), and the error of it, (r,)."""

    def __init__(self, x: Points, y: Points, rows: slice, columns: slice, buffer: Tensor) -> None:
        self.x, self.y, self.rows, self.columns = x, y, rows, columns
        left, right = x.shifted[rows], y.shifted[columns]
        self.value = buffer[: len(left) * len(right)].view(len(left), len(right))
        torch.add(-x.half[rows, None], -y.half[columns], out=self.value)
        for a, b in zip(left.split(FEATURES, dim=1), right.split(FEATURES, dim=1), strict=True):
            self.value.addmm_(a, b.T)
        terms = min(left.shape[1], FEATURES) + math.ceil(left.shape[1] / FEATURES) + 8
        sizes = x.norm[rows] + y.norm[columns].max()
        self.error = (terms * 2.0**-24 * sizes.square() / 2).float()


def blocks(x: Points, y: Points, size: int = BLOCK) -> Iterator[Block]:
    """All blocks of ``x`` and ``y``, row by row. A block is gone when the next one comes."""
    buffer = torch.empty(min(size, len(x)) * min(size, len(y)))
    for start in range(0, len(x), size):
        for other in range(0, len(y), size):
            yield Block(x, y, _part(start, size, x), _part(other, size, y), buffer)


def _part(start: int, size: int, points: Points) -> slice:
    return slice(start, min(start + size, len(points)))


class Nearer:
    """Counts, for each of p questions, the rows of ``y`` that are strictly nearer to a row of ``x`` than ``reach``.

    Question k asks of row ``asked[k]`` of ``x``; ``but``, (p,), is the row of ``y`` that does not count. ``asked`` is
    sorted. ``count`` is int64, (p,).
    """

    def __init__(self, asked: Tensor, reach: Tensor, but: Tensor) -> None:
        self.asked, self.reach, self.but = asked, reach, but
        self.count = torch.zeros(len(asked), dtype=torch.int64)

    def add(self, block: Block) -> None:
        """Take up a block. What it holds is not changed."""
        first, last = torch.searchsorted(self.asked, torch.tensor([block.rows.start, block.rows.stop])).tolist()
        if first == last:
            return
        row = self.asked[first:last] - block.rows.start
        own = self.but[first:last] - block.columns.start
        whole = len(row) == len(block.value) and bool((row == torch.arange(len(row))).all())
        value = block.value if whole else block.value[row]
        limit, error = -self.reach[first:last].square() / 2, block.error[row].double()
        surely, perhaps = ((limit + sign * error).float()[:, None] for sign in (1, -1))
        there = ((own >= 0) & (own < value.shape[1])).nonzero().squeeze(1)
        flags = torch.empty(value.shape)  # ones and zeros: summing up booleans is slow
        certain = _count(torch.gt(value, surely, out=flags), there, own[there])
        possible = _count(torch.ge(value, perhaps, out=flags), there, own[there])
        self.count[first:last] += certain
        unclear = (possible > certain).nonzero().squeeze(1)
        if len(unclear):
            some = value[unclear]
            which, column = ((some >= perhaps[unclear]) & (some <= surely[unclear])).nonzero().T
            which, column = unclear[which] + first, column + block.columns.start
            kept = column != self.but[which]
            which, column = which[kept], column[kept]
            apart = between(block.x.given, block.y.given, self.asked[which], column)
            self.count += torch.bincount(which[apart < self.reach[which]], minlength=len(self.count))


def _count(flags: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Ones in each row of ``flags``, but for those at ``row`` and ``column``; int64."""
    flags[row, column] = 0
    return flags.sum(dim=1).long()


class Closest:
    """Of each row of ``y``, (m, D), the distances to the two nearest rows of ``x``, float64 (m, 2), and the nearest.

    Of rows at the same distance the first is the nearest. The second distance is infinite while ``x`` has one row.
    """

    def __init__(self, count: int) -> None:
        self.apart = torch.full((count, 2), torch.inf, dtype=torch.float64)
        self.row = torch.zeros(count, dtype=torch.int64)

    def add(self, block: Block) -> None:
        """Take up a block. What it holds is not changed."""
        value, columns = block.value, block.columns
        error = block.error.max().double()
        heads = torch.stack([part.amax(dim=0) for part in value.split(GROUP)])
        floor = (-self.apart[columns, 1].square() / 2).float()
        if len(heads) > 1:
            floor = torch.maximum(floor, heads.topk(2, dim=0).values[1])
        low = (floor.double() - 2 * error).float()
        worth = (heads.amax(dim=0) >= low).nonzero().squeeze(1)
        for part in worth.split(GROUP * 8):
            row, which = (value[:, part] >= low[part]).nonzero().T
            self._merge(block, row, part[which])

    def _merge(self, block: Block, row: Tensor, column: Tensor) -> None:
        """Candidates of the block, (p,) each."""
        row, column = row + block.rows.start, column + block.columns.start
        apart = between(block.x.given, block.y.given, row, column)
        there = column.unique()
        column = torch.cat([there, there, column])
        row = torch.cat([self.row[there], torch.full_like(there, len(block.x)), row])
        apart = torch.cat([self.apart[there, 0], self.apart[there, 1], apart])
        order = row.argsort(stable=True)
        order = order[apart[order].argsort(stable=True)]
        order = order[column[order].argsort(stable=True)]
        first = torch.searchsorted(column[order], there)
        self.apart[there] = torch.stack([apart[order[first]], apart[order[first + 1]]], dim=1)
        self.row[there] = row[order[first]]
