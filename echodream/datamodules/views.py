"""Views: each class defines one kind of training sample, such as a frame, a clip or a pair of frames.

A view holds settings only. All randomness comes from the random generator of the sample, so that a sample does not
depend on the worker that reads it. Labels are not part of a view: they are columns of FileList.csv.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from torch import Tensor

from echodream import validation
from echodream.datamodules.key_frames import find_triples, nearest_triple, recordings_with_triples
from echodream.datamodules.recordings import Recordings
from echodream.errors import UserError

Generator = np.random.Generator


@dataclass(frozen=True)
class Sample:
    """One sample of a view, before augmentation and batching."""

    row: int
    """Index of the recording."""
    x: Tensor
    """(C, F, H, W)."""
    mask: np.ndarray | None = None
    """Clips: bool, (F,). True for recorded frames, False for padding."""
    reference: Tensor | None = None
    """Clips with R reference frames: (C, R, H, W)."""
    reference_time: np.ndarray | None = None
    """Clips with references: float32, (R,). Triplets: float32, (3,)."""
    other: Tensor | None = None
    """Pairs: (C, 1, H, W)."""
    other_row: int | None = None
    """Pairs: index of the recording of ``other``."""
    same: bool | None = None
    """Pairs: whether both frames are of the same identity."""


@dataclass(frozen=True, kw_only=True)
class View(ABC):
    """Base class of all views. The constructors raise ``UserError`` for invalid settings."""

    posterior: str = "sample"
    """For latents: a "sample" of the stored posterior, or the "mean" of the posterior."""
    per_recording: int = 1
    """Number of samples of each recording in an epoch."""

    stacks_frames: ClassVar[bool] = False
    """Whether the frames of a sample are stacked along the channels: batches are (B, F * C, H, W)."""

    def __post_init__(self) -> None:
        validation.one_of("view.posterior", self.posterior, ("sample", "mean"))
        if self.per_recording is not None:
            validation.whole_number("view.per_recording", self.per_recording)

    def for_evaluation(self) -> Self:
        """The view used for validation and test, without random choices of frames."""
        return self

    def select_recordings(self, rows: Recordings) -> Recordings:
        """The recordings that this view can use, by default all. Raises ``UserError`` if there are none."""
        return rows

    def number_of_samples(self, rows: Recordings) -> int:
        """Number of samples in an epoch."""
        return len(rows) * self.per_recording

    @abstractmethod
    def sample(self, rows: Recordings, index: int, rng: Generator) -> Sample:
        """The sample ``index``, 0 to ``number_of_samples`` - 1."""


@dataclass(frozen=True, kw_only=True)
class Frames(View):
    """Single frames: in each epoch every frame of every recording, or ``per_recording`` random frames of each.

    Validation and test use the middle ``held_out`` frames of each recording as a clip; two or more frames show motion.
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
    """Clips of ``frames`` frames, every ``stride``-th frame, ``per_recording`` clips of each recording in an epoch.

    A recording that is too short is padded with its last frame, and ``mask`` marks the recorded frames. ``references``
    frames are added to a clip. ``reference`` selects them: "random" frames of the recording; the "first" frame of the
    clip; "even"ly spaced frames of the clip including its ends (the middle frame if there is one reference); or
    "keyframes", the ED-ES-ED triple nearest to the clip. ``reference_time`` is in frames of the clip, 0 at its first
    and ``frames`` - 1 at its last frame. Latents of references are sampled independently of the latents of the clip.
    """

    frames: int
    stride: int = 1
    start: str = "random"
    """"random", "first", "centre" (replaces random in validation and test), or "spread": the largest stride that fits,
    at least ``stride``."""
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
        """Frame numbers of a clip of a recording with ``length`` frames; fewer than ``frames`` if it is too short."""
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
            return np.array(nearest_triple(find_triples(rows, row), (clip[0] + clip[-1]) / 2))
        if self.reference == "first":
            return np.array([clip[0]])
        last = len(clip) - 1
        places = np.linspace(0, last, self.references) if self.references > 1 else np.array([last / 2])
        return clip[0] + clip.step * np.rint(places).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Triplet(View):
    """The ED-ES-ED key frames of one beat, stacked along the channels: ED is [0:C], ES [C:2C], the next ED [2C:3C].

    ``beat``: a "random" beat of a recording, or the beat nearest to the "centre" of the recording, which validation and
    test use. ``reference_time`` holds the times of the key frames in frames after the first ED.
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
        triples = find_triples(rows, row)
        if self.beat == "centre":
            triple = nearest_triple(triples, (int(rows.frames[row]) - 1) / 2)
        else:
            triple = triples[rng.integers(len(triples))]
        times = np.asarray(triple, np.float32) - triple[0]
        return Sample(row, rows.read(row, triple, rng, self.posterior), reference_time=times)


@dataclass(frozen=True, kw_only=True)
class Pairs(View):
    """Pairs of frames for a Siamese network: half positive (same identity), half negative (two patients).

    Each recording is the first of ``per_recording`` positive and negative pairs in an epoch. The second frame of a
    positive pair comes from another recording of the patient if there is one and ``prefer_other_recording`` is set,
    else from any of the patient's recordings; it is never the same frame. Recordings whose identity has a single frame
    are skipped. The second frame of a negative pair comes from another patient, with ``negatives: same_class`` of the
    same class_id.
    """

    identity: str = "patient"
    """"patient" or "recording": frames of the same patient, or of the same recording, form positive pairs."""
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
            raise UserError(f"{where} has no {self.identity} with two frames, so there are no positive pairs")
        if self.negatives == "any" and len(np.unique(rows.patient_numbers)) < 2:
            raise UserError(f"{where} has only one patient, so there are no negative pairs")
        if self.negatives == "same_class":
            classes = rows.column("class_id")
            for value in np.unique(classes[self.anchor_rows(rows)]):
                if len(np.unique(rows.patient_numbers[classes == value])) < 2:
                    raise UserError(f"{where} has no two patients of class_id {value}: use view.negatives=any")
        return rows

    def number_of_samples(self, rows: Recordings) -> int:
        return 2 * len(self.anchor_rows(rows)) * self.per_recording

    def anchor_rows(self, rows: Recordings) -> np.ndarray:
        """Rows that can be the first of a positive pair: their identity has at least two frames."""
        identity = self._identity_labels(rows)
        return np.flatnonzero(np.bincount(identity, rows.frames)[identity] >= 2)

    def sample(self, rows: Recordings, index: int, rng: Generator) -> Sample:
        anchor_rows = self.anchor_rows(rows)
        row, same = int(anchor_rows[(index // 2) % len(anchor_rows)]), index % 2 == 0
        frame = int(rng.integers(rows.frames[row]))
        partner = int(rng.choice(self._positive_rows(rows, row) if same else self._negative_rows(rows, row)))
        second = int(rng.integers(rows.frames[partner] - (partner == row)))
        if partner == row:
            second += second >= frame
        x, other = (rows.read(r, [f], rng, self.posterior) for r, f in ((row, frame), (partner, second)))
        return Sample(row, x, other=other, other_row=partner, same=same)

    def _identity_labels(self, rows: Recordings) -> np.ndarray:
        return rows.patient_numbers if self.identity == "patient" else np.arange(len(rows))

    def _positive_rows(self, rows: Recordings, row: int) -> np.ndarray:
        identity = self._identity_labels(rows)
        members = np.flatnonzero(identity == identity[row])
        others = members[members != row]
        use_others = self.prefer_other_recording or rows.frames[row] < 2
        return others if len(others) and use_others else members

    def _negative_rows(self, rows: Recordings, row: int) -> np.ndarray:
        other = rows.patient_numbers != rows.patient_numbers[row]
        if self.negatives == "same_class":
            other &= rows.column("class_id") == rows.column("class_id")[row]
        return np.flatnonzero(other)
