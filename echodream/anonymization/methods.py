"""Anonymization methods of ``stage=anonymise``. A new method is a subclass of ``Method`` and an entry of ``METHODS``.

The values of its fields come from ``methods.<name>`` in conf/stage/anonymise.yaml.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from echodream import validation
from echodream.datamodules.key_frames import evenly_spaced_frames, marked_triples, nearest_triple
from echodream.datamodules.recordings import Recordings, named_rng
from echodream.diffusion.conditioning.base import parse_texts
from echodream.diffusion.model import DiffusionModel
from echodream.errors import UserError
from echodream.filtering.copy_generation import CopyGenerator, FrameSelection


class Method:
    """A transform that removes identity from frames. Subclasses are frozen dataclasses."""

    needs_generator: ClassVar[bool] = False
    """Whether the method samples from the LIDM ``generator=``."""

    def settings(self) -> dict[str, Any]:
        """The fields, numbers as floats, for dataset.json."""
        return {name: float(value) if isinstance(value, int) else value for name, value in asdict(self).items()}  # type: ignore[call-overload]

    def check_generator(self, model: DiffusionModel, recordings: Recordings) -> None:
        """Raise ``UserError`` if ``model`` cannot anonymize the ``recordings``."""

    def anonymize(self, copies: CopyGenerator, selections: Sequence[FrameSelection]) -> Sequence[Tensor]:
        """The anonymized frames of each selection, with the networks of ``copies``: unscaled latents (f, C, H, W)."""
        raise NotImplementedError


@dataclass(frozen=True)
class Redraw(Method):
    """SDEdit (arXiv 2108.01073): add noise up to the time ``strength``, then sample from there.

    ``strength`` is a fraction of the process's time: 0 returns the stored frame, 1 ignores the stored frame. Samples
    are conditioned on the recording's labels. For a generator of key frames, the frame replaces the nearest key frame
    and all are sampled together.
    """

    strength: float
    needs_generator: ClassVar[bool] = True

    def __post_init__(self) -> None:
        validation.share("strength", self.strength)

    def check_generator(self, model: DiffusionModel, recordings: Recordings) -> None:
        """Refuse latents of another size, and labels that ``model`` was not trained on, such as an unknown class."""
        metadata, root = model.metadata, recordings.store.root
        for name, height, width in recordings.table[["FileName", "FrameHeight", "FrameWidth"]].itertuples(index=False):
            if (height, width) != (metadata.height, metadata.width):
                raise UserError(
                    f"{name} of {root} is {width}x{height}, and generator= samples {metadata.width}x{metadata.height}: "
                    "give the LIDM that was trained on these latents"
                )
        if self.strength == 0:  # nothing is sampled
            return
        for column in (name for name in model.conditioner.columns if name in recordings.table):
            for cell, names in recordings.table.groupby(column)["FileName"]:
                try:
                    model.conditioner.encode_request({column: [cell]}, clamp=True)
                except UserError as error:
                    raise UserError(
                        f"{names.iloc[0]} of {root} has {column}={parse_texts([cell])[0]}, which generator= was not "
                        "trained on: give a LIDM whose TRAIN patients have this value, or method=blur"
                    ) from error

    def anonymize(self, copies: CopyGenerator, selections: Sequence[FrameSelection]) -> Sequence[Tensor]:
        """Samples that start from the noised frames; the noise is a function of seed, recording and frame."""
        if self.strength == 0:
            return [copies.recordings.posterior(selection.row, selection.frames)[0] for selection in selections]
        frames = [(selection.row, int(frame)) for selection in selections for frame in selection.frames]
        rngs = [named_rng(copies.seed, f"{copies.recordings.names[row]}/{frame}") for row, frame in frames]
        joint = [frames_around(copies.recordings, row, frame, copies.model.metadata.frames) for row, frame in frames]
        x, values = copies.image_batch([selection for selection, _ in joint], rngs)
        sampled = copies.regenerate(x, values, self.strength, rngs)
        sampled = sampled[torch.arange(len(sampled)), torch.tensor([position for _, position in joint])]
        return sampled.split([len(selection.frames) for selection in selections])


@dataclass(frozen=True)
class Blur(Method):
    """Decode, blur with a Gaussian kernel of standard deviation ``blur`` pixels, encode: posterior means."""

    blur: float

    def __post_init__(self) -> None:
        validation.number("blur", self.blur, above=0, below=1000, note=", a standard deviation in pixels")

    def anonymize(self, copies: CopyGenerator, selections: Sequence[FrameSelection]) -> Sequence[Tensor]:
        """Blurred frames; pixels outside the image repeat the edge."""
        from scipy.ndimage import gaussian_filter

        latents = torch.cat([copies.recordings.posterior(part.row, part.frames)[0] for part in selections])
        blurred = gaussian_filter(copies.decode(latents).numpy(), (0, 0, self.blur, self.blur), mode="nearest")
        mean, _ = copies.encode(torch.from_numpy(blurred))
        return mean.split([len(selection.frames) for selection in selections])


METHODS: dict[str, type[Method]] = {"redraw": Redraw, "blur": Blur}
"""Values of ``method=``."""


def create_method(name: str, settings: Mapping[str, Mapping[str, Any]]) -> Method:
    """The method ``name`` with ``settings[name]``. Raises ``UserError`` for an unknown name or setting."""
    validation.one_of("method", name, METHODS)
    try:
        return METHODS[name](**settings.get(name, {}))
    except TypeError as error:
        fields = ", ".join(METHODS[name].__dataclass_fields__)  # type: ignore[attr-defined]
        raise UserError(f"methods.{name}={dict(settings.get(name, {}))} is not possible: give {fields}") from error


def frames_around(recordings: Recordings, row: int, frame: int, count: int) -> tuple[FrameSelection, int]:
    """``count`` frames of a recording to sample together, and the position of ``frame`` among them.

    Three frames are the key frames of the nearest beat, where beats are marked; otherwise frames are evenly spaced.
    """
    beats, length = marked_triples(recordings, row) if count == 3 else [], int(recordings.frames[row])
    frames = np.array(nearest_triple(beats, frame)) if beats else evenly_spaced_frames(length, count)
    position = int(np.abs(frames - frame).argmin())
    frames[position] = frame
    return FrameSelection(row, frames), position
