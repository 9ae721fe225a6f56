"""Versions of patients' frames that show less of them: noised and drawn again by a generator, or blurred."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import Dataset

from echodream import validation
from echodream.datamodules.frame_budget_batches import plan_batches
from echodream.datamodules.key_frames import nearest_triple
from echodream.datamodules.recordings import Recordings
from echodream.filtering.copy_generation import CopyGenerator, FrameSelection, beats_of, rng_of, spread


class Method(Protocol):
    """A way to anonymise frames."""

    def make(self, shop: CopyGenerator, taken: Sequence[FrameSelection]) -> Sequence[Tensor]:
        """A version of each of ``taken``, unscaled latents (f, C, H, W) on the CPU."""


@dataclass(frozen=True)
class Redraw:
    """The frame noised to ``strength``, a share of the process's time, and drawn from there (SDEdit, 2108.01073).

    The generator is told the recording's own conditions. 0 is the frame as it is stored; 1 does not look at it. Where
    the generator draws key frames jointly, the frame takes the place of the nearest of them.
    """

    strength: float

    def __post_init__(self) -> None:
        validation.share("strength", self.strength)

    def make(self, shop: CopyGenerator, taken: Sequence[FrameSelection]) -> Sequence[Tensor]:
        """Samples that begin from the frames; what is random is a function of seed, recording and frame."""
        if self.strength == 0:
            return [shop.mean(one.row, one.places) for one in taken]
        frames = [(one.row, int(place)) for one in taken for place in one.places]
        rngs = [rng_of(shop.seed, f"{shop.rows.names[row]}/{place}") for row, place in frames]
        shown = [around(shop.rows, row, place, shop.model.facts.frames) for row, place in frames]
        x, values = shop.stacked([of for of, _ in shown], rngs)
        made = shop.redrawn(x, values, self.strength, rngs)
        kept = made[torch.arange(len(made)), torch.tensor([slot for _, slot in shown])]
        return kept.split([len(one.places) for one in taken])


@dataclass(frozen=True)
class Blur:
    """The frame decoded, blurred by a Gaussian of ``sigma`` pixels, and encoded: the mean of its posterior."""

    sigma: float

    def __post_init__(self) -> None:
        validation.number("blur", self.sigma, above=0, below=1000, note=", a standard deviation in pixels")

    def make(self, shop: CopyGenerator, taken: Sequence[FrameSelection]) -> Sequence[Tensor]:
        """Blurred frames; the edge is repeated outwards."""
        from scipy.ndimage import gaussian_filter

        pixels = shop.decode(torch.cat([shop.mean(one.row, one.places) for one in taken])).numpy()
        blurred = gaussian_filter(pixels, (0, 0, self.sigma, self.sigma), mode="nearest")
        return shop.encode(torch.from_numpy(blurred))[0].split([len(one.places) for one in taken])


def around(rows: Recordings, row: int, place: int, count: int) -> tuple[FrameSelection, int]:
    """The frame ``place`` among ``count`` that are drawn jointly, and which of them it is.

    Three are the key frames of the beat around it, where they are marked; others are spread over the recording.
    """
    beats = beats_of(rows, row) if count == 3 else []
    shown = np.array(nearest_triple(beats, place)) if beats else spread(int(rows.frames[row]), count)
    slot = int(np.abs(shown - place).argmin())
    shown[slot] = place
    return FrameSelection(row, shown), slot


@dataclass(frozen=True)
class Group:
    """Some recordings that are anonymised together."""

    names: tuple[str, ...]
    rows: tuple[int, ...]

    def to(self, device: torch.device) -> Self:
        """The same: frames are read where they are needed."""
        return self


class Groups(Dataset[Group]):
    """The recordings of ``rows``, about ``batch`` frames at a time, ``frames`` of each; without groups that are done.

    Which come together does not depend on what is ``done``, so that a resumed run meets the same groups.
    """

    def __init__(self, rows: Recordings, frames: int, batch: int, done: Collection[str] = ()) -> None:
        sizes = list(zip(rows.table["FrameHeight"], rows.table["FrameWidth"], strict=True))
        groups = [tuple(group) for group in plan_batches([frames] * len(rows), sizes, batch)]
        named = [Group(tuple(rows.names[row] for row in group), group) for group in groups]
        self.groups = [group for group in named if any(name not in done for name in group.names)]

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, number: int) -> Group:
        return self.groups[number]


class Anonymiser(pl.LightningModule):
    """``frames`` frames of each recording of ``shop``, spread over it, anonymised by ``method``."""

    def __init__(self, shop: CopyGenerator, method: Method, frames: int) -> None:
        super().__init__()
        self.shop, self.method, self.frames = shop, method, frames
        self.networks = torch.nn.ModuleList([part for part in (shop.vae, shop.generator) if part is not None])

    def predict_step(self, batch: Group, batch_idx: int) -> Sequence[Tensor]:
        """For each recording the versions of its frames, unscaled latents (f, C, H, W) on the CPU."""
        self.shop.device = self.device
        taken = [FrameSelection(row, spread(int(self.shop.rows.frames[row]), self.frames)) for row in batch.rows]
        return [made.float() for made in self.method.make(self.shop, taken)]
