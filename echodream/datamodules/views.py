"""Views: what one training sample is. Labels are columns of the Store, not classes.

A view holds settings only. All that is random in a sample comes from the generator it is given, so the same generator
gives the same sample, in any worker.
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
    """The recording it comes from."""
    x: Tensor
    """(C, F, H, W)."""
    mask: np.ndarray | None = None
    """Clips: bool, (F,). True where a frame is real."""
    reference: Tensor | None = None
    """Clips with references: (C, R, H, W)."""
    reference_time: np.ndarray | None = None
    """Clips with references: float32, (R,). Triplets: float32, (3,)."""
    other: Tensor | None = None
    """Pairs: (C, 1, H, W)."""
    other_row: int | None = None
    same: bool | None = None


@dataclass(frozen=True, kw_only=True)
class View(ABC):
    """What one sample is. Raises ``UserError`` for settings that cannot be."""

    posterior: str = "sample"
    """Latents: "sample" from the stored posterior, or its "mean". Pixels have none."""

    still: ClassVar[bool] = False
    """Whether a sample's frames, one or a few, are stacked along its channels: batches are (B, F * C, H, W)."""

    def __post_init__(self) -> None:
        validation.one_of("view.posterior", self.posterior, ("sample", "mean"))

    def fixed(self) -> Self:
        """This view for validation and test, where nothing may depend on when it is asked."""
        return self

    def usable(self, rows: Recordings) -> Recordings:
        """Those of ``rows`` that can be viewed so: all, unless a view says otherwise. Raises ``UserError``."""
        return rows

    @abstractmethod
    def count(self, rows: Recordings) -> int:
        """Number of samples in an epoch."""

    @abstractmethod
    def sample(self, rows: Recordings, index: int, rng: Generator) -> Sample:
        """The sample number ``index``, 0 to ``count`` - 1."""


@dataclass(frozen=True, kw_only=True)
class Frames(View):
    """Single frames: every frame of every recording once an epoch, or ``per_recording`` random ones of each.

    Validation and test see the middle ``held_out`` frames of each recording as a clip: from two on, they show what
    moves.
    """

    per_recording: int | None = None
    held_out: int = 2

    still: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        validation.whole_number("view.held_out", self.held_out)
        if self.per_recording is not None:
            validation.whole_number("view.per_recording", self.per_recording)

    def fixed(self) -> "Clips":  # type: ignore[override]
        return Clips(frames=self.held_out, start="centre", posterior=self.posterior)

    def count(self, rows: Recordings) -> int:
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
    """Clips of ``frames`` frames, every ``stride``-th of the recording, ``per_recording`` of each in an epoch.

    A recording that is too short gives all it has and its last frame repeated; ``mask`` tells which frames are real.
    ``references`` frames go with a clip, by ``reference``: "random" ones of the recording; the clip's "first"; evenly
    spaced ones of the clip, its ends included ("even"; one: its middle); or "keyframes", the ED-ES-ED triple nearest
    the clip, three frames. Their times are in frames of the clip, counted from its start: in [0, frames - 1] inside it.
    A reference's latent is drawn from the posterior independently of the clip's.
    """

    frames: int
    stride: int = 1
    start: str = "random"
    """"random", "first", "centre" (validation and test: for random), "spread": as far apart as fits, stride or more."""
    reference: str = "none"
    references: int = 1
    per_recording: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("frames", "stride", "references", "per_recording"):
            validation.whole_number(f"view.{name}", getattr(self, name))
        validation.one_of("view.start", self.start, ("random", "first", "centre", "spread"))
        validation.one_of("view.reference", self.reference, ("none", "random", "first", "even", "keyframes"))
        fits = {"keyframes": 3, "first": 1}.get(self.reference, self.references)
        if self.references != fits:
            raise UserError(f"view.reference={self.reference} needs view.references={fits}, not {self.references}")

    def fixed(self) -> Self:
        return replace(self, start="centre" if self.start == "random" else self.start)

    def usable(self, rows: Recordings) -> Recordings:
        return recordings_with_triples(rows) if self.reference == "keyframes" else rows

    def count(self, rows: Recordings) -> int:
        return len(rows) * self.per_recording

    def sample(self, rows: Recordings, index: int, rng: Generator) -> Sample:
        row = index // self.per_recording
        taken = self.place(int(rows.frames[row]), rng)
        mask = np.arange(self.frames) < len(taken)
        indices = np.minimum(np.arange(self.frames), len(taken) - 1) * taken.step + taken[0]
        if self.reference == "none":
            return Sample(row, rows.read(row, indices.tolist(), rng, self.posterior), mask)
        chosen = self._references(rows, row, taken, rng)
        x, seen = (rows.read(row, part.tolist(), rng, self.posterior) for part in (indices, chosen))
        return Sample(row, x, mask, seen, ((chosen - taken[0]) / taken.step).astype(np.float32))

    def place(self, length: int, rng: Generator) -> range:
        """The frames of a recording with ``length`` frames that a clip takes: ``frames`` of them, or all there are."""
        fits = (length - 1) // max(1, self.frames - 1) if self.start == "spread" else 0
        step = max(self.stride, fits)
        spare = max(0, length - ((self.frames - 1) * step + 1))
        begin = {"first": 0, "random": 0}.get(self.start, spare // 2)
        if self.start == "random" and spare:
            begin = int(rng.integers(spare + 1))
        return range(begin, length, step)[: self.frames]

    def _references(self, rows: Recordings, row: int, taken: range, rng: Generator) -> np.ndarray:
        if self.reference == "random":
            length = int(rows.frames[row])
            return rng.choice(length, self.references, replace=self.references > length)
        if self.reference == "keyframes":
            return np.array(nearest_triple(find_triples(rows, row), (taken[0] + taken[-1]) / 2))
        if self.reference == "first":
            return np.array([taken[0]])
        last = len(taken) - 1
        places = np.linspace(0, last, self.references) if self.references > 1 else np.array([last / 2])
        return taken[0] + taken.step * np.rint(places).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Triplet(View):
    """The ED-ES-ED key frames of one beat as one image: channels [0:C] are the first ED, [C:2C] the ES, then the ED.

    ``per_recording`` times in an epoch a ``beat`` of each recording: a "random" one, or the one nearest its "centre",
    which validation and test see, once. ``reference_time`` tells when the three are, in frames from the first.
    """

    per_recording: int = 1
    beat: str = "random"

    still: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        validation.whole_number("view.per_recording", self.per_recording)
        validation.one_of("view.beat", self.beat, ("random", "centre"))

    def fixed(self) -> Self:
        return replace(self, beat="centre", per_recording=1)

    def usable(self, rows: Recordings) -> Recordings:
        return recordings_with_triples(rows)

    def count(self, rows: Recordings) -> int:
        return len(rows) * self.per_recording

    def sample(self, rows: Recordings, index: int, rng: Generator) -> Sample:
        row = index // self.per_recording
        found = find_triples(rows, row)
        centre = self.beat == "centre"
        taken = nearest_triple(found, (int(rows.frames[row]) - 1) / 2) if centre else found[rng.integers(len(found))]
        times = np.asarray(taken, np.float32) - taken[0]
        return Sample(row, rows.read(row, taken, rng, self.posterior), reference_time=times)


@dataclass(frozen=True, kw_only=True)
class Pairs(View):
    """Two frames of one identity (``same`` 1) or of two patients (0), in equal numbers.

    Each recording is the first of ``per_recording`` pairs of both kinds in an epoch. The second frame of a positive
    pair comes from another recording of the patient where there is one (``prefer_other_recording``; else from any of
    the patient's), and is never the same frame. A recording whose identity has no other frame begins no pair. The
    second of a negative pair comes from any recording of another patient in the split, or of another patient with the
    same class_id (``negatives: same_class``).
    """

    identity: str = "patient"
    """"patient" or "recording": what makes two frames the same."""
    prefer_other_recording: bool = True
    negatives: str = "any"
    per_recording: int = 1

    still: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        validation.one_of("view.identity", self.identity, ("patient", "recording"))
        validation.one_of("view.negatives", self.negatives, ("any", "same_class"))
        validation.whole_number("view.per_recording", self.per_recording)

    def usable(self, rows: Recordings) -> Recordings:
        where = f"{rows.store.root}: split {rows.split}"
        if not len(self.anchors(rows)):
            raise UserError(f"{where} has no {self.identity} with two frames, so there are no positive pairs")
        if self.negatives == "any" and len(np.unique(rows.patient_numbers)) < 2:
            raise UserError(f"{where} has only one patient, so there are no negative pairs")
        if self.negatives == "same_class":
            classes = rows.column("class_id")
            for value in np.unique(classes[self.anchors(rows)]):
                if len(np.unique(rows.patient_numbers[classes == value])) < 2:
                    raise UserError(f"{where} has no two patients of class_id {value}: use view.negatives=any")
        return rows

    def count(self, rows: Recordings) -> int:
        return 2 * len(self.anchors(rows)) * self.per_recording

    def anchors(self, rows: Recordings) -> np.ndarray:
        """Rows that can begin a positive pair: those whose identity has a second frame."""
        identity = self._identity(rows)
        return np.flatnonzero(np.bincount(identity, rows.frames)[identity] >= 2)

    def sample(self, rows: Recordings, index: int, rng: Generator) -> Sample:
        anchors = self.anchors(rows)
        row, same = int(anchors[(index // 2) % len(anchors)]), index % 2 == 0
        frame = int(rng.integers(rows.frames[row]))
        partner = int(rng.choice(self._partners(rows, row) if same else self._strangers(rows, row)))
        second = int(rng.integers(rows.frames[partner] - (partner == row)))
        if partner == row:
            second += second >= frame
        x, other = (rows.read(r, [f], rng, self.posterior) for r, f in ((row, frame), (partner, second)))
        return Sample(row, x, other=other, other_row=partner, same=same)

    def _identity(self, rows: Recordings) -> np.ndarray:
        return rows.patient_numbers if self.identity == "patient" else np.arange(len(rows))

    def _partners(self, rows: Recordings, row: int) -> np.ndarray:
        identity = self._identity(rows)
        members = np.flatnonzero(identity == identity[row])
        others = members[members != row]
        alone = rows.frames[row] < 2
        return others if len(others) and (self.prefer_other_recording or alone) else members

    def _strangers(self, rows: Recordings, row: int) -> np.ndarray:
        other = rows.patient_numbers != rows.patient_numbers[row]
        if self.negatives == "same_class":
            classes = rows.column("class_id")
            other = other & (classes == classes[row])
        return np.flatnonzero(other)
