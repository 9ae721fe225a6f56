"""Embedding sets of ``stage=audit``: samples, training patients and held-out patients, embedded in the same way."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from echodream import validation
from echodream.datamodules.key_frames import evenly_spaced_frames, marked_triples, nearest_triple
from echodream.datamodules.normalization import whiten
from echodream.datamodules.recordings import Recordings
from echodream.errors import UserError
from echodream.filtering.embedding import FrameEmbedder, group_parts
from echodream.privacy.attacks.copying import cell_centers
from echodream.privacy.nearest_neighbors import (
    NearestPatients,
    distance_to_each_patient,
    fast_distance_blocks,
    nearest_other_patient,
    nearest_patients,
    nearest_rows,
)
from echodream.privacy.similarity import Similarity, normalize

BLOCK = 4096
"""Number of frames to read and embed at once."""

MOST_PATIENTS = 2000
"""Number of patients that are compared with all patients in place of samples."""

T = TypeVar("T")

FramePlan = list[tuple[int, np.ndarray]]
"""Frames to embed: rows of a store with frame indices, (f,)."""


@dataclass(frozen=True)
class EmbeddingSet:
    """Normalized embeddings of n samples, or of n patients, sorted by ``names``."""

    names: list[str]
    sample_frames: Tensor
    """f frames of one recording, selected in the same way for samples and patients: (n, f, D)."""
    two_views: Tensor
    """Two frames of different recordings, or of the only recording: (n, 2, D)."""
    has_two_views: Tensor
    """Whether the two views are different frames: bool, (n,). Always true for samples."""
    all_frames: Tensor
    """P frames spread over all recordings of a patient: (n, P, D). For samples, the same as ``sample_frames``."""
    sequences: list[Tensor]
    """Frames of one recording each in temporal order: (F_i, D)."""
    frame_plan: FramePlan
    """Row and frame indices of ``sample_frames``."""

    def first_frames(self) -> Tensor:
        """The first sample frame of each sample or patient: (n, D)."""
        return self.sample_frames[:, 0]

    def reference_frames(self) -> tuple[Tensor, list[str]]:
        """``all_frames`` as rows, (n P, D), and the name of each row."""
        return self.all_frames.flatten(0, 1), np.repeat(self.names, self.all_frames.shape[1]).tolist()

    def grouped_frames(self) -> tuple[Tensor, np.ndarray]:
        """``sample_frames`` as rows, (n f, D), and the index of the sample or patient of each row."""
        count, frames = self.sample_frames.shape[:2]
        return self.sample_frames.flatten(0, 1), np.repeat(np.arange(count), frames)

    def joined(self, others: Sequence["EmbeddingSet"]) -> "EmbeddingSet":
        """This set, followed by ``others``."""
        parts: dict[str, Any] = {}
        for name, value in vars(self).items():
            values = [value, *(getattr(other, name) for other in others)]
            parts[name] = torch.cat(values) if isinstance(value, Tensor) else [item for each in values for item in each]
        return EmbeddingSet(**parts)

    def subset(self, rows: Sequence[int] | np.ndarray) -> "EmbeddingSet":
        """The samples or patients ``rows``, in this order."""
        kept = [int(row) for row in rows]
        parts: dict[str, Any] = {
            name: value[kept] if isinstance(value, Tensor) else [value[row] for row in kept]
            for name, value in vars(self).items()
        }
        return EmbeddingSet(**parts)

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class EmbeddingSetConfig:
    """Number of frames to embed. Raises ``UserError`` for invalid numbers.

    ``frames`` in ``sample_frames``, ``per_patient`` in ``all_frames``; ``every``: stride of frames in ``sequences``.
    """

    frames: int
    per_patient: int
    every: int
    seed: int

    def __post_init__(self) -> None:
        for name, minimum in (("frames", 1), ("per_patient", 1), ("every", 1), ("seed", 0)):
            validation.whole_number(name, getattr(self, name), minimum)


class EmbeddingSetBuilder:
    """Builds embedding sets of samples and of patients with equally many frames, selected in the same way.

    ``embed`` maps unscaled latents, (n, C, H, W), to embeddings, (n, D), which are compared by ``similarity``. Frames
    are selected independently of ``embed``. If samples are the key frames ED-ES-ED, key frames of patients are used.
    """

    def __init__(
        self, embed: Callable[[Tensor], Tensor], similarity: Similarity, config: EmbeddingSetConfig, samples: Recordings
    ) -> None:
        self.embed, self.similarity, self.config, self.samples = embed, similarity, config, samples
        self.shortest, self.longest = int(samples.frames.min()), int(samples.frames.max())
        self.count = min(config.frames, self.shortest)
        self.all_frames_embedded = self.longest == self.count
        """Whether ``sample_frames`` has all frames of all samples."""

    def embed_samples(self) -> EmbeddingSet:
        """The embedding set of all samples."""
        recordings = self.samples
        plan = [(row, evenly_spaced_frames(int(frames), self.count)) for row, frames in enumerate(recordings.frames)]
        embedded = torch.stack(self._embed_plan(recordings, plan, "samples"))
        sequences = self._embed_sequences(recordings, plan, embedded, "videos")
        return self._sample_set(recordings.names, embedded, sequences, plan)

    def embed_copies(self, copies: Sequence[Tensor], name: str) -> EmbeddingSet:
        """The embedding set of samples that are in no store, unscaled latents (f, C, H, W) with ``count`` frames."""
        rows = normalize(self.embed(torch.cat([*copies])), self.similarity, f"embeddings of {name}")
        embedded = torch.stack(rows.split(self.count))
        plan: FramePlan = [(-1, np.arange(self.count)) for _ in copies]
        return self._sample_set([f"{name} {number}" for number in range(len(copies))], embedded, [*embedded], plan)

    def _sample_set(self, names: list[str], embedded: Tensor, sequences: list[Tensor], plan: FramePlan) -> EmbeddingSet:
        two_views = torch.stack([embedded[:, 0], embedded[:, self.count // 2]], dim=1)
        has_two_views = torch.ones(len(embedded), dtype=torch.bool)
        return EmbeddingSet(names, embedded, two_views, has_two_views, embedded, sequences, plan)

    def embed_patients(self, recordings: Recordings, progress: str, sequences: bool) -> EmbeddingSet:
        """The embedding set of the patients of ``recordings``; without ``sequences``, these are the sample frames."""
        names = np.unique(recordings.table["PatientID"].astype(str).to_numpy())
        rngs = [np.random.default_rng([self.config.seed, number]) for number in range(len(names))]
        orders = [rng.permutation(np.flatnonzero(recordings.patient_numbers == n)) for n, rng in enumerate(rngs)]
        plan = [self._select_frames(recordings, int(order[0]), rng) for order, rng in zip(orders, rngs, strict=True)]
        patients = zip(orders, plan, rngs, strict=True)
        second_plan = [self._select_second_frame(recordings, order, first, rng) for order, first, rng in patients]
        embedded = torch.stack(self._embed_plan(recordings, plan, progress))
        second = torch.cat(self._embed_plan(recordings, second_plan, f"{progress}, second view"))
        different = [a[0] != b[0] or a[1][0] != b[1][0] for a, b in zip(plan, second_plan, strict=True)]
        time = f"{progress}, time"
        return EmbeddingSet(
            names=names.tolist(),
            sample_frames=embedded,
            two_views=torch.stack([embedded[:, 0], second], dim=1),
            has_two_views=torch.tensor(different),
            all_frames=self._embed_all_frames(recordings, len(names), progress),
            sequences=self._embed_sequences(recordings, plan, embedded, time) if sequences else [*embedded],
            frame_plan=plan,
        )

    def _embed_sequences(
        self, recordings: Recordings, plan: FramePlan, embedded: Tensor, progress: str
    ) -> list[Tensor]:
        """Embeddings of every ``config.every``-th frame of each recording in ``plan``, ``embedded`` if complete."""
        if self.all_frames_embedded:
            return [*embedded]
        lengths = [(row, min(int(recordings.frames[row]), self.longest)) for row, _ in plan]
        sequences = [(row, np.arange(0, length, self.config.every)) for row, length in lengths]
        return self._embed_plan(recordings, sequences, progress)

    def _select_frames(self, recordings: Recordings, row: int, rng: np.random.Generator) -> tuple[int, np.ndarray]:
        """The number of frames that a sample has: key frames of a beat, a random frame, or evenly spaced frames."""
        frames = int(recordings.frames[row])
        if self.count == self.longest == 3 and (triples := marked_triples(recordings, row)):
            return row, np.array(nearest_triple(triples, (frames - 1) / 2))
        return row, np.array([rng.integers(frames)]) if self.count == 1 else evenly_spaced_frames(frames, self.count)

    def _select_second_frame(
        self, recordings: Recordings, order: np.ndarray, first: tuple[int, np.ndarray], rng: np.random.Generator
    ) -> tuple[int, np.ndarray]:
        """One frame of the next recording in ``order``, or another frame of the patient's only recording."""
        row, indices = self._select_frames(recordings, int(order[1 % len(order)]), rng)
        index, frames = int(indices[self.count // 2]), int(recordings.frames[row])
        if row == first[0] and index == int(first[1][0]):
            index = (index + max(frames // 2, 1)) % frames
        return row, np.array([index])

    def _embed_all_frames(self, recordings: Recordings, patients: int, progress: str) -> Tensor:
        """P evenly spaced frames of each patient's concatenated recordings: (n, P, D)."""
        count = min(self.config.per_patient, int(np.bincount(recordings.patient_numbers, recordings.frames).max()))
        plan: FramePlan = []
        for patient in range(patients):
            rows = np.flatnonzero(recordings.patient_numbers == patient)
            ends = np.cumsum(recordings.frames[rows])
            indices = evenly_spaced_frames(int(ends[-1]), count)
            recording = np.searchsorted(ends, indices, side="right")
            starts = ends - recordings.frames[rows]
            plan += [(int(rows[k]), indices[recording == k] - starts[k]) for k in np.unique(recording)]
        embedded = torch.cat(self._embed_plan(recordings, plan, f"{progress}, all frames"))
        return embedded.unflatten(0, (patients, count))

    def _embed_plan(self, recordings: Recordings, plan: FramePlan, progress: str) -> list[Tensor]:
        """Normalized embeddings of each entry of ``plan``, (f, D) each."""
        bar = tqdm(plan, progress, unit="rec", disable=None, leave=False)
        embedded: list[Tensor] = []
        for group in group_parts((recordings.posterior(row, indices)[0] for row, indices in bar), BLOCK):
            embeddings = normalize(self.embed(torch.cat(group)), self.similarity, f"embeddings of {progress}")
            embedded += embeddings.split([len(part) for part in group])
        return embedded


@dataclass(frozen=True)
class SampleTables:
    """Distances of n samples, or patients in place of samples, that all measures share. Euclidean, float32."""

    to_patients: np.ndarray
    """Smallest distance between a frame of the sample and of each patient: (n, P), training patients first."""
    cell: np.ndarray
    """k-means cell of the sample's frame that is nearest to training: int, (n,)."""
    authentic: np.ndarray
    """Whether no frame is closer to its nearest training frame than that frame is to another patient: bool, (n,)."""
    views: Tensor | None
    """Distance between the first, and the second views of each patient and the sample: (n, 2, P). None for patients."""

    def select(self, rows: Sequence[int] | np.ndarray) -> "SampleTables":
        """The tables of the samples ``rows``, indices or bool."""
        parts: dict[str, Any] = {name: None if value is None else value[rows] for name, value in vars(self).items()}
        return SampleTables(**parts)


@dataclass(frozen=True)
class AuditSets:
    """The embedding sets to compare, and the settings of the comparison."""

    samples: EmbeddingSet
    train: EmbeddingSet
    held_out: EmbeddingSet
    similarity: Similarity
    seed: int
    far: float
    """False accept rate of the threshold for "the same patient"."""
    cells: int | None
    """Number of cells of C_T; None: the number of held-out patients / 20."""
    suffix: str = ""
    """Name of the embedding, as the suffix of a measure's name; empty for the identity network."""
    repeats: int = 1000
    """Number of permutations and bootstrap samples."""
    baseline: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """What does not depend on the samples: see ``once``."""

    def once(self, name: str, compute: Callable[[], T]) -> T:
        """The result of ``compute``, which must not depend on the samples; computed once for any samples."""
        if name not in self.baseline:
            self.baseline[name] = compute()
        result: T = self.baseline[name]
        return result

    def with_samples(self, rows: Sequence[int] | np.ndarray, repeats: int | None = None) -> "AuditSets":
        """The same comparison with the samples ``rows`` only. Distances are not computed again."""
        selected = replace(self, samples=self.samples.subset(rows), repeats=repeats or self.repeats)
        vars(selected)["sample_tables"] = self.sample_tables.select(rows)
        return selected

    @property
    def member(self) -> np.ndarray:
        """Whether each of the P patients is in training: bool, (P,)."""
        return np.arange(len(self.train) + len(self.held_out)) < len(self.train)

    @cached_property
    def sample_tables(self) -> SampleTables:
        """Distances of the samples."""
        views = torch.cat([self.train.two_views, self.held_out.two_views]).double()
        own = self.samples.two_views.double()
        distances = [torch.cat([part for _, part in fast_distance_blocks(own[:, k], views[:, k])]) for k in (0, 1)]
        return replace(self._tables(self.samples.sample_frames), views=torch.stack(distances, dim=1).float())

    def patient_tables(self) -> tuple[np.ndarray, SampleTables]:
        """Indices of q of the P patients, and their distances to all patients in place of samples.

        q is P, or ``MOST_PATIENTS``, chosen at random. A patient's distance to itself has no meaning.
        """
        return self.once("patients", self._patient_tables)

    def _patient_tables(self) -> tuple[np.ndarray, SampleTables]:
        if {*self.train.names} & {*self.held_out.names}:
            raise UserError("A patient is both in training and held out: split the study by patient.")
        count = len(self.train) + len(self.held_out)
        rows = np.sort(np.random.default_rng([self.seed, 4]).permutation(count)[:MOST_PATIENTS])
        return rows, self._tables(torch.cat([self.train.sample_frames, self.held_out.sample_frames])[rows])

    def held_out_tables(self) -> tuple[np.ndarray, SampleTables]:
        """The part of ``patient_tables`` of held-out patients; indices among the held-out patients."""
        rows, tables = self.patient_tables()
        held_out = rows >= len(self.train)
        return rows[held_out] - len(self.train), tables.select(held_out)

    def cell_count(self) -> int:
        """Number of k-means cells of C_T."""
        return self.cells if self.cells is not None else max(1, len(self.held_out) // 20)

    def _tables(self, sample_frames: Tensor) -> SampleTables:
        def references() -> tuple[Tensor, np.ndarray, Tensor]:
            groups = [part.all_frames.double() for part in (self.train, self.held_out)]
            codes = np.concatenate([np.full(len(frames), n) for n, frames in enumerate([*groups[0], *groups[1]])])
            train = groups[0].flatten(0, 1)
            to_other = nearest_other_patient(train, codes[: len(train)])
            return torch.cat([train, groups[1].flatten(0, 1)]), codes, to_other

        (rows, codes, to_other), (count, frames) = self.once("references", references), sample_frames.shape[:2]
        train = rows[: len(to_other)]
        queries = sample_frames.flatten(0, 1).double()
        to_patients = distance_to_each_patient(queries, rows, codes).view(count, frames, -1).amin(dim=1)
        distance, index = nearest_rows(queries, train)
        nearest = queries.view(count, frames, -1)[torch.arange(count), distance.view(count, frames).argmin(dim=1)]
        cells = self.cell_count()
        centers = self.once("centers", lambda: cell_centers(train, min(cells, len(train)), self.seed))
        authentic = torch.gt(distance, to_other[index]).view(count, frames).all(dim=1)
        cell = nearest_rows(nearest, centers)[1].numpy()
        return SampleTables(to_patients.float().numpy(), cell, authentic.numpy(), None)

    def nearest_training_patient(self, embedding_set: EmbeddingSet) -> NearestPatients:
        """The training patient nearest to any frame of each sample or patient of ``embedding_set``."""
        rows, groups = embedding_set.grouped_frames()
        return nearest_patients(rows, [self.train.reference_frames()], self.similarity, groups)

    def same_patient_threshold(self) -> float:
        """Similarity threshold with the false accept rate ``far`` for pairs of held-out patients, one frame of each."""
        frames = self.held_out.first_frames()
        pairs = len(frames) * (len(frames) - 1) // 2
        if pairs * self.far < 1:
            needed = int(np.ceil((1 + np.sqrt(1 + 8 / self.far)) / 2))
            raise UserError(
                f"a threshold with a false accept rate of {self.far:g} needs {needed} held-out patients, and there are "
                f"{len(frames)}"
            )
        similarity = (frames.double() @ frames.double().T)[tuple(torch.triu_indices(len(frames), len(frames), 1))]
        return float(torch.quantile(similarity, 1 - self.far, interpolation="higher"))


def build_audit_sets(
    embedder: FrameEmbedder,
    samples: Recordings,
    train: Recordings,
    held_out: Recordings,
    config: EmbeddingSetConfig,
    far: float,
    cells: int | None,
    copies: Mapping[str, Sequence[Tensor]] | None = None,
) -> list[AuditSets]:
    """Embedding sets of the identity network, then of whitened latents with Euclidean distances.

    ``copies``: further samples, latents (f, C, H, W), by kind; they follow the samples in ``AuditSets.samples``.
    """
    statistics = train.store.dataset.statistics
    assert statistics is not None  # Recordings refuse latent stores without statistics

    def whitened_latents(latents: Tensor) -> Tensor:
        return whiten(latents, statistics, dim=1).flatten(1)

    def build(suffix: str, embed: Callable[[Tensor], Tensor], similarity: Similarity) -> AuditSets:
        builder = EmbeddingSetBuilder(embed, similarity, config, samples)
        training_patients = builder.embed_patients(train, "training patients", sequences=False)
        new_patients = builder.embed_patients(held_out, "held-out patients", sequences=not suffix)
        sample_set = builder.embed_samples()
        sample_set = sample_set.joined([builder.embed_copies(part, kind) for kind, part in (copies or {}).items()])
        return AuditSets(sample_set, training_patients, new_patients, similarity, config.seed, far, cells, suffix)

    similarity = cast(Similarity, embedder.encoder.input_spec.similarity)
    return [build("", embedder.embed, similarity), build(" by latents", whitened_latents, "euclidean")]
