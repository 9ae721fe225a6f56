"""Positive controls of the privacy filter: known copies of training patients. A new kind is a class in this file.

Classes are registered by ``kind``; conf/controls/declared.yaml lists the controls to use. The filter certifies each
control and records the settings; the report describes controls with ``describe_control``.
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
from echodream.datamodules import augmentation
from echodream.datamodules.recordings import gaussian_sample, named_rng
from echodream.errors import UserError
from echodream.privacy.certification import WEAKEST

if TYPE_CHECKING:
    from echodream.filtering.copy_generation import CopyGenerator, CopyRequest, FrameSelection

LeaveOut = Literal["nothing", "frames", "recording"]
KINDS: dict[str, "type[Control]"] = {}
"""Classes of controls by ``kind``."""


class Control(ABC):
    """A kind of copy. Subclasses are frozen dataclasses; their fields are recorded.

    ``kind``: name of the class in records. ``leave_out``: references to exclude when a copy is scored: none, the copied
    frames and their neighbors, or their recording. ``needs_generator``: whether copies need the generator of ``src``.
    """

    kind: ClassVar[str]
    needs_generator: ClassVar[bool] = False
    leave_out: LeaveOut = "nothing"

    def __init_subclass__(cls) -> None:
        if cls.kind in KINDS:
            raise TypeError(f"{cls.__name__} needs a kind of its own: {cls.kind!r} is {KINDS[cls.kind].__name__}")
        KINDS[cls.kind] = cls

    @abstractmethod
    def generate(self, copy_generator: "CopyGenerator", requests: Sequence["CopyRequest"]) -> Iterator[Tensor]:
        """A copy of each request's selection, unscaled latents (f, C, H, W), with the request's random generator."""

    @property
    def amount(self) -> str:
        """Strength of the transform, which follows the control's name in the filter's statement; may be empty."""
        return ""

    @property
    def description(self) -> str:
        """Words for the report."""
        return ""

    def pixel_views(self, pixels: Tensor) -> list[Tensor]:
        """``pixels``, (n, C, H, W), transformed in each direction. Raises ``UserError`` for a random transform."""
        raise UserError("views= names transforms of pixels without randomness: flip, shift, rotate, ...")

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
    """A new sample of the stored posterior of the frames; ``leave_out`` excludes their frames or recording."""

    kind: ClassVar[str] = "drawn"
    leave_out: LeaveOut = "nothing"

    def __post_init__(self) -> None:
        validation.one_of("leave_out", self.leave_out, ("nothing", "frames", "recording"))

    @property
    def amount(self) -> str:
        return {"nothing": "", "frames": "at least two frames away"}.get(self.leave_out, "among the patient's others")

    @property
    def description(self) -> str:
        others = {"frames": "another frame of the recording", "recording": "another recording of the patient"}
        return others.get(self.leave_out, "the very same frames")

    def generate(self, copy_generator: "CopyGenerator", requests: Sequence["CopyRequest"]) -> Iterator[Tensor]:
        for selection, rng in requests:
            yield copy_generator.recordings.posterior_sample(selection.row, selection.frames, rng)


@dataclass(frozen=True)
class PixelTransform(Control):
    """The frames transformed and encoded: a sample of the posterior of the transformed pixels.

    The frames are those of the video store, or decoded from the latents if there is none. Without any transform the
    copy is decoded and encoded. The direction (brighter or darker, left or right) is random for each copy. ``gain`` 0.4
    multiplies intensities by 1.4 or 1 / 1.4; ``contrast`` 0.4 raises intensities to the power 1.4 or 1 / 1.4;
    ``speckle``: standard deviation of multiplicative noise; ``shift``: fraction of the side, in both directions;
    ``rotate``: degrees; ``zoom`` 0.1 crops the inner 1 / 1.1 of the frame; ``flip``: mirror image.
    """

    kind: ClassVar[str] = "pixels"
    gain: float = 0.0
    contrast: float = 0.0
    speckle: float = 0.0
    shift: float = 0.0
    rotate: float = 0.0
    zoom: float = 0.0
    flip: bool = False

    def __post_init__(self) -> None:
        amounts = {key: value for key, value in asdict(self).items() if key != "flip"}
        augmentation.Augment(**amounts, flip=float(self.flip))  # checks the ranges

    @property
    def amount(self) -> str:
        """ "by 4 %" for a single transform, else each amount with its name."""
        amounts = {name: f"{100 * value:g} %" for name, value in asdict(self).items() if name != "flip" and value}
        if self.rotate:
            amounts["rotate"] = f"{self.rotate:g} degrees"
        if len(amounts) == 1 and not self.flip:
            return f"by {next(iter(amounts.values()))}"
        return "with " + " and ".join(f"{name} {value}" for name, value in amounts.items()) if amounts else ""

    @property
    def description(self) -> str:
        texts = (
            (self.gain, f"brighter or darker by {100 * self.gain:.0f} %"),
            (self.contrast, f"more or less contrast by {100 * self.contrast:.0f} %"),
            (self.speckle, f"{100 * self.speckle:.0f} % of speckle noise added"),
            (self.shift, f"moved by {100 * self.shift:.0f} % of the side"),
            (self.zoom, f"cut and enlarged by {100 * self.zoom:.0f} %"),
            (self.rotate, f"turned by {self.rotate:.0f}°"),
            (self.flip, "mirrored"),
        )
        return ", ".join(text for amount, text in texts if amount) or "through the autoencoder and back"

    def generate(self, copy_generator: "CopyGenerator", requests: Sequence["CopyRequest"]) -> Iterator[Tensor]:
        for batch in copy_generator.batches(requests):
            is_round_trip = self == PixelTransform()
            pixels = copy_generator.reconstruct(batch) if is_round_trip else copy_generator.pixels(batch)
            sizes = [len(part) for part in pixels]
            pairs = zip(pixels, [rng for _, rng in batch], strict=True)
            transformed = [self.transform(part, rng.choice([-1, 1], 5).tolist(), rng) for part, rng in pairs]
            means, stds = (part.split(sizes) for part in copy_generator.encode(torch.cat(transformed)))
            for mean, std, (_, rng) in zip(means, stds, batch, strict=True):
                yield gaussian_sample(mean, std, rng)

    def transform(self, pixels: Tensor, signs: Sequence[int], rng: np.random.Generator) -> Tensor:
        """Transformed pixels in [-1, 1], (F, C, H, W); ``signs``: +1 or -1 of gain, contrast, both shifts, rotation."""
        x = pixels.transpose(0, 1)
        if self.shift or self.rotate or self.zoom:
            shift = (self.shift * signs[2], self.shift * signs[3])
            x = augmentation.affine(x, shift, self.rotate * signs[4], 1 + self.zoom)
        if self.flip:
            x = augmentation.flip(x)
        if self.gain:
            x = augmentation.gain(x, (1 + self.gain) ** signs[0])
        if self.contrast:
            x = augmentation.contrast(x, (1 + self.contrast) ** signs[1])
        if self.speckle:
            x = augmentation.speckle(x, self.speckle, rng)
        return x.transpose(0, 1).contiguous()

    def pixel_views(self, pixels: Tensor) -> list[Tensor]:
        if self.speckle:
            return super().pixel_views(pixels)
        amounts = (self.gain, self.contrast, self.shift, self.shift, self.rotate)
        signs = itertools.product(*[(1, -1) if amount else (1,) for amount in amounts])
        return [self.transform(pixels, combination, np.random.default_rng(0)) for combination in signs]


@dataclass(frozen=True)
class SDEdit(Control):
    """The frames noised to ``strength``, a fraction of the process's time, and denoised: ``CopyGenerator.sdedit``."""

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
    """The ``controls`` that are not null and not in ``leave_out``; ``leave_out`` must be a part of ``report_only``.

    Raises ``UserError`` for a value that is not a ``Control``, an unknown name, and if all controls are only reported.
    """
    for key, names in (("leave_out", leave_out), ("report_only", report_only), ("views", views)):
        if isinstance(names, str):
            raise UserError(f"{key}={names} is not a list: give names in brackets, or {key}=[]")
    selected = {name: one for name, one in controls.items() if one is not None and name not in leave_out}
    if wrong := [name for name in sorted(selected) if not isinstance(selected[name], Control)]:
        known_kinds = "echodream.filtering.positive_controls"
        raise UserError(f"controls.{wrong[0]} is not a control: give one of {known_kinds}, or null")
    choices = (("leave_out", leave_out, controls), ("report_only", report_only, controls), ("views", views, selected))
    for key, names, known in choices:
        if missing := [name for name in names if name not in known]:
            raise UserError(f"{key}=[{missing[0]}] is not among controls: choose from {', '.join(sorted(known))}")
    if certified := [name for name in leave_out if controls[name] is not None and name not in report_only]:
        remedy = "name it in report_only=, too, or take it out of leave_out="
        raise UserError(f"leave_out=[{certified[0]}] is part of the guarantee: {remedy}")
    if not set(selected) - set(report_only):
        raise UserError("controls= declares no transform outside report_only=, so nothing could be promised: add one")
    return selected


def generate_copies(
    copy_generator: "CopyGenerator", name: str, control: Control, selections: Sequence["FrameSelection"]
) -> Iterator[Tensor]:
    """A copy of each selection under ``control``, declared as ``name``: unscaled latents, (f, C, H, W)."""
    names, seed = copy_generator.recordings.names, copy_generator.seed
    requests = [(selection, named_rng(seed, f"{name}/{names[selection.row]}")) for selection in selections]
    return control.generate(copy_generator, requests)


def latent_views(copy_generator: "CopyGenerator", controls: Sequence[Control], latents: Tensor) -> list[Tensor]:
    """Posterior means of latents, (n, C, H, W), after each transform of ``controls`` in each direction."""
    if not controls:
        return []
    pixels = copy_generator.decode(latents)
    return [copy_generator.encode(view)[0] for control in controls for view in control.pixel_views(pixels)]


def describe_control(name: str, record: Mapping[str, Any]) -> str:
    """The copy in words; ``record``: the settings that the filter recorded for the control ``name``."""
    if name == WEAKEST:
        return "whichever of these hides the patient best"
    settings = dict(record)
    control = KINDS.get(settings.pop("kind", ""))
    return (control(**settings).description if control else "") or name.replace("_", " ")
