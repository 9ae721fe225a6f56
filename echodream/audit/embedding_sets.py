"""What ``stage=audit`` looks at: samples, training patients and held-out patients as embeddings, all seen alike."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from echodream import validation
from echodream.datamodules.key_frames import find_triples, nearest_triple
from echodream.datamodules.recordings import Recordings
from echodream.filtering.embedding import latents, spread
from echodream.privacy.similarity import Similarity, normalize

BLOCK = 4096
"""Frames whose latents are in memory at once."""

Plan = list[tuple[int, np.ndarray]]
"""Rows of a store, and the frames of each that are looked at."""


@dataclass(frozen=True)
class EmbeddingSet:
    """Samples, or patients, by their normalize embeddings. n of them."""

    names: list[str]
    """Of samples or patients, sorted."""
    seen: Tensor
    """As a sample is seen, f frames of one recording: (n, f, D)."""
    pairs: Tensor
    """Two views of each: frames of two recordings, or of one where there is no other: (n, 2, D)."""
    paired: Tensor
    """Whether the two views are different frames: bool, (n,). Samples of one frame count as their own second view."""
    frames: Tensor
    """Of patients, as many frames of all recordings of each: (n, P, D). Of samples, the same as ``seen``."""
    sequences: list[Tensor]
    """Frames in their order, of one recording each: (F_i, D)."""
    shown: Plan
    """The row and the frames of ``seen``."""

    def first(self) -> Tensor:
        """One frame of each: (n, D)."""
        return self.seen[:, 0]

    def only(self, rows: Sequence[int] | np.ndarray) -> "EmbeddingSet":
        """These ``rows`` alone."""
        kept = [int(row) for row in rows]
        lists: dict[str, Any] = {n: [getattr(self, n)[row] for row in kept] for n in ("names", "sequences", "shown")}
        return replace(self, **lists, **{n: getattr(self, n)[kept] for n in ("seen", "pairs", "paired", "frames")})

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class EmbeddingSetConfig:
    """How much is looked at. Raises ``UserError`` for numbers that cannot be."""

    frames: int
    """Of a sample, and of a patient who is seen as one."""
    per_patient: int
    """Frames of a patient, spread over all recordings."""
    every: int
    """Of a video's frames, for its identity along time."""
    seed: int

    def __post_init__(self) -> None:
        for name, least in (("frames", 1), ("per_patient", 1), ("every", 1), ("seed", 0)):
            validation.whole_number(name, getattr(self, name), least)


class EmbeddingSetBuilder:
    """Makes sides of the same kind: ``count`` frames of each, key frames where samples are three of one beat.

    ``embed`` takes unscaled latents, (n, C, H, W), to embeddings, (n, D), which are compared by ``similarity``. All
    choices of recordings and frames depend on ``look`` alone, so galleries with other embeddings see the same frames.
    """

    def __init__(
        self, embed: Callable[[Tensor], Tensor], similarity: Similarity, look: EmbeddingSetConfig, samples: Recordings
    ) -> None:
        self.embed, self.similarity, self.look, self.samples = embed, similarity, look, samples
        self.shortest, self.longest = int(samples.frames.min()), int(samples.frames.max())
        self.count = min(look.frames, self.shortest)
        self.whole = self.longest == self.count
        """Whether all frames of all samples are looked at."""

    def of_samples(self) -> EmbeddingSet:
        """All samples."""
        rows = self.samples
        plan = [(row, spread(int(frames), self.count)) for row, frames in enumerate(rows.frames)]
        seen = torch.stack(self._embedded(rows, plan, "samples"))
        sequences = [*seen]
        if not self.whole:
            sequences = self._embedded(
                rows, [(row, self._along(int(n))) for row, n in enumerate(rows.frames)], "videos"
            )
        pairs = torch.stack([seen[:, 0], seen[:, self.count // 2]], dim=1)
        return EmbeddingSet(rows.names, seen, pairs, torch.ones(len(seen), dtype=torch.bool), seen, sequences, plan)

    def of_patients(self, rows: Recordings, what: str, sequences: bool) -> EmbeddingSet:
        """The patients of ``rows``; with ``sequences`` also along time. ``what`` names them in the progress bar."""
        names = np.unique(rows.table["PatientID"].astype(str).to_numpy())
        rngs = [np.random.default_rng([self.look.seed, number]) for number in range(len(names))]
        orders = [rng.permutation(np.flatnonzero(rows.patient_numbers == n)) for n, rng in enumerate(rngs)]
        one = [self._as_sample(rows, int(order[0]), rng) for order, rng in zip(orders, rngs, strict=True)]
        two = [self._second(rows, order, plan, rng) for order, plan, rng in zip(orders, one, rngs, strict=True)]
        seen = torch.stack(self._embedded(rows, one, what))
        second = torch.cat(self._embedded(rows, two, f"{what}, second view"))
        paired = [a[0] != b[0] or a[1][0] != b[1][0] for a, b in zip(one, two, strict=True)]
        lines = [*seen]
        if sequences and not self.whole:
            lines = self._embedded(rows, [(row, self._along(int(rows.frames[row]))) for row, _ in one], f"{what}, time")
        return EmbeddingSet(
            names=names.tolist(),
            seen=seen,
            pairs=torch.stack([seen[:, 0], second], dim=1),
            paired=torch.tensor(paired),
            frames=self._all_frames(rows, len(names), what),
            sequences=lines,
            shown=one,
        )

    def _along(self, frames: int) -> np.ndarray:
        return np.arange(0, min(frames, self.longest), self.look.every)

    def _as_sample(self, rows: Recordings, row: int, rng: np.random.Generator) -> tuple[int, np.ndarray]:
        """Frames of a recording as a sample has them: a beat's key frames, a random frame, or frames spread over it."""
        frames = int(rows.frames[row])
        if (
            self.count == self.longest == 3
            and {"ED", "ES"} <= set(rows.table.columns)
            and (found := find_triples(rows, row))
        ):
            return row, np.array(nearest_triple(found, (frames - 1) / 2))
        return row, np.array([rng.integers(frames)]) if self.count == 1 else spread(frames, self.count)

    def _second(
        self, rows: Recordings, order: np.ndarray, first: tuple[int, np.ndarray], rng: np.random.Generator
    ) -> tuple[int, np.ndarray]:
        """One frame for the second view: of the next recording in ``order``, or another frame of the only one."""
        row, places = self._as_sample(rows, int(order[1 % len(order)]), rng)
        place, frames = int(places[self.count // 2]), int(rows.frames[row])
        if row == first[0] and place == int(first[1][0]):
            place = (place + max(frames // 2, 1)) % frames
        return row, np.array([place])

    def _all_frames(self, rows: Recordings, patients: int, what: str) -> Tensor:
        """As many frames of each patient, spread over all recordings one after the other: (n, P, D)."""
        count = min(self.look.per_patient, int(np.bincount(rows.patient_numbers, rows.frames).max()))
        plan: Plan = []
        for patient in range(patients):
            own = np.flatnonzero(rows.patient_numbers == patient)
            ends = np.cumsum(rows.frames[own])
            places = spread(int(ends[-1]), count)
            which = np.searchsorted(ends, places, side="right")
            starts = ends - rows.frames[own]
            plan += [(int(own[k]), places[which == k] - starts[k]) for k in np.unique(which)]
        found = torch.cat(self._embedded(rows, plan, f"{what}, all frames"))
        return found.unflatten(0, (patients, count))

    def _embedded(self, rows: Recordings, plan: Plan, what: str) -> list[Tensor]:
        """Normalised embeddings of what is planned, (f, D) each."""
        found: list[Tensor] = []
        waiting: list[Tensor] = []
        for row, places in tqdm(plan, what, unit="rec", disable=None, leave=False):
            waiting.append(latents(rows, row, places))
            if sum(map(len, waiting)) >= BLOCK:
                found += self._embed(waiting, what)
                waiting = []
        return found + (self._embed(waiting, what) if waiting else [])

    def _embed(self, parts: list[Tensor], what: str) -> list[Tensor]:
        embeddings = self.embed(torch.cat(parts))
        return list(normalize(embeddings, self.similarity, f"embeddings of {what}").split([len(x) for x in parts]))
