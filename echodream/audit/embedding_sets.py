"""Embedding sets of ``stage=audit``: samples, training patients and held-out patients, embedded in the same way."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

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
from echodream.privacy.nearest_neighbors import NearestPatients, nearest_patients
from echodream.privacy.similarity import Similarity, normalize

BLOCK = 4096
"""Number of frames to read and embed at once."""

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
        two_views = torch.stack([embedded[:, 0], embedded[:, self.count // 2]], dim=1)
        has_two_views = torch.ones(len(embedded), dtype=torch.bool)
        return EmbeddingSet(recordings.names, embedded, two_views, has_two_views, embedded, sequences, plan)

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
) -> list[AuditSets]:
    """Embedding sets of the identity network, then of whitened latents with Euclidean distances."""
    statistics = train.store.dataset.statistics
    assert statistics is not None  # Recordings refuse latent stores without statistics

    def whitened_latents(latents: Tensor) -> Tensor:
        return whiten(latents, statistics, dim=1).flatten(1)

    def build(suffix: str, embed: Callable[[Tensor], Tensor], similarity: Similarity) -> AuditSets:
        builder = EmbeddingSetBuilder(embed, similarity, config, samples)
        training_patients = builder.embed_patients(train, "training patients", sequences=False)
        new_patients = builder.embed_patients(held_out, "held-out patients", sequences=not suffix)
        sample_set = builder.embed_samples()
        return AuditSets(sample_set, training_patients, new_patients, similarity, config.seed, far, cells, suffix)

    similarity = cast(Similarity, embedder.encoder.input_spec.similarity)
    return [build("", embedder.embed, similarity), build(" by latents", whitened_latents, "euclidean")]
