"""Exact nearest neighbors by blocks of rows: memory does not grow with the product of the two numbers of rows.

``PatientSearch`` finds the nearest patients in a stream of references. ``similarity_blocks`` and ``NearestReferences``
compare two sets in memory. ``distance_blocks`` and the functions after it compute Euclidean distances.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from echodream.errors import UserError
from echodream.privacy.similarity import Similarity, euclidean_distances, normalize, similarity_matrix

BLOCK = {"cpu": 2048, "cuda": 8192}
"""Number of rows of each set in a block, by type of device."""
DISTANCE_ROWS = 512
"""Number of rows in a block of ``distance_blocks``."""


@dataclass(frozen=True)
class NearestPatients:
    """The nearest training patient of each of n samples. All arrays are (n,). Euclidean distances are negative.

    ``score``: highest similarity of any frame of the sample to any reference, at single precision. ``patient``: patient
    of the nearest reference, the first in alphabetical order in a tie. ``reference``: index of the nearest reference in
    the stream. ``second_score``, ``second_patient``: score and name of the second nearest patient; None if not
    requested.
    """

    score: np.ndarray
    patient: np.ndarray
    reference: np.ndarray
    second_score: np.ndarray | None
    second_patient: np.ndarray | None
    references: int
    patients: int


def nearest_patients(
    samples: Tensor,
    references: Iterable[tuple[Tensor, Sequence[object]]],
    similarity: Similarity = "cosine",
    groups: Sequence[int] | np.ndarray | None = None,
    find_second: bool = False,
    device: torch.device | str | None = None,
    block: int | None = None,
) -> NearestPatients:
    """Nearest patients among ``references``: parts of any size with embeddings, (b, D), and the patient of each row.

    ``PatientSearch.result`` describes ``groups``; ``PatientSearch`` describes the arguments that are not named here.
    """
    search = PatientSearch(samples, similarity, find_second, device, block)
    for embeddings, patients in references:
        search.add(embeddings, patients)
    return search.result(groups)


class PatientSearch:
    """Search for the nearest reference patient of each sample; references are added in parts of any size.

    ``samples``: embeddings, (n, D). ``find_second``: whether to find the second nearest patient, too. At most ``block``
    x ``block`` similarities exist at a time, on ``device`` (default: the device of the samples). Neither the order nor
    the parts of the references change the scores. Raises ``UserError`` for embeddings that cannot be compared.
    """

    def __init__(
        self,
        samples: Tensor,
        similarity: Similarity = "cosine",
        find_second: bool = False,
        device: torch.device | str | None = None,
        block: int | None = None,
    ) -> None:
        self.device = torch.device(device) if device is not None else samples.device
        self.similarity, self.size = similarity, block or BLOCK.get(self.device.type, 2048)
        self.samples = normalize(samples.detach().to(self.device), similarity, "samples")
        self.center = self.samples.double().mean(dim=0).float() if similarity == "euclidean" else None
        self.codes: dict[str, int] = {}
        self.nearest = NearestReferences(len(samples), find_second, self.codes)
        self.count = 0
        self._first: Tensor | None = None
        self._constant = True
        self._rows: list[Tensor] = []
        self._names: list[str] = []

    def add(self, embeddings: Tensor, patients: Sequence[object]) -> None:
        """Add references, (b, D), and the patient of each row."""
        if len(patients) != len(embeddings):
            raise UserError(f"{len(embeddings)} references and {len(patients)} patients: give the patient of each row.")
        if len(embeddings) == 0:
            return
        if embeddings.shape[-1] != self.samples.shape[1]:
            counts = f"{embeddings.shape[-1]} features and samples {self.samples.shape[1]}"
            raise UserError(f"References have {counts}: use one identity network for both.")
        self._rows.append(embeddings.detach().to(self.device))
        self._names.extend(str(patient) for patient in patients)
        if len(self._names) >= self.size:
            self._search_pending(len(self._names) - len(self._names) % self.size)

    def _search_pending(self, count: int) -> None:
        """Search the first ``count`` references that were added but not yet searched, in blocks of ``size`` rows."""
        waiting, names = self._rows[0] if len(self._rows) == 1 else torch.cat(self._rows), self._names
        for start in range(0, count, self.size):
            rows = slice(start, min(start + self.size, count))
            self._search_block(normalize(waiting[rows], self.similarity, "references"), names[rows])
        self._rows, self._names = [waiting[count:].clone()], names[count:]

    def _search_block(self, embeddings: Tensor, patients: list[str]) -> None:
        self._first = embeddings[0].clone() if self._first is None else self._first
        self._constant = self._constant and bool((embeddings == self._first).all())
        codes = np.array([self.codes.setdefault(name, len(self.codes)) for name in patients])
        order = np.argsort(np.array(patients), kind="stable")  # a tie goes to the first name in alphabetical order
        embeddings = embeddings[torch.from_numpy(order).to(self.device)]
        for start in range(0, len(self.samples), self.size):
            rows = slice(start, min(start + self.size, len(self.samples)))
            values = similarity_matrix(self.samples[rows], embeddings, self.similarity, self.center)
            self.nearest.add(rows, values, codes[order], self.count + order)
        self.count += len(patients)

    def result(self, groups: Sequence[int] | np.ndarray | None = None) -> NearestPatients:
        """Nearest patients of the samples. ``groups``, (n,), if rows are frames: sample of each frame, from 0."""
        if self._names:
            self._search_pending(len(self._names))
        if self.count == 0:
            raise UserError("There is no reference: name a store with recordings of training patients.")
        if self._constant and self.count > 1:
            raise UserError(
                "All references have the same embedding: the identity network has collapsed; train it again"
            )
        second = self.nearest.find_second
        if second and len(self.codes) < 2:
            raise UserError("The references are of one patient only: the second nearest needs two or more.")
        nearest = self.nearest if groups is None else self.nearest.merge_frames(np.asarray(groups))
        score, patient = nearest.score.astype(np.float64), np.array([*self.codes], dtype=object)[nearest.patient]
        return NearestPatients(
            score=score[:, 0],
            patient=patient[:, 0],
            reference=nearest.reference,
            second_score=score[:, 1] if second else None,
            second_patient=patient[:, 1] if second else None,
            references=self.count,
            patients=len(self.codes),
        )


class NearestReferences:
    """The nearest known reference of each of ``count`` samples, and, if ``find_second``, the second nearest patient.

    ``score``, float32, and ``patient``, int64: (count, 1 or 2); ``reference``, int64: (count,). Without a reference,
    the score is -inf and the indices are -1. A tie goes to the reference that was added first, or, with ``codes``
    (patient numbers by name), to the first patient in alphabetical order.
    """

    def __init__(self, count: int, find_second: bool = True, codes: dict[str, int] | None = None) -> None:
        self.find_second, self.codes = find_second, codes
        self.score = np.full((count, 1 + find_second), -np.inf, dtype=np.float32)
        self.patient = np.full((count, 1 + find_second), -1, dtype=np.int64)
        self.reference = np.full(count, -1, dtype=np.int64)

    def add(self, rows: slice, values: Tensor, patients: np.ndarray, references: np.ndarray) -> None:
        """Add ``values``, similarities (r, b) of the samples ``rows`` to b references, sorted by patient name.

        ``patients``: code of the patient of each reference, (b,); ``references``: indices of the references, (b,).
        """
        nearest = [values.max(dim=1)]
        if self.find_second:
            codes = torch.from_numpy(patients).to(values.device)
            same_patient = codes[nearest[0].indices][:, None] == codes
            nearest.append(values.masked_fill(same_patient, -torch.inf).max(dim=1))
        score = torch.stack([each.values for each in nearest], dim=1).cpu().numpy()
        column = torch.stack([each.indices for each in nearest], dim=1).cpu().numpy()
        self._merge_neighbors(rows, score, np.where(score == -np.inf, -1, patients[column]), references[column[:, 0]])

    def _merge_neighbors(
        self, rows: slice | np.ndarray, score: np.ndarray, patient: np.ndarray, reference: np.ndarray
    ) -> None:
        """Keep the nearest of stored and new neighbors: ``score``, ``patient``, (r, 1 or 2); ``reference``, (r,)."""
        scores = np.concatenate([self.score[rows], score], axis=1)
        patients = np.concatenate([self.patient[rows], patient], axis=1)
        ranks, in_order = np.zeros_like(patients), np.sort(scores, axis=1)
        tied = ((in_order[:, 1:] == in_order[:, :-1]) & (in_order[:, 1:] > -np.inf)).any(axis=1)
        if self.codes is not None and tied.any():
            ranks[tied] = _name_ranks(patients[tied], [*self.codes])
        order = np.lexsort((ranks, -scores), axis=1)  # stable: a tie goes to the first entry
        self.reference[rows] = np.where(order[:, 0] < self.score.shape[1], self.reference[rows], reference)
        scores, patients = (np.take_along_axis(part, order, axis=1) for part in (scores, patients))
        columns = [np.zeros(len(scores), np.int64)]
        if self.find_second:
            columns.append((patients != patients[:, :1]).argmax(axis=1))
        best = np.stack(columns, axis=1)
        self.score[rows], self.patient[rows] = (np.take_along_axis(part, best, axis=1) for part in (scores, patients))

    def merge_frames(self, groups: np.ndarray) -> "NearestReferences":
        """Nearest reference over the frames of each sample; ``groups``, (count,): index of the sample of each frame."""
        if groups.shape != self.reference.shape or set(groups.tolist()) != set(range(int(groups.max()) + 1)):
            raise UserError("groups must have the index of the sample of every frame, from 0 and without gaps.")
        order = np.argsort(groups, kind="stable")
        sizes = np.bincount(groups)
        position = np.arange(len(groups)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        merged = NearestReferences(len(sizes), self.find_second, self.codes)
        for number in range(int(sizes.max())):
            frames = order[position == number]
            merged._merge_neighbors(groups[frames], self.score[frames], self.patient[frames], self.reference[frames])
        return merged


def _name_ranks(patients: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Alphabetical rank of each of ``patients``, indices in ``names``, among the names of these patients."""
    codes = np.unique(patients)
    ranks = np.argsort(np.argsort(np.array([names[code] for code in codes]), kind="stable"))
    return ranks[np.searchsorted(codes, patients)]


def similarity_blocks(
    x: Tensor, y: Tensor, similarity: Similarity, size: int = BLOCK["cpu"], center: Tensor | None = None
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield the row slices of ``x`` and of ``y``, and the similarities between them, float32 (r, c), block by block."""
    for start in range(0, len(x), size):
        rows = slice(start, min(start + size, len(x)))
        for other in range(0, len(y), size):
            columns = slice(other, min(other + size, len(y)))
            yield rows, columns, similarity_matrix(x[rows], y[columns], similarity, center)


def check_embeddings(name: str, *sets: Tensor, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Check ``sets`` of embeddings, (n_i, D) with the same D; returns the sets as ``dtype``, without gradients.

    Raises ``UserError``, which names the measure ``name``, for sets of another shape and for NaN or infinite values.
    """
    for embeddings in sets:
        if embeddings.ndim != 2 or 0 in embeddings.shape or embeddings.shape[1] != sets[0].shape[1]:
            shapes = ", ".join(str(tuple(each.shape)) for each in sets)
            raise UserError(f"{name} needs embeddings (n, D) of the same D and at least one row each, not {shapes}.")
        if not torch.isfinite(embeddings).all():
            raise UserError(f"{name} was given NaN or infinite embeddings: the network that made them is broken.")
    return [embeddings.detach().to(dtype) for embeddings in sets]


def distance_blocks(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield row slices of ``x``, (n, D), and the Euclidean distances of the rows to ``y``, (m, D): (b, m)."""
    for start in range(0, len(x), DISTANCE_ROWS):
        rows = slice(start, min(start + DISTANCE_ROWS, len(x)))
        yield rows, torch.cdist(x[rows], y, compute_mode="donot_use_mm_for_euclid_dist")


def fast_distance_blocks(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Like ``distance_blocks``, by matrix products and rounded to float32, so that equal pairs have equal distances."""
    center = y.mean(dim=0)
    y = y - center
    for start in range(0, len(x), DISTANCE_ROWS):
        rows = slice(start, min(start + DISTANCE_ROWS, len(x)))
        yield rows, euclidean_distances(x[rows] - center, y).float().to(x.dtype)


def nearest_rows(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Distance of each row of ``x``, (n, D), to the nearest row of ``y``, (m, D), and the index of this row."""
    nearest = [distances.min(dim=1) for _, distances in fast_distance_blocks(x, y)]
    return torch.cat([each.values for each in nearest]), torch.cat([each.indices for each in nearest])


def neighbor_radii(x: Tensor, k: int) -> Tensor:
    """Distance of each row of ``x``, (n, D), to its ``k``-th nearest other row; (n,)."""
    if not 1 <= k < len(x):
        raise UserError(f"k={k} neighbors need more than {k} embeddings, and there are {len(x)}.")
    radii = []
    for rows, distances in distance_blocks(x, x):
        distances[torch.arange(len(distances)), torch.arange(rows.start, rows.stop)] = torch.inf
        radii.append(distances.kthvalue(k, dim=1).values)
    return torch.cat(radii)


def nearest_other_patient(x: Tensor, patients: np.ndarray) -> Tensor:
    """Distance, (n,), of each row of ``x``, (n, D), to the nearest row of another patient; ``patients``: int (n,)."""
    codes = torch.from_numpy(patients).to(x.device)
    if len(codes.unique()) < 2:
        raise UserError("There is only one patient: the nearest other patient needs two or more.")
    blocks = ((codes[rows][:, None] == codes, distances) for rows, distances in fast_distance_blocks(x, x))
    return torch.cat([distances.masked_fill_(same, torch.inf).amin(dim=1) for same, distances in blocks])


def distance_to_each_patient(x: Tensor, y: Tensor, patients: np.ndarray) -> Tensor:
    """Distance of each row of ``x``, (n, D), to the nearest row of each patient of ``y``, (m, D): (n, patients).

    ``patients``: index of the patient of each row of ``y``, int from 0, (m,).
    """
    codes = torch.from_numpy(patients).to(y.device)
    table = torch.full((len(x), int(codes.max()) + 1), torch.inf, dtype=x.dtype, device=x.device)
    for rows, distances in fast_distance_blocks(x, y):
        table[rows] = table[rows].scatter_reduce(1, codes.expand_as(distances), distances, "amin")
    return table
