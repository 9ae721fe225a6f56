"""Exact search for the nearest training patient, streamed: memory does not grow with samples times references."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from echodream.errors import UserError
from echodream.privacy.similarity import Similarity, exact, normalised

BLOCK = {"cpu": 2048, "cuda": 8192}  # samples and references per product
PAIRS = 16384  # similarities that are computed again in double precision at a time


@dataclass(frozen=True)
class Nearest:
    """For each of n samples, the training patient that is most similar. All arrays are (n,).

    ``score`` is the highest similarity over reference patients, their frames, and the sample's own frames; ``patient``
    whose it is; ``reference`` which one, counted in the order in which references came. Of two patients with the same
    score the one first in alphabetical order is named. ``second_score`` and ``second_patient`` are of the nearest
    *other* patient, where asked for. Euclidean distances are negative: larger is closer.
    """

    score: np.ndarray
    patient: np.ndarray
    reference: np.ndarray
    second_score: np.ndarray | None
    second_patient: np.ndarray | None
    references: int
    patients: int


def nearest(
    samples: Tensor,
    references: Iterable[tuple[Tensor, Sequence[object]]],
    similarity: Similarity = "cosine",
    groups: Sequence[int] | np.ndarray | None = None,
    second: bool = False,
    device: torch.device | str | None = None,
    block: int | None = None,
) -> Nearest:
    """The nearest reference of each sample, exactly.

    ``samples`` are embeddings, (n, D); with ``groups``, (n,), they are frames, and ``groups`` numbers the sample, from
    0, that each belongs to. ``references`` yields blocks of any size: embeddings (b, D) and the patient of each row. At
    most ``block`` x ``block`` similarities exist at a time. What ties within float32's precision is compared again in
    double precision, so neither the order nor the blocks of the references change the scores.
    """
    where = torch.device(device) if device is not None else samples.device
    size = block or BLOCK.get(where.type, 2048)
    with torch.no_grad(), _full_precision():
        search = _Search(normalised(samples.to(where), similarity, "samples"), similarity, 2 if second else 1)
        for embeddings, patients in _reblocked(references, similarity, size, samples.shape[-1], where):
            search.add(embeddings, patients, size)
    return search.result(None if groups is None else np.asarray(groups))


def _reblocked(
    references: Iterable[tuple[Tensor, Sequence[object]]],
    similarity: Similarity,
    size: int,
    width: int,
    device: torch.device,
) -> Iterator[tuple[Tensor, list[str]]]:
    """Normalised references in blocks of ``size`` rows, however they come; the last may be shorter."""
    rows: list[Tensor] = []
    names: list[str] = []
    for embeddings, patients in references:
        if len(patients) != len(embeddings):
            raise UserError(f"{len(embeddings)} references came with {len(patients)} patients: each row needs its own.")
        if len(embeddings) == 0:
            continue
        if embeddings.shape[-1] != width:
            raise UserError(
                f"References have {embeddings.shape[-1]} features and samples {width}: use one identity network for "
                "both."
            )
        rows.append(embeddings.to(device))
        names.extend(str(patient) for patient in patients)
        if len(names) >= size:
            joined = rows[0] if len(rows) == 1 else torch.cat(rows)
            whole = len(joined) - len(joined) % size
            for start in range(0, whole, size):
                yield normalised(joined[start : start + size], similarity, "references"), names[start : start + size]
            rows, names = [joined[whole:].clone()], names[whole:]
    if names:
        yield normalised(torch.cat(rows), similarity, "references"), names


class _Search:
    """The ``keep`` best distinct patients of each sample so far."""

    def __init__(self, samples: Tensor, similarity: Similarity, keep: int) -> None:
        self.similarity, self.keep = similarity, keep
        self.centre = samples.double().mean(dim=0).float() if similarity == "euclidean" else None
        self.samples = samples
        self.shifted = samples if self.centre is None else samples - self.centre
        self.size = self.shifted.norm(dim=1)
        shape, device = (len(samples), keep), samples.device
        self.score = torch.full(shape, -torch.inf, dtype=torch.float64, device=device)
        self.patient = torch.full(shape, -1, dtype=torch.int64, device=device)
        self.reference = torch.full(shape, -1, dtype=torch.int64, device=device)
        self.codes: dict[str, int] = {}
        self.rank: tuple[int, Tensor] = (0, torch.empty(0, dtype=torch.int64))
        self.count = 0
        self.first: Tensor | None = None
        self.constant = True
        self.buffer = torch.empty(0, device=device)

    def add(self, references: Tensor, patients: list[str], size: int) -> None:
        """Compare all samples with a block of normalised references, (b, D)."""
        numbers = [self.codes.setdefault(name, len(self.codes)) for name in patients]
        codes = torch.tensor(numbers, device=references.device)
        self.first = references[0].clone() if self.first is None else self.first
        self.constant = self.constant and bool((references == self.first).all())
        shifted = references if self.centre is None else references - self.centre
        bias = None if self.centre is None else shifted.square().sum(dim=1) / -2
        largest = shifted.norm(dim=1).amax()
        for start in range(0, len(self.samples), size):
            rows = slice(start, min(start + size, len(self.samples)))
            product = self._product(self.shifted[rows], shifted, bias)
            floor, slack = self._floor(rows, largest)
            promising = (product.amax(dim=1) >= floor).nonzero().squeeze(1)
            if len(promising):
                self._merge(promising + start, product[promising], slack[promising], references, codes)
        self.count += len(references)

    def _product(self, samples: Tensor, references: Tensor, bias: Tensor | None) -> Tensor:
        """(r, b): what grows with similarity. For distances x.y - |y|^2/2, which orders references as -|x - y| does."""
        shape = (len(samples), len(references))
        if self.buffer.numel() < shape[0] * shape[1]:
            self.buffer = torch.empty(shape[0] * shape[1], device=samples.device)
        out = self.buffer[: shape[0] * shape[1]].view(shape)
        if bias is None:
            return torch.mm(samples, references.T, out=out)
        return torch.addmm(bias, samples, references.T, out=out)

    def _floor(self, rows: slice, largest: Tensor) -> tuple[Tensor, Tensor]:
        """(r,) each: below the first a product cannot belong to the best; the second bounds float32's error of one."""
        worst, size = self.score[rows, -1], self.size[rows]
        if self.centre is not None:
            worst = (size.double().square() - worst.square()) / 2
        scale = size * largest if self.centre is None else 2 * (size * largest + size.square() + largest.square())
        slack = (self.samples.shape[1] + 4) * 2.0**-24 * scale
        return (worst - slack).float(), slack

    def _merge(self, rows: Tensor, product: Tensor, slack: Tensor, references: Tensor, codes: Tensor) -> None:
        """Take up, for ``rows``, (c,), the best patients of a block; ``product``, (c, b), is used up."""
        state = [part[rows] for part in (self.score, self.patient, self.reference)]
        for turn in range(self.keep):
            score, column = self._tied(rows, product, slack, references, codes)
            found = (score, codes[column].masked_fill(score == -torch.inf, -1), column + self.count)
            state = [torch.cat([part, new[:, None]], dim=1) for part, new in zip(state, found, strict=True)]
            if turn + 1 < self.keep:
                product.masked_fill_(codes == codes[column][:, None], -torch.inf)
        row = torch.arange(len(rows), device=rows.device).repeat_interleave(state[0].shape[1])
        best = self._distinct(row, *(part.flatten() for part in state))
        self.score[rows], self.patient[rows], self.reference[rows] = best

    def _tied(
        self, rows: Tensor, product: Tensor, slack: Tensor, references: Tensor, codes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Score and column of the best of each row of ``product``, (c, b), among all that float32 cannot tell apart."""
        highest = product.amax(dim=1)
        row, column = ((product >= (highest - 2 * slack)[:, None]) & (product > -torch.inf)).nonzero().T
        score = torch.full((len(rows),), -torch.inf, dtype=torch.float64, device=rows.device)
        best = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        parts = zip(rows[row].split(PAIRS), column.split(PAIRS), strict=True)
        exactly = [exact(self.samples[x], references[y], self.similarity) for x, y in parts]
        if not exactly:
            return score, best
        order = self._order(row, torch.cat(exactly), codes[column])
        first = order[_firsts(row[order])]
        score[row[first]], best[row[first]] = torch.cat(exactly)[first], column[first]
        return score, best

    def _order(self, group: Tensor, score: Tensor, patient: Tensor) -> Tensor:
        """Indices by group, in it by falling score, and at equal scores by the patient's name. All are (p,)."""
        order = score.argsort(descending=True, stable=True)
        order = order[group[order].argsort(stable=True)]
        equal = (group[order][1:] == group[order][:-1]) & (score[order][1:] == score[order][:-1])
        if not equal.any():
            return order
        order = self._ranks()[patient.clamp(min=0)].argsort(stable=True)
        order = order[score[order].argsort(descending=True, stable=True)]
        return order[group[order].argsort(stable=True)]

    def _distinct(self, group: Tensor, score: Tensor, patient: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The ``keep`` best distinct patients of each group, numbered from 0; (p,) each to (groups, keep) each."""
        order = self._order(group, score, patient)
        group, score, patient, place = (part[order] for part in (group, score, patient, place))
        best = [_firsts(group)]
        if self.keep == 2:
            others = ((patient != patient[best[0]][group]) | (patient < 0)).nonzero().squeeze(1)
            best.append(others[_firsts(group[others])])
        columns = torch.stack(best, dim=1)
        return score[columns], patient[columns], place[columns]

    def _ranks(self) -> Tensor:
        """The place of each patient's name in alphabetical order; (patients,)."""
        if self.rank[0] != len(self.codes):
            order = np.argsort(np.array(list(self.codes)), kind="stable")
            ranks = np.empty(len(order), dtype=np.int64)
            ranks[order] = np.arange(len(order))
            self.rank = (len(self.codes), torch.from_numpy(ranks).to(self.samples.device))
        return self.rank[1]

    def result(self, groups: np.ndarray | None) -> Nearest:
        """What was found, with frames brought together to samples."""
        self._check()
        if groups is not None:
            self._group(groups)
        names = np.array(list(self.codes), dtype=object)
        score, patient = self.score.cpu().numpy(), names[self.patient.cpu().numpy()]
        two = self.keep == 2
        return Nearest(
            score=score[:, 0],
            patient=patient[:, 0],
            reference=self.reference[:, 0].cpu().numpy(),
            second_score=score[:, 1] if two else None,
            second_patient=patient[:, 1] if two else None,
            references=self.count,
            patients=len(self.codes),
        )

    def _check(self) -> None:
        if self.count == 0:
            raise UserError("There is no reference: name a store with recordings of training patients.")
        if self.constant and self.count > 1:
            raise UserError(
                "All references have the same embedding: the identity network has collapsed; train it again."
            )
        if len(self.codes) < self.keep:
            raise UserError("The references are of one patient only: the second nearest needs two or more.")

    def _group(self, groups: np.ndarray) -> None:
        """From frames, (n, keep), to samples: the best distinct patients over each sample's frames."""
        if groups.shape != (len(self.samples),) or set(groups.tolist()) != set(range(int(groups.max()) + 1)):
            raise UserError("groups must number the sample of every frame, from 0 and without gaps.")
        group = torch.from_numpy(groups.astype(np.int64)).to(self.samples.device).repeat_interleave(self.keep)
        found = (part.flatten() for part in (self.score, self.patient, self.reference))
        self.score, self.patient, self.reference = self._distinct(group, *found)


def _firsts(group: Tensor) -> Tensor:
    """Where each number begins in ``group``, which is sorted."""
    new = torch.ones_like(group, dtype=torch.bool)
    new[1:] = group[1:] != group[:-1]
    return new.nonzero().squeeze(1)


@contextmanager
def _full_precision() -> Iterator[None]:
    """Matrix products in true float32, whatever the caller has set."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
