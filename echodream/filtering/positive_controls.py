"""Kinds of positive controls of the privacy filter: known copies of training patients.

To add a control, add a line to conf/controls/declared.yaml. A new kind of copy also needs a class in this file. A new
transform of pixels needs a parameter in ``datamodules.random_transforms``. Classes are registered by ``kind``. The
filter certifies each control and records its settings. The report describes controls with ``describe_control``.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from echodream import validation
from echodream.datamodules.augmentation import Transform
from echodream.datamodules.random_transforms import RandomTransform
from echodream.datamodules.recordings import gaussian_sample, named_rng
from echodream.errors import UserError
from echodream.privacy.certification import WEAKEST

if TYPE_CHECKING:
    from echodream.filtering.copy_generation import CopyGenerator, CopyRequest, FrameSelection

LeaveOut = Literal["nothing", "frames", "recording"]
KINDS: dict[str, "type[Control]"] = {}
"""Classes of controls by ``kind``."""
_ALWAYS_RECORDED = ("leave_out", "gain", "contrast", "speckle", "shift", "rotate", "zoom", "flip")
"""Settings of ``PixelTransform`` that are recorded even at their defaults; other settings are recorded if set."""


class Control(ABC):
    """Base class of kinds of copies. Subclasses are frozen dataclasses, whose fields are recorded.

    ``kind``: name of the class in records. ``leave_out``: references that are not compared with a copy: "nothing",
    "frames" (the copied frames and their neighbors) or "recording" (the copied recording). ``needs_generator``: whether
    copies need the generator that sampled ``src``.
    """

    kind: ClassVar[str]
    needs_generator: ClassVar[bool] = False
    leave_out: LeaveOut = "nothing"

    def __init_subclass__(cls) -> None:
        if cls.kind in KINDS:
            raise TypeError(f"{cls.__name__} needs another kind: {KINDS[cls.kind].__name__} has the kind {cls.kind!r}")
        KINDS[cls.kind] = cls

    @abstractmethod
    def generate(self, copy_generator: "CopyGenerator", requests: Sequence["CopyRequest"]) -> Iterator[Tensor]:
        """Yield a copy of the frames of each request, by its random generator: unscaled latents, (f, C, H, W)."""

    @property
    def amount(self) -> str:
        """Strength of the transform as text, possibly empty, which follows the control's name in the statement."""
        return ""

    @property
    def description(self) -> str:
        """Description of the copy for the report."""
        return ""

    def pixel_views(self, pixels: Tensor) -> list[Tensor]:
        """``pixels``, (n, C, H, W), transformed in each direction. Raises ``UserError`` if the transform is random."""
        raise UserError("views= can only name transforms of pixels without randomness: flip, shift, rotate, ...")

    def settings(self) -> dict[str, Any]:
        """``kind`` and the dataclass fields, for dataset.json."""
        return {"kind": self.kind, **asdict(self)}  # type: ignore[call-overload]

    def excludes(self, selection: "FrameSelection", row: int, frames: np.ndarray) -> np.ndarray:
        """Which ``frames``, (n,), of recording ``row`` are not compared with a copy of ``selection``; bool (n,)."""
        if self.leave_out == "nothing" or row != selection.row:
            return np.zeros(len(frames), dtype=bool)
        if self.leave_out == "recording":
            return np.ones(len(frames), dtype=bool)
        return (np.abs(frames[:, None] - selection.frames[None]) <= 1).any(axis=1)


@dataclass(frozen=True)
class PosteriorSample(Control):
    """Copy that is a new sample of the stored posterior of the frames; ``Control`` describes ``leave_out``."""

    kind: ClassVar[str] = "drawn"
    leave_out: LeaveOut = "nothing"

    def __post_init__(self) -> None:
        validation.one_of("leave_out", self.leave_out, ("nothing", "frames", "recording"))

    @property
    def amount(self) -> str:
        texts = {"frames": "at least two frames away", "recording": "in the patient's other recordings"}
        return texts.get(self.leave_out, "")

    @property
    def description(self) -> str:
        texts = {"frames": "another frame of the recording", "recording": "another recording of the patient"}
        return texts.get(self.leave_out, "the same frames")

    def generate(self, copy_generator: "CopyGenerator", requests: Sequence["CopyRequest"]) -> Iterator[Tensor]:
        for selection, rng in requests:
            yield copy_generator.recordings.posterior_sample(selection.row, selection.frames, rng)


@dataclass(frozen=True)
class PixelTransform(RandomTransform, Control):
    """Copies with transformed frames: samples of the posterior of the transformed pixels.

    Frames come from the video store; without a video store, frames are decoded from the latents. If no transform is
    set, frames are only decoded and encoded. The amounts of ``RandomTransform`` are sampled once per copy.
    ``interpolate`` mixes the encoded latents with latents of another patient.
    """

    kind: ClassVar[str] = "pixels"

    def settings(self) -> dict[str, Any]:
        """All settings in ``_ALWAYS_RECORDED``, and the other settings that are not at their defaults."""
        record = super().settings()
        return {name: value for name, value in record.items() if name in _ALWAYS_RECORDED or value}

    def generate(self, copy_generator: "CopyGenerator", requests: Sequence["CopyRequest"]) -> Iterator[Tensor]:
        for batch in copy_generator.batches(requests):
            is_round_trip, rngs = self == PixelTransform(), [rng for _, rng in batch]
            pixels = copy_generator.reconstruct(batch) if is_round_trip else copy_generator.pixels(batch)
            sizes, samples = [len(part) for part in pixels], [self.sample(rng) for rng in rngs]
            others: list[list[CopyRequest]] = [[] for _ in batch]  # frames of another patient to mix into each copy
            if self.needs_other_patient:
                others = [[(copy_generator.select_other_patient(*request), request[1])] for request in batch]
            transformed = [
                transform_frames(sample, part, rng, copy_generator.pixels(other)[0] if other else None)
                for sample, part, rng, other in zip(samples, pixels, rngs, others, strict=True)
            ]
            means, stds = (part.split(sizes) for part in copy_generator.encode(torch.cat(transformed)))
            for sample, mean, std, rng, other in zip(samples, means, stds, rngs, others, strict=True):
                copy = gaussian_sample(mean, std, rng)
                mixed = [copy_generator.recordings.posterior_sample(part.row, part.frames, rng) for part, _ in other]
                yield sample.mix_latents(copy, mixed[0] if mixed else None)

    def pixel_views(self, pixels: Tensor) -> list[Tensor]:
        if not self.has_fixed_amounts:
            return super().pixel_views(pixels)
        amounts, rng = (self.gain, self.contrast, self.shift, self.shift, self.rotate), np.random.default_rng(0)
        signs = itertools.product(*[(1, -1) if amount else (1,) for amount in amounts])
        return [transform_frames(self.sample_in_direction(each, rng), pixels, rng) for each in signs]


def transform_frames(
    transform: Transform, pixels: Tensor, rng: np.random.Generator, other_pixels: Tensor | None = None
) -> Tensor:
    """Transformed ``pixels`` in [-1, 1], (F, C, H, W); ``other_pixels``: pixels of another patient to blend in."""
    other = None if other_pixels is None else other_pixels.transpose(0, 1)
    return transform.change_pixels(pixels.transpose(0, 1), rng, other).transpose(0, 1).contiguous()


@dataclass(frozen=True)
class SDEdit(Control):
    """Copies by ``CopyGenerator.sdedit``: noise up to ``strength``, a fraction of diffusion time, then sampling."""

    strength: float
    kind: ClassVar[str] = "regenerated"
    needs_generator: ClassVar[bool] = True

    def __post_init__(self) -> None:
        validation.number("strength", self.strength, above=0, below=1)

    @property
    def amount(self) -> str:
        return f"from {100 * self.strength:g} % noise"

    @property
    def description(self) -> str:
        return f"{100 * self.strength:.0f} % noise added and removed by the generator (SDEdit)"

    def generate(self, copy_generator: "CopyGenerator", requests: Sequence["CopyRequest"]) -> Iterator[Tensor]:
        return copy_generator.sdedit(requests, self.strength)


def select_controls(
    controls: Mapping[str, Control | None], leave_out: Sequence[str], report_only: Sequence[str], views: Sequence[str]
) -> dict[str, Control]:
    """Controls that are not None and not in ``leave_out``. Names in ``leave_out`` must also be in ``report_only``.

    Raises ``UserError`` for a value that is no ``Control``, for an unknown name, and if no control is certified.
    """
    for key, names in (("leave_out", leave_out), ("report_only", report_only), ("views", views)):
        if isinstance(names, str):
            raise UserError(f"{key}={names} is not a list: give names in brackets, or {key}=[]")
    selected = {name: one for name, one in controls.items() if one is not None and name not in leave_out}
    if wrong := [name for name in sorted(selected) if not isinstance(selected[name], Control)]:
        remedy = "give a class of echodream.filtering.positive_controls, or null"
        raise UserError(f"controls.{wrong[0]} is not a control: {remedy}")
    choices = (("leave_out", leave_out, controls), ("report_only", report_only, controls), ("views", views, selected))
    for key, names, known in choices:
        if missing := [name for name in names if name not in known]:
            raise UserError(f"{key}=[{missing[0]}] is not among controls: choose from {', '.join(sorted(known))}")
    if certified := [name for name in leave_out if controls[name] is not None and name not in report_only]:
        remedy = "add it to report_only=, too, or remove it from leave_out="
        raise UserError(f"leave_out=[{certified[0]}] is part of the guarantee: {remedy}")
    if not set(selected) - set(report_only):
        raise UserError("controls= has no transform outside report_only=, so nothing can be certified: add one")
    return selected


def generate_copies(
    copy_generator: "CopyGenerator", name: str, control: Control, selections: Sequence["FrameSelection"]
) -> Iterator[Tensor]:
    """Copies of ``selections`` under ``control``, which the configuration calls ``name``: latents, (f, C, H, W)."""
    names, seed = copy_generator.recordings.names, copy_generator.seed
    requests = [(selection, named_rng(seed, f"{name}/{names[selection.row]}")) for selection in selections]
    return control.generate(copy_generator, requests)


def describe_control(name: str, record: Mapping[str, Any]) -> str:
    """Description of the control ``name`` for the report, from its recorded settings ``record``."""
    if name == WEAKEST:
        return "for each patient, the copy with the lowest score"
    settings = dict(record)
    control = KINDS.get(settings.pop("kind", ""))
    return (control(**settings).description if control else "") or name.replace("_", " ")
