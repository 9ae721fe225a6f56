"""Views: classes that define training samples, such as a frame, a clip or a pair of frames.

All randomness comes from the random generator of a sample, so that the sample does not depend on the worker process.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from torch import Tensor

from echodream import validation
from echodream.datamodules.key_frames import find_key_frame_triples, nearest_triple, recordings_with_triples
from echodream.datamodules.recordings import Recordings, remaining_number
from echodream.errors import UserError

Generator = np.random.Generator


@dataclass(frozen=True)
class Sample:
    """Sample of a view, before augmentation and batching."""

    row: int
    """Row number of the recording."""
    x: Tensor
    """Frames, (C, F, H, W)."""
    mask: np.ndarray | None = None
    """Mask of a clip, bool (F,): True for recorded frames, False for padding."""
    reference: Tensor | None = None
    """R reference frames of a clip, (C, R, H, W)."""
    reference_time: np.ndarray | None = None
    """Times of reference frames, float32 (R,), or of the key frames of a triplet, float32 (3,)."""
    other: Tensor | None = None
    """Second frame of a pair, (C, 1, H, W)."""
    other_row: int | None = None
    """Row number of the recording of ``other``."""
    same: bool | None = None
    """Whether both frames of a pair show one identity."""


@dataclass(frozen=True, kw_only=True)
class View(ABC):
    """Base class of views. Constructors raise ``UserError`` for invalid settings."""

    posterior: str = "sample"
    """Latents of a sample: a "sample" or the "mean" of the stored posterior."""
    per_recording: int = 1
    """Number of samples of each recording in an epoch."""

    stacks_frames: ClassVar[bool] = False
    """Whether frames are stacked along the channels, for batches (B, F * C, H, W)."""

    def __post_init__(self) -> None:
        validation.one_of("view.posterior", self.posterior, ("sample", "mean"))
        if self.per_recording is not None:
            validation.whole_number("view.per_recording", self.per_recording)

    def for_evaluation(self) -> Self:
        """View for validation and test, without random selection of frames."""
        return self

    def select_recordings(self, rows: Recordings) -> Recordings:
        """Recordings that are suitable for the view, by default all. Raises ``UserError`` if none is suitable."""
        return rows

    def number_of_samples(self, rows: Recordings) -> int:
        """Number of samples in an epoch."""
        return len(rows) * self.per_recording

    def sample_range(self, rows: Recordings, row: int) -> range:
        """Numbers of the samples of the recording ``row``."""
        return range(row * self.per_recording, (row + 1) * self.per_recording)

    @abstractmethod
    def sample(self, rows: Recordings, index: int, rng: Generator) -> Sample:
        """Sample number ``index``, from 0 to ``number_of_samples`` - 1."""


@dataclass(frozen=True, kw_only=True)
class Frames(View):
    """Single frames: an epoch has all frames of all recordings, or ``per_recording`` random frames per recording.

    Validation and test use the middle ``held_out`` frames of each recording as a clip.
    """

    per_recording: int | None = None  # type: ignore[assignment]
    held_out: int = 2

    stacks_frames: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        validation.whole_number("view.held_out", self.held_out)

    def for_evaluation(self) -> "Clips":  # type: ignore[override]
        return Clips(frames=self.held_out, start="centre", posterior=self.posterior)

    def number_of_samples(self, rows: Recordings) -> int:
        return int(rows.cumulative_frames[-1]) if self.per_recording is None else len(rows) * self.per_recording

    def sample_range(self, rows: Recordings, row: int) -> range:
        if self.per_recording is not None:
            return super().sample_range(rows, row)
        end = int(rows.cumulative_frames[row])
        return range(end - int(rows.frames[row]), end)

    def sample(self, rows: Recordings, index: int, rng: Generator) -> Sample:
        if self.per_recording is None:
            row = int(np.searchsorted(rows.cumulative_frames, index, side="right"))
            frame = index - int(rows.cumulative_frames[row] - rows.frames[row])
        else:
            row = index // self.per_recording
            frame = int(rng.integers(rows.frames[row]))
        return Sample(row, rows.read(row, [frame], rng, self.posterior))


@dataclass(frozen=True, kw_only=True)
class Clips(View):
    """Clips of ``frames`` frames with ``stride``; an epoch has ``per_recording`` clips of each recording.

    A short recording is padded with its last frame, and ``mask`` marks recorded frames. ``references`` is the number of
    reference frames. ``reference`` is "random" (frames of the recording), "first" (the first frame of the clip), "even"
    (evenly spaced from the first to the last frame of the clip, or one middle frame) or "keyframes" (the nearest
    ED-ES-ED triple). ``reference_time`` is in frames of the clip: 0 is the first and ``frames`` - 1 the last frame.
    Latents of references and clips are independent samples of the posterior.
    """

    frames: int
    stride: int = 1
    start: str = "random"
    """Clip position: "random" ("centre" in validation and test), "first", "centre", or "spread" (maximum stride)."""
    reference: str = "none"
    references: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("frames", "stride", "references"):
            validation.whole_number(f"view.{name}", getattr(self, name))
        validation.one_of("view.start", self.start, ("random", "first", "centre", "spread"))
        validation.one_of("view.reference", self.reference, ("none", "random", "first", "even", "keyframes"))
        fits = {"keyframes": 3, "first": 1}.get(self.reference, self.references)
        if self.references != fits:
            raise UserError(f"view.reference={self.reference} needs view.references={fits}, not {self.references}")

    def for_evaluation(self) -> Self:
        return replace(self, start="centre" if self.start == "random" else self.start)

    def select_recordings(self, rows: Recordings) -> Recordings:
        return recordings_with_triples(rows) if self.reference == "keyframes" else rows

    def sample(self, rows: Recordings, index: int, rng: Generator) -> Sample:
        row = index // self.per_recording
        clip = self.frame_range(int(rows.frames[row]), rng)
        mask = np.arange(self.frames) < len(clip)
        indices = np.minimum(np.arange(self.frames), len(clip) - 1) * clip.step + clip[0]
        if self.reference == "none":
            return Sample(row, rows.read(row, indices.tolist(), rng, self.posterior), mask)
        reference_frames = self._reference_frames(rows, row, clip, rng)
        x, reference = (rows.read(row, part.tolist(), rng, self.posterior) for part in (indices, reference_frames))
        return Sample(row, x, mask, reference, ((reference_frames - clip[0]) / clip.step).astype(np.float32))

    def frame_range(self, length: int, rng: Generator) -> range:
        """Frame numbers of a clip in a recording of ``length`` frames; fewer than ``frames`` if ``length`` is small."""
        fits = (length - 1) // max(1, self.frames - 1) if self.start == "spread" else 0
        step = max(self.stride, fits)
        spare = max(0, length - ((self.frames - 1) * step + 1))
        begin = {"first": 0, "random": 0}.get(self.start, spare // 2)
        if self.start == "random" and spare:
            begin = int(rng.integers(spare + 1))
        return range(begin, length, step)[: self.frames]

    def _reference_frames(self, rows: Recordings, row: int, clip: range, rng: Generator) -> np.ndarray:
        if self.reference == "random":
            length = int(rows.frames[row])
            return rng.choice(length, self.references, replace=self.references > length)
        if self.reference == "keyframes":
            return np.array(nearest_triple(find_key_frame_triples(rows, row), (clip[0] + clip[-1]) / 2))
        if self.reference == "first":
            return np.array([clip[0]])
        last = len(clip) - 1
        positions = np.linspace(0, last, self.references) if self.references > 1 else np.array([last / 2])
        return clip[0] + clip.step * np.rint(positions).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Triplet(View):
    """ED-ES-ED key frames of one beat, stacked along the channels: ED [0:C], ES [C:2C], next ED [2C:3C].

    ``beat`` is a "random" beat of a recording, or the beat nearest to the "centre" of the recording (validation and
    test). ``reference_time`` contains the times of the key frames, in frames after the first ED.
    """

    beat: str = "random"

    stacks_frames: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        validation.one_of("view.beat", self.beat, ("random", "centre"))

    def for_evaluation(self) -> Self:
        return replace(self, beat="centre", per_recording=1)

    def select_recordings(self, rows: Recordings) -> Recordings:
        return recordings_with_triples(rows)

    def sample(self, rows: Recordings, index: int, rng: Generator) -> Sample:
        row = index // self.per_recording
        triples = find_key_frame_triples(rows, row)
        if self.beat == "centre":
            triple = nearest_triple(triples, (int(rows.frames[row]) - 1) / 2)
        else:
            triple = triples[rng.integers(len(triples))]
        times = np.asarray(triple, np.float32) - triple[0]
        return Sample(row, rows.read(row, triple, rng, self.posterior), reference_time=times)


@dataclass(frozen=True, kw_only=True)
class Pairs(View):
    """Pairs of different frames for a Siamese network: half positive (one identity), half negative (two patients).

    An epoch has ``per_recording`` positive and as many negative pairs for each recording whose identity has two or more
    frames. With ``prefer_other_recording``, the second frame of a positive pair comes from another recording of the
    patient, if possible. With ``negatives`` "same_class", both frames of a negative pair have the same class_id.
    """

    identity: str = "patient"
    """Identity of frames: "patient" or "recording"."""
    prefer_other_recording: bool = True
    negatives: str = "any"

    stacks_frames: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        validation.one_of("view.identity", self.identity, ("patient", "recording"))
        validation.one_of("view.negatives", self.negatives, ("any", "same_class"))

    def select_recordings(self, rows: Recordings) -> Recordings:
        where = f"{rows.store.root}: split {rows.split}"
        if not len(self.anchor_rows(rows)):
            raise UserError(f"{where} has no {self.identity} with two frames for positive pairs: use another view")
        if self.negatives == "any" and len(np.unique(rows.patient_numbers)) < 2:
            raise UserError(f"{where} has only one patient, and no negative pairs: ingest with another split")
        if self.negatives == "same_class":
            classes = rows.column("class_id")
            for value in np.unique(classes[self.anchor_rows(rows)]):
                if len(np.unique(rows.patient_numbers[classes == value])) < 2:
                    raise UserError(f"{where} has no two patients of class_id {value}: use view.negatives=any")
        return rows

    def number_of_samples(self, rows: Recordings) -> int:
        return 2 * len(self.anchor_rows(rows)) * self.per_recording

    def anchor_rows(self, rows: Recordings) -> np.ndarray:
        """Rows of recordings whose identity has at least two frames, as a positive pair needs."""
        return rows.rows_with_two_frames[self.identity]

    def sample(self, rows: Recordings, index: int, rng: Generator) -> Sample:
        anchor_rows = self.anchor_rows(rows)
        row, same = int(anchor_rows[(index // 2) % len(anchor_rows)]), index % 2 == 0
        frame = int(rng.integers(rows.frames[row]))
        partner = int(rng.choice(self._positive_rows(rows, row))) if same else self._negative_row(rows, row, rng)
        second = int(rng.integers(rows.frames[partner] - (partner == row)))
        if partner == row:
            second += second >= frame
        x, other = (rows.read(r, [f], rng, self.posterior) for r, f in ((row, frame), (partner, second)))
        return Sample(row, x, other=other, other_row=partner, same=same)

    def identity_labels(self, rows: Recordings) -> np.ndarray:
        """Identity label of each recording, (N,): its patient, or the recording itself."""
        return rows.patient_numbers if self.identity == "patient" else np.arange(len(rows))

    def _positive_rows(self, rows: Recordings, row: int) -> np.ndarray:
        is_patient = self.identity == "patient"
        members = rows.rows_by_patient[rows.patient_numbers[row]] if is_patient else np.array([row])
        others = members[members != row]
        use_others = self.prefer_other_recording or rows.frames[row] < 2
        return others if len(others) and use_others else members

    def _negative_row(self, rows: Recordings, row: int, rng: Generator) -> int:
        """Random row of another patient."""
        if self.negatives == "any":
            own = rows.rows_by_patient[rows.patient_numbers[row]]
            return remaining_number(int(rng.integers(len(rows) - len(own))), own)
        other = rows.patient_numbers != rows.patient_numbers[row]
        return int(rng.choice(np.flatnonzero(other & (rows.column("class_id") == rows.column("class_id")[row]))))
