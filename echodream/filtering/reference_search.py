"""What ``stage=filter`` compares: samples, new patients and known copies, with the frames of all training patients."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from echodream.datamodules.recordings import Recordings
from echodream.errors import UserError
from echodream.filtering.copy_generation import FrameSelection
from echodream.filtering.embedding import FrameEmbedder, places
from echodream.filtering.positive_controls import Control, left_out
from echodream.privacy.nearest_neighbors import nearest_patients
from echodream.privacy.similarity import Similarity, normalize, paired_similarity

FRAMES = 1024
"""Frames of queries that are embedded, and seen in other ways, at a time."""

View = Callable[[Tensor], list[Tensor]]


@dataclass(frozen=True)
class Query:
    """Embedded frames, (k, D), whose score is the highest of any. A copy says what it was ``taken`` from, and how."""

    frames: Tensor
    control: Control | None = None
    taken: FrameSelection | None = None

    @property
    def lacks(self) -> bool:
        """Whether some frames of its own patient are no references for it."""
        return self.control is not None and self.control.leave_out != "nothing"


@dataclass(frozen=True)
class Compared:
    """For each of n queries: the ``score``, whose it is, in which recording and frame. All are (n,).

    Where a copy's own patient has no other reference its score is NaN, and where parts of the patient are left out
    nearest patient, recording and frame are those of all references.
    """

    score: np.ndarray
    patient: np.ndarray
    recording: np.ndarray
    place: np.ndarray
    references: int
    patients: int


def embedded(embedder: FrameEmbedder, latents: Iterable[Tensor], views: Sequence[View] = ()) -> Iterator[Tensor]:
    """Each of ``latents``, unscaled (f, C, H, W), in all ``ways`` of the embedder: (f ways, D)."""
    held: list[Tensor] = []
    for one in latents:
        held.append(one)
        if sum(map(len, held)) >= FRAMES:
            yield from _together(embedder, held, views)
            held = []
    if held:
        yield from _together(embedder, held, views)


def _together(embedder: FrameEmbedder, held: list[Tensor], views: Sequence[View]) -> Iterator[Tensor]:
    whole, sizes = torch.cat(held), [len(one) for one in held]
    seen = embedder.ways(whole, views)
    for parts in zip(*(part.split(sizes) for part in seen), strict=True):
        yield torch.cat(parts)


class References:
    """The frames of the training recordings ``rows``: every ``every``-th, or only the ``first`` of each."""

    def __init__(self, embedder: FrameEmbedder, rows: Recordings, every: int = 1, first: bool = False) -> None:
        self.embedder, self.rows, self.every, self.first = embedder, rows, every, first
        self.patients = rows.table["PatientID"].astype(str).to_numpy()
        if len(set(self.patients.tolist())) < 2:
            raise UserError(
                f"{rows.store.root} has one TRAIN patient only: whom a sample is nearest to says nothing then; "
                "ingest more patients"
            )

    def compare(self, queries: Sequence[Query], similarity: Similarity) -> Compared:
        """The nearest reference of each query, in one pass over the references, which need not fit in memory."""
        groups = np.repeat(np.arange(len(queries)), [len(query.frames) for query in queries])
        frames = torch.cat([query.frames for query in queries])
        own = np.full(len(queries), -np.inf)
        found = nearest_patients(frames, self._stream(queries, own, similarity), similarity, groups, second=True)
        assert found.second_score is not None
        score = found.score.copy()
        for number, query in enumerate(queries):
            if query.lacks and query.taken is not None:
                mine = found.patient[number] == self.patients[query.taken.row]
                others = found.second_score[number] if mine else found.score[number]
                score[number] = max(others, own[number]) if np.isfinite(own[number]) else np.nan
        sizes = [len(places(self.rows, row, self.every, self.first)) for row in range(len(self.rows))]
        ends = np.cumsum(sizes)
        row = np.searchsorted(ends, found.reference, side="right")
        place = (found.reference - (ends - sizes)[row]) * self.every
        names = np.array(self.rows.names, dtype=object)[row]
        return Compared(score, found.patient, names, place, found.references, found.patients)

    def _stream(
        self, queries: Sequence[Query], own: np.ndarray, similarity: Similarity
    ) -> Iterator[tuple[Tensor, list[str]]]:
        """The references; on their way, ``own`` takes each copy's score among what is left of its own patient."""
        lacking: dict[str, list[int]] = {}
        for number, query in enumerate(queries):
            if query.lacks and query.taken is not None:
                lacking.setdefault(self.patients[query.taken.row], []).append(number)
        stream = self.embedder.recordings(self.rows, self.every, self.first)
        for row, (embeddings, patients) in enumerate(
            tqdm(stream, "references", len(self.rows), unit="rec", disable=None)
        ):
            there = places(self.rows, row, self.every, self.first)
            for number in lacking.get(self.patients[row], ()):
                query = queries[number]
                assert query.control is not None
                assert query.taken is not None
                kept = torch.from_numpy(~left_out(query.control, query.taken, row, there))
                if kept.any():
                    own[number] = max(own[number], _highest(query.frames, embeddings[kept], similarity))
            yield embeddings, patients


def _highest(queries: Tensor, references: Tensor, similarity: Similarity) -> float:
    """The highest similarity of any of ``queries``, (k, D), to any of ``references``, (n, D)."""
    x, y = normalize(queries, similarity, "samples"), normalize(references, similarity, "references")
    return max(float(paired_similarity(one.expand_as(y), y, similarity).max()) for one in x)


def train_to_test(references: References, held_out: Recordings, similarity: Similarity) -> np.ndarray:
    """For each training reference the highest similarity to a test one, (n_train,), for the published rule."""
    embedder, every, first = references.embedder, references.every, references.first
    training = torch.cat([part for part, _ in embedder.recordings(references.rows, every, first)])
    return nearest_patients(training, embedder.recordings(held_out, every, first), similarity).score
