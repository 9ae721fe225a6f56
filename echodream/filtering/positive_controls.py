"""Known copies of training patients: what a generator that copied could have made of them, by transform."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from echodream import validation
from echodream.datamodules import augmentation
from echodream.errors import UserError
from echodream.filtering.copy_generation import TOGETHER, CopyGenerator, FrameSelection, batched, normal, rng_of, spread

CLIPS = 6
"""Clips that are drawn together."""

LeaveOut = Literal["nothing", "frames", "recording"]


class Control(ABC):
    """A kind of copy. ``leave_out``: which references of the patient the copy must be recognised without."""

    leave_out: LeaveOut = "nothing"
    name: ClassVar[str]

    @abstractmethod
    def make(
        self, shop: CopyGenerator, taken: Sequence[FrameSelection], rngs: Sequence[np.random.Generator]
    ) -> Iterator[Tensor]:
        """A copy of each of ``taken``, unscaled latents (f, C, H, W), with the randomness of its own ``rngs``."""

    @property
    def amount(self) -> str:
        """What it does, in words that follow its name in a sentence; empty where the name says all."""
        return ""

    def settings(self) -> dict[str, Any]:
        """The kind and its amounts, as plain JSON."""
        return {"kind": self.name, **asdict(self)}  # type: ignore[call-overload]


@dataclass(frozen=True)
class PosteriorSample(Control):
    """The frames themselves, drawn anew from their stored posterior.

    With ``leave_out`` "frames" the references lack these frames and those next to them, so that another frame of the
    patient must be recognised; with "recording" they lack the whole recording.
    """

    name: ClassVar[str] = "drawn"
    leave_out: LeaveOut = "nothing"

    def __post_init__(self) -> None:
        if self.leave_out not in ("nothing", "frames", "recording"):
            raise UserError(f"leave_out is {self.leave_out!r}: give nothing, frames or recording")

    @property
    def amount(self) -> str:
        """What references it is recognised without."""
        return {"nothing": "", "frames": "at least two frames away"}.get(self.leave_out, "among the patient's others")

    def make(
        self, shop: CopyGenerator, taken: Sequence[FrameSelection], rngs: Sequence[np.random.Generator]
    ) -> Iterator[Tensor]:
        """Posterior draws."""
        for one, rng in zip(taken, rngs, strict=True):
            yield shop.drawn(one.row, one.places, rng)


@dataclass(frozen=True)
class PixelTransform(Control):
    """The frames decoded, changed by fixed amounts, and drawn from the posterior that the autoencoder gives them.

    Without any amount it is the round trip. Brighter or darker, left or right and so on are drawn for each copy.
    ``gain`` .4 multiplies intensities by 1.4 or 1 / 1.4, ``contrast`` likewise their power, ``speckle`` is the strength
    of noise, ``shift`` a share of the side, along both sides, ``rotate`` in degrees; ``zoom`` .1 crops the frame to its
    inner 1 / 1.1.
    """

    name: ClassVar[str] = "pixels"
    gain: float = 0.0
    contrast: float = 0.0
    speckle: float = 0.0
    shift: float = 0.0
    rotate: float = 0.0
    zoom: float = 0.0
    flip: bool = False

    def __post_init__(self) -> None:
        amounts = {key: value for key, value in asdict(self).items() if key != "flip"}
        augmentation.Augment(**amounts, flip=float(self.flip))  # refuses what cannot be

    @property
    def amount(self) -> str:
        """The amounts: "by 4 %" where there is one, else each with its name."""
        told = {name: f"{100 * value:g} %" for name, value in asdict(self).items() if name != "flip" and value}
        if self.rotate:
            told["rotate"] = f"{self.rotate:g} degrees"
        if len(told) == 1 and not self.flip:
            return f"by {next(iter(told.values()))}"
        return "with " + " and ".join(f"{name} {value}" for name, value in told.items()) if told else ""

    def make(
        self, shop: CopyGenerator, taken: Sequence[FrameSelection], rngs: Sequence[np.random.Generator]
    ) -> Iterator[Tensor]:
        """Posterior draws of the changed frames."""
        for group in shop.groups(taken, rngs):
            pixels = shop.decode(torch.cat([shop.mean(one.row, one.places) for one, _ in group]))
            parts = pixels.split([len(one.places) for one, _ in group])
            changed = [
                self.changed(part, rng.choice([-1, 1], 5).tolist(), rng)
                for part, (_, rng) in zip(parts, group, strict=True)
            ]
            posterior = shop.encode(torch.cat(changed))
            means, stds = (part.split([len(one.places) for one, _ in group]) for part in posterior)
            for mean, std, (_, rng) in zip(means, stds, group, strict=True):
                yield mean + std * normal(mean.shape, rng)

    def changed(self, pixels: Tensor, signs: Sequence[int], rng: np.random.Generator) -> Tensor:
        """Pixels in [-1, 1], (F, C, H, W), one change for all; ``signs`` of gain, contrast, shifts and rotation."""
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

    @property
    def directions(self) -> list[tuple[int, ...]]:
        """Every combination of signs that makes a difference."""
        amounts = (self.gain, self.contrast, self.shift, self.shift, self.rotate)
        return list(itertools.product(*[(1, -1) if amount else (1,) for amount in amounts]))


@dataclass(frozen=True)
class SDEdit(Control):
    """The frames noised to ``strength``, a share of all noise, and drawn to the end by the generator (SDEdit).

    Images as many at once as the generator draws; of videos a clip as long as those of training, of which ``f`` frames
    are looked at. The generator is told the patient's own conditions and reference frames.
    """

    strength: float
    name: ClassVar[str] = "regenerated"

    def __post_init__(self) -> None:
        validation.number("strength", self.strength, above=0, below=1)

    @property
    def amount(self) -> str:
        """The share of noise."""
        return f"from {100 * self.strength:g} % noise"

    def make(
        self, shop: CopyGenerator, taken: Sequence[FrameSelection], rngs: Sequence[np.random.Generator]
    ) -> Iterator[Tensor]:
        """Samples of the generator that begin from the patient."""
        model = shop.model
        size = CLIPS if model.is_video else max(1, TOGETHER // model.metadata.frames)
        for group in batched(list(zip(taken, rngs, strict=True)), size):
            ones, own = [one for one, _ in group], [rng for _, rng in group]
            x, values = (shop.clips if model.is_video else shop.stacked)(ones, own)
            made = shop.redrawn(x, values, self.strength, own)
            for row, one in zip(made, ones, strict=True):
                yield row[spread(len(row), len(one.places))]


def copies(shop: CopyGenerator, name: str, control: Control, taken: Sequence[FrameSelection]) -> Iterator[Tensor]:
    """A copy of each of ``taken`` under ``control``, which is called ``name``: unscaled latents, (f, C, H, W)."""
    rngs = [rng_of(shop.seed, f"{name}/{shop.rows.names[one.row]}") for one in taken]
    return control.make(shop, taken, rngs)


def views(shop: CopyGenerator, controls: Sequence[Control], latents: Tensor) -> list[Tensor]:
    """Latents, (n, C, H, W), as they are seen through each of ``controls`` in each of its directions."""
    pixels, rng, seen = shop.decode(latents) if controls else latents, np.random.default_rng(0), []
    for control in controls:
        if not isinstance(control, PixelTransform) or control.speckle:
            raise UserError("views= names transforms of pixels without randomness: flip, shift, rotate, ...")
        seen += [shop.encode(control.changed(pixels, signs, rng))[0] for signs in control.directions]
    return seen


def left_out(control: Control, taken: FrameSelection, row: int, places: np.ndarray) -> np.ndarray:
    """Which of the frames ``places`` of the recording ``row`` are no references for a copy of ``taken``; bool, (n,)."""
    if control.leave_out == "nothing" or row != taken.row:
        return np.zeros(len(places), dtype=bool)
    if control.leave_out == "recording":
        return np.ones(len(places), dtype=bool)
    return (np.abs(places[:, None] - taken.places[None]) <= 1).any(axis=1)
