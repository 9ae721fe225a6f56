"""Embedding sets of ``stage=audit``: samples, training patients and held-out patients, embedded in the same way."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from echodream import validation
from echodream.auditing.attributes import Attributes
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
from echodream.progress import progress_bar

FRAMES_PER_BATCH = 4096
"""Number of frames per batch of the embedding network."""
MAX_CONTROL_PATIENTS = 2000
"""Maximum number of patients that replace the samples in control measurements."""
T = TypeVar("T")

FramePlan = list[tuple[int, np.ndarray]]
"""Frames to embed of each sample or patient: a row of its store, and frame indices, (f,)."""


@dataclass(frozen=True)
class EmbeddingSet:
    """Normalized embeddings of n samples or n patients, in the order of ``names``."""

    names: list[str]
    sample_frames: Tensor
    """f embedded frames of one recording per sample or patient: (n, f, D)."""
    two_views: Tensor
    """Two embedded frames per patient, of different recordings if the patient has several: (n, 2, D)."""
    has_two_views: Tensor
    """Whether the ``two_views`` are different frames: bool, (n,). Always true for samples."""
    all_frames: Tensor
    """P frames per patient, evenly spaced over all recordings, embedded: (n, P, D). For samples: ``sample_frames``."""
    sequences: list[Tensor]
    """Embedded frames of one recording per sample or patient, in temporal order: (F_i, D)."""
    frame_plan: FramePlan
    """Store rows and frame indices of ``sample_frames``."""

    def first_frames(self) -> Tensor:
        """Embedding of the first of the ``sample_frames`` of each sample or patient: (n, D)."""
        return self.sample_frames[:, 0]

    def concatenate(self, other_sets: Sequence["EmbeddingSet"]) -> "EmbeddingSet":
        """The concatenation of this set and ``other_sets``."""
        joined: dict[str, Any] = {}
        for name, value in vars(self).items():
            values = [value, *(getattr(other, name) for other in other_sets)]
            joined[name] = torch.cat(values) if isinstance(value, Tensor) else [*itertools.chain(*values)]
        return EmbeddingSet(**joined)

    def subset(self, rows: Sequence[int] | np.ndarray) -> "EmbeddingSet":
        """The embedding set of the samples or patients at the indices ``rows``, in the order of ``rows``."""
        indices = [int(row) for row in rows]
        selected: dict[str, Any] = {
            name: value[indices] if isinstance(value, Tensor) else [value[index] for index in indices]
            for name, value in vars(self).items()
        }
        return EmbeddingSet(**selected)

    def __len__(self) -> int:
        return len(self.names)


def embedding_set(
    names: list[str],
    embedded: Tensor,
    is_sample: bool,
    sequences: list[Tensor] | None = None,
    plan: FramePlan | None = None,
) -> EmbeddingSet:
    """The embedding set of samples or of patients from ``embedded``: normalized embeddings of f frames each, (n, f, D).

    The two views are the first and the middle frame. ``sequences``: embeddings of frame sequences, by default
    ``embedded``. ``plan``: store rows and indices of the f frames.
    """
    middle = embedded.shape[1] // 2
    has_two_views = torch.full((len(embedded),), is_sample or middle > 0)
    views = torch.stack([embedded[:, 0], embedded[:, middle]], dim=1)
    plan = [(-1, np.arange(embedded.shape[1])) for _ in names] if plan is None else plan
    return EmbeddingSet(names, embedded, views, has_two_views, embedded, sequences or [*embedded], plan)


@dataclass(frozen=True)
class EmbeddingSetConfig:
    """Numbers of frames to embed. Raises ``UserError`` for invalid numbers.

    ``frames``: number of ``sample_frames``. ``per_patient``: number of ``all_frames``. ``every``: stride of the frames
    in ``sequences``.
    """

    frames: int
    per_patient: int
    every: int
    seed: int

    def __post_init__(self) -> None:
        for name, minimum in (("frames", 1), ("per_patient", 1), ("every", 1), ("seed", 0)):
            validation.whole_number(name, getattr(self, name), minimum)


class EmbeddingSetBuilder:
    """Builds embedding sets of samples and of patients, with the same number and the same selection of frames.

    ``embed`` maps unscaled latents, (n, C, H, W), to embeddings, (n, D), which are compared by ``similarity``. The
    selection of frames does not depend on ``embed``. If the samples are key frames (end diastole, end systole, end
    diastole), the key frames of patients are embedded.
    """

    def __init__(
        self, embed: Callable[[Tensor], Tensor], similarity: Similarity, config: EmbeddingSetConfig, samples: Recordings
    ) -> None:
        self.embed, self.similarity, self.config, self.samples = embed, similarity, config, samples
        self.max_frames = int(samples.frames.max())
        self.count = min(config.frames, int(samples.frames.min()))
        """Number of ``sample_frames``."""

    def embed_samples(self) -> EmbeddingSet:
        """The embedding set of all samples."""
        recordings = self.samples
        plan = [(row, evenly_spaced_frames(int(frames), self.count)) for row, frames in enumerate(recordings.frames)]
        embedded = torch.stack(self._embed_plan(recordings, plan, "samples"))
        sequences = self._embed_sequences(recordings, plan, embedded, "samples")
        return embedding_set(recordings.names, embedded, True, sequences, plan)

    def embed_copies(self, copies: Sequence[Tensor], name: str) -> EmbeddingSet:
        """The embedding set of ``copies``: unscaled latents, (``count``, C, H, W) each, that are in no store."""
        rows = normalize(self.embed(torch.cat([*copies])), self.similarity, f"embeddings of {name}")
        embedded = torch.stack(rows.split(self.count))
        return embedding_set([f"{name} {number}" for number in range(len(copies))], embedded, True)

    def embed_patients(self, recordings: Recordings, progress: str, sequences: bool) -> EmbeddingSet:
        """The embedding set of the patients of ``recordings``; ``sequences``: whether to embed frame sequences."""
        names = np.unique(recordings.table["PatientID"].astype(str).to_numpy())
        rngs = [np.random.default_rng([self.config.seed, number]) for number in range(len(names))]
        orders = [rng.permutation(recordings.rows_by_patient[n]) for n, rng in enumerate(rngs)]
        plan = [self._select_frames(recordings, int(order[0]), rng) for order, rng in zip(orders, rngs, strict=True)]
        patients = zip(orders, plan, rngs, strict=True)
        second_plan = [self._select_second_frame(recordings, order, first, rng) for order, first, rng in patients]
        embedded = torch.stack(self._embed_plan(recordings, plan, progress))
        second = torch.cat(self._embed_plan(recordings, second_plan, f"{progress}, second view"))
        different = [a[0] != b[0] or a[1][0] != b[1][0] for a, b in zip(plan, second_plan, strict=True)]
        return EmbeddingSet(
            names=names.tolist(),
            sample_frames=embedded,
            two_views=torch.stack([embedded[:, 0], second], dim=1),
            has_two_views=torch.tensor(different),
            all_frames=self._embed_all_frames(recordings, len(names), progress),
            sequences=self._embed_sequences(recordings, plan, embedded, progress) if sequences else [*embedded],
            frame_plan=plan,
        )

    def _embed_sequences(
        self, recordings: Recordings, plan: FramePlan, embedded: Tensor, progress: str
    ) -> list[Tensor]:
        """Embeddings of every ``config.every``-th frame of each recording; ``embedded`` if it has these."""
        if self.max_frames == self.count:
            return [*embedded]
        lengths = [(row, min(int(recordings.frames[row]), self.max_frames)) for row, _ in plan]
        sequences = [(row, np.arange(0, length, self.config.every)) for row, length in lengths]
        return self._embed_plan(recordings, sequences, f"{progress}, sequences")

    def _select_frames(self, recordings: Recordings, row: int, rng: np.random.Generator) -> tuple[int, np.ndarray]:
        """``row``, and frame indices, (``count``,): key frames of a beat, a random frame, or evenly spaced frames."""
        frames = int(recordings.frames[row])
        if self.count == self.max_frames == 3 and (triples := marked_triples(recordings, row)):
            return row, np.array(nearest_triple(triples, (frames - 1) / 2))
        return row, np.array([rng.integers(frames)]) if self.count == 1 else evenly_spaced_frames(frames, self.count)

    def _select_second_frame(
        self, recordings: Recordings, order: np.ndarray, first: tuple[int, np.ndarray], rng: np.random.Generator
    ) -> tuple[int, np.ndarray]:
        """Store row and frame index of a patient's second view, from another recording if there is one."""
        row, indices = self._select_frames(recordings, int(order[1 % len(order)]), rng)
        index, frames = int(indices[self.count // 2]), int(recordings.frames[row])
        if row == first[0] and index == int(first[1][0]):
            index = (index + max(frames // 2, 1)) % frames
        return row, np.array([index])

    def _embed_all_frames(self, recordings: Recordings, patients: int, progress: str) -> Tensor:
        """Embeddings of P evenly spaced frames of each patient's concatenated recordings: (n, P, D)."""
        count = min(self.config.per_patient, int(np.bincount(recordings.patient_numbers, recordings.frames).max()))
        plan: FramePlan = []
        for patient in range(patients):
            rows = recordings.rows_by_patient[patient]
            ends = np.cumsum(recordings.frames[rows])
            indices = evenly_spaced_frames(int(ends[-1]), count)
            recording = np.searchsorted(ends, indices, side="right")
            starts = ends - recordings.frames[rows]
            plan += [(int(rows[k]), indices[recording == k] - starts[k]) for k in np.unique(recording)]
        embedded = torch.cat(self._embed_plan(recordings, plan, f"{progress}, all frames"))
        return embedded.unflatten(0, (patients, count))

    def _embed_plan(self, recordings: Recordings, plan: FramePlan, progress: str) -> list[Tensor]:
        """Normalized embeddings of the frames of each entry of ``plan`` (store row, frame indices): (f, D) each."""
        bar = progress_bar(plan, progress, unit="rec", leave=False)
        embedded: list[Tensor] = []
        for batch in group_parts((recordings.posterior(row, indices)[0] for row, indices in bar), FRAMES_PER_BATCH):
            embeddings = normalize(self.embed(torch.cat(batch)), self.similarity, f"embeddings of {progress}")
            embedded += embeddings.split([len(frames) for frames in batch])
        return embedded


@dataclass(frozen=True)
class SampleDistances:
    """Comparison of n samples, or of n patients that replace samples, with P patients. Distances are Euclidean."""

    to_patients: np.ndarray
    """Smallest distance between a frame of the sample and a frame of each patient, training patients first: (n, P)."""
    cell: np.ndarray
    """k-means cell of the frame of the sample that is nearest to a training frame: int, (n,)."""
    authentic: np.ndarray
    """Whether all frames of the sample are authentic: bool, (n,).

    A frame is authentic if it is farther from its nearest training frame than that frame is from the nearest frame of
    another patient (Alaa et al., arXiv 2102.08921).
    """
    views: Tensor | None
    """Distances between the first views of sample and patient, and between the second views: (n, 2, P), or None."""

    def select(self, rows: Sequence[int] | np.ndarray) -> "SampleDistances":
        """Distances of the samples ``rows``, given as indices or as a boolean mask."""
        selected: dict[str, Any] = {name: None if value is None else value[rows] for name, value in vars(self).items()}
        return SampleDistances(**selected)


@dataclass(frozen=True)
class AuditSets:
    """The embedding sets of an audit, and the settings of their comparison."""

    samples: EmbeddingSet
    train: EmbeddingSet
    held_out: EmbeddingSet
    similarity: Similarity
    seed: int
    far: float
    """False accept rate of the similarity threshold at which two frames count as frames of one patient."""
    cells: int | None
    """Number of k-means cells of the data-copying test C_T; None: number of held-out patients / 20."""
    suffix: str = ""
    """Name of the embedding, as the suffix of a measure's name; empty for the identity network."""
    repeats: int = 1000
    """Number of permutations and bootstrap samples."""
    attributes: Attributes = field(default_factory=dict)
    """Attributes of the samples and of all patients."""
    cache: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """Results that do not depend on the samples, by name."""

    def compute_once(self, name: str, compute: Callable[[], T]) -> T:
        """The cached result ``name`` of ``compute``, which must not depend on the samples."""
        if name not in self.cache:
            self.cache[name] = compute()
        result: T = self.cache[name]
        return result

    def with_samples(self, rows: Sequence[int] | np.ndarray, repeats: int | None = None) -> "AuditSets":
        """The audit sets with the samples ``rows`` only; distances are not computed again."""
        attributes = {name: (values[rows], patients) for name, (values, patients) in self.attributes.items()}
        selected = replace(
            self, samples=self.samples.subset(rows), repeats=repeats or self.repeats, attributes=attributes
        )
        vars(selected)["sample_distances"] = self.sample_distances.select(rows)
        return selected

    @property
    def is_member(self) -> np.ndarray:
        """Whether each of the P patients is in training: bool (P,)."""
        return np.arange(len(self.train) + len(self.held_out)) < len(self.train)

    @cached_property
    def sample_distances(self) -> SampleDistances:
        """Distances of the samples to all patients."""
        patients = torch.cat([self.train.two_views, self.held_out.two_views]).double()
        samples = self.samples.two_views.double()
        views = [torch.cat([d for _, d in fast_distance_blocks(samples[:, k], patients[:, k])]) for k in (0, 1)]
        return replace(self._compute_distances(self.samples.sample_frames), views=torch.stack(views, dim=1).float())

    def patient_distances(self) -> tuple[np.ndarray, SampleDistances]:
        """Indices of Q of the P patients, and distances of these Q patients to all P patients, also to themselves.

        If P exceeds ``MAX_CONTROL_PATIENTS``, Q is this maximum, and the patients are chosen at random.
        """
        return self.compute_once("patients", self._compute_patient_distances)

    def _compute_patient_distances(self) -> tuple[np.ndarray, SampleDistances]:
        if {*self.train.names} & {*self.held_out.names}:
            raise UserError("A patient is both in training and held out: split the study by patient.")
        count = len(self.train) + len(self.held_out)
        rows = np.sort(np.random.default_rng([self.seed, 4]).permutation(count)[:MAX_CONTROL_PATIENTS])
        return rows, self._compute_distances(torch.cat([self.train.sample_frames, self.held_out.sample_frames])[rows])

    def held_out_distances(self) -> tuple[np.ndarray, SampleDistances]:
        """Indices of the held-out patients for whom ``patient_distances`` are computed, and these distances."""
        rows, distances = self.patient_distances()
        held_out = rows >= len(self.train)
        return rows[held_out] - len(self.train), distances.select(held_out)

    def cell_count(self) -> int:
        """Number of k-means cells of the data-copying test C_T."""
        return self.cells if self.cells is not None else max(1, len(self.held_out) // 20)

    def _compute_distances(self, sample_frames: Tensor) -> SampleDistances:
        def compute_references() -> tuple[Tensor, np.ndarray, Tensor]:
            groups = [part.all_frames.double() for part in (self.train, self.held_out)]
            patients = np.concatenate([np.full(len(frames), n) for n, frames in enumerate([*groups[0], *groups[1]])])
            train = groups[0].flatten(0, 1)
            to_other_patient = nearest_other_patient(train, patients[: len(train)])
            return torch.cat([train, groups[1].flatten(0, 1)]), patients, to_other_patient

        references, patients, to_other_patient = self.compute_once("references", compute_references)
        count, frames = sample_frames.shape[:2]
        train = references[: len(to_other_patient)]
        queries = sample_frames.flatten(0, 1).double()
        to_patients = distance_to_each_patient(queries, references, patients).view(count, frames, -1).amin(dim=1)
        distance, index = nearest_rows(queries, train)
        nearest = queries.view(count, frames, -1)[torch.arange(count), distance.view(count, frames).argmin(dim=1)]
        cells = min(self.cell_count(), len(train))
        centers = self.compute_once("centers", lambda: cell_centers(train, cells, self.seed))
        authentic = torch.gt(distance, to_other_patient[index]).view(count, frames).all(dim=1)
        cell = nearest_rows(nearest, centers)[1].numpy()
        return SampleDistances(to_patients.float().numpy(), cell, authentic.numpy(), None)

    def nearest_training_patient(self, embedding_set: EmbeddingSet) -> NearestPatients:
        """The training patient nearest to any frame of each sample or patient of ``embedding_set``."""
        count, frames = embedding_set.sample_frames.shape[:2]
        queries, sample_of_query = embedding_set.sample_frames.flatten(0, 1), np.repeat(np.arange(count), frames)
        names = np.repeat(self.train.names, self.train.all_frames.shape[1]).tolist()
        references = [(self.train.all_frames.flatten(0, 1), names)]
        return nearest_patients(queries, references, self.similarity, sample_of_query)

    def same_patient_threshold(self) -> float:
        """Similarity threshold with the false accept rate ``far`` on pairs of held-out patients, one frame each."""
        frames = self.held_out.first_frames()
        pairs = len(frames) * (len(frames) - 1) // 2
        if pairs * self.far < 1:
            min_patients = int(np.ceil((1 + np.sqrt(1 + 8 / self.far)) / 2))
            raise UserError(
                f"a threshold with a false accept rate of {self.far:g} needs {min_patients} held-out patients, and "
                f"there are {len(frames)}"
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
    copies: Mapping[str, Sequence[Tensor]],
    attributes: Attributes,
) -> list[AuditSets]:
    """Embedding sets of the identity network, then of whitened latents with Euclidean distances.

    ``copies``: planted copies by kind, latents (f, C, H, W); they follow the samples in ``AuditSets.samples`` and in
    the ``attributes``.
    """
    statistics = train.store.dataset.statistics
    assert statistics is not None  # Recordings raises an error for a latent store without statistics

    def flatten_whitened(latents: Tensor) -> Tensor:
        return whiten(latents, statistics, dim=1).flatten(1)

    def build(suffix: str, embed: Callable[[Tensor], Tensor], similarity: Similarity) -> AuditSets:
        builder = EmbeddingSetBuilder(embed, similarity, config, samples)
        training_patients = builder.embed_patients(train, "training patients", sequences=False)
        new_patients = builder.embed_patients(held_out, "held-out patients", sequences=not suffix)
        copy_sets = [builder.embed_copies(latents, kind) for kind, latents in copies.items()]
        sample_set = builder.embed_samples().concatenate(copy_sets)
        groups = sample_set, training_patients, new_patients
        return AuditSets(*groups, similarity, config.seed, far, cells, suffix, attributes=attributes)

    similarity = cast(Similarity, embedder.encoder.input_spec.similarity)
    return [build("", embedder.embed, similarity), build(" by latents", flatten_whitened, "euclidean")]
