"""Views: transformed versions of a frame, which are compared with the training patients in addition to the frame."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from echodream import validation
from echodream.datamodules.augmentation import Transform
from echodream.datamodules.random_transforms import FLIPS
from echodream.filtering.copy_generation import CopyGenerator
from echodream.filtering.positive_controls import Control, transform_frames

GRID_FLIPS: dict[str, tuple[int, ...]] = dict(
    zip(("none", "horizontal", "vertical", "both"), ((), *FLIPS), strict=True)
)
"""Flips of a ``ViewGrid``, and the axes of (C, F, H, W) that each flip reverses."""
_EXAMPLE = "give a grid such as {shift: [-.05, 0, .05]}, or a list of grids"
_RECORDED = ("flip", "shift", "zoom")
"""Keys of a ``ViewGrid`` that are recorded even at their default values."""
HISTOGRAM_FRAMES = 128
"""Largest number of training frames whose histograms are averaged."""


def latent_views(copy_generator: CopyGenerator, controls: Sequence[Control], latents: Tensor) -> list[Tensor]:
    """Posterior means of latents, (n, C, H, W), after each transform of ``controls`` in each direction."""
    if not controls:
        return []
    pixels = copy_generator.decode(latents)
    return [copy_generator.encode(view)[0] for control in controls for view in control.pixel_views(pixels)]


@dataclass(frozen=True)
class ViewGrid:
    """Versions of a frame: each combination of a flip, shift, zoom, rotation and intensity.

    ``flip``: "none", "horizontal", "vertical" or "both". ``shift``: fractions of the side, for horizontal and vertical
    shifts. ``zoom``: factors. ``rotate``: degrees. ``intensity``: "original", or "matched", which gives the frame the
    mean histogram of training frames. Matching undoes changes of gain and contrast where no pixels are clipped. Raises
    ``UserError`` for a value out of range.
    """

    flip: Sequence[str] = ("none",)
    shift: Sequence[float] = (0.0,)
    zoom: Sequence[float] = (1.0,)
    rotate: Sequence[float] = (0.0,)
    intensity: Sequence[str] = ("original",)

    def __post_init__(self) -> None:
        for field in fields(self):
            values = validation.list_of_values(f"view_grid.{field.name}", getattr(self, field.name))
            if not values:
                validation.refuse(f"view_grid.{field.name}", [], "give one or more values")
            object.__setattr__(self, field.name, values)
        for flip in self.flip:
            validation.one_of("view_grid.flip", flip, GRID_FLIPS)
        for intensity in self.intensity:
            validation.one_of("view_grid.intensity", intensity, ("original", "matched"))
        for name, low, high in (("shift", -1.0, 1.0), ("zoom", 0.1, 10.0), ("rotate", -180.0, 180.0)):
            for value in getattr(self, name):
                validation.number(f"view_grid.{name}", value, low, high)

    def combinations(self) -> list[tuple[Transform, bool]]:
        """All combinations except the unchanged frame: a transform, and whether the intensity is matched."""
        flips = [GRID_FLIPS[flip] for flip in self.flip]
        shifts = list(itertools.product(self.shift, self.shift))
        grid = itertools.product(flips, shifts, self.zoom, self.rotate, self.intensity)
        combinations = [
            (Transform(flip=flip, shift=shift, zoom=zoom, rotate=rotate), intensity == "matched")
            for flip, shift, zoom, rotate, intensity in grid
        ]
        return [combination for combination in combinations if combination != (Transform(), False)]


def read_view_grids(settings: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> tuple[ViewGrid, ...]:
    """Grids from the setting ``view_grid``: a grid or a list of grids. Raises ``UserError`` for an unknown setting."""
    grids = [settings] if isinstance(settings, Mapping) else settings
    if not isinstance(grids, Sequence) or isinstance(grids, str):
        validation.refuse("view_grid", settings, _EXAMPLE)
    known = [field.name for field in fields(ViewGrid)]
    for grid in grids:
        if not isinstance(grid, Mapping):
            validation.refuse("view_grid", grid, _EXAMPLE)
        for name in grid:
            validation.one_of("view_grid", name, known)
    return tuple(ViewGrid(**grid) for grid in grids)


def record_view_grids(grids: Sequence[ViewGrid] | None) -> Any:
    """JSON value of ``grids``: a mapping or a list; None without views. Most default values are left out."""
    if not any(grid.combinations() for grid in grids or ()):
        return None
    defaults = asdict(ViewGrid())
    records = [
        {name: list(value) for name, value in asdict(grid).items() if name in _RECORDED or value != defaults[name]}
        for grid in grids or ()
    ]
    return records[0] if len(records) == 1 else records


class GridViews:
    """Function from latents, (n, C, H, W), to the posterior means of the frames after each transform of ``grids``."""

    def __init__(self, copy_generator: CopyGenerator, grids: Sequence[ViewGrid]) -> None:
        self.copy_generator = copy_generator
        self.combinations = list(dict.fromkeys(each for grid in grids for each in grid.combinations()))
        is_matched = any(matched for _, matched in self.combinations)
        self.histogram = mean_sorted_pixels(copy_generator) if is_matched else None

    def __call__(self, latents: Tensor) -> list[Tensor]:
        if not self.combinations:
            return []
        pixels, rng = self.copy_generator.decode(latents), np.random.default_rng(0)
        matched = pixels if self.histogram is None else match_histogram(pixels, self.histogram)
        return [
            self.copy_generator.encode(transform_frames(transform, matched if is_matched else pixels, rng))[0]
            for transform, is_matched in self.combinations
        ]


def mean_sorted_pixels(copy_generator: CopyGenerator) -> Tensor:
    """Mean over training frames of their sorted pixels, (C H W,): the histogram that views are matched to."""
    frames = copy_generator.training_frames(HISTOGRAM_FRAMES)
    return copy_generator.decode(frames).flatten(1).sort(dim=1).values.mean(dim=0)


def match_histogram(pixels: Tensor, sorted_pixels: Tensor) -> Tensor:
    """``pixels``, (n, C, H, W), with the k-th smallest value of a frame replaced by ``sorted_pixels[k]``, (C H W,)."""
    flat = pixels.flatten(1)
    order = flat.argsort(dim=1, stable=True)
    matched = torch.empty_like(flat).scatter_(1, order, sorted_pixels.expand(len(flat), -1))
    return matched.view_as(pixels)
