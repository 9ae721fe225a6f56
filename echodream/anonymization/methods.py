"""Anonymization methods of ``stage=anonymise``: subclasses of ``AnonymizationMethod``, with an entry in ``METHODS``."""

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


class AnonymizationMethod:
    """Base class of transforms that remove identity from frames. Subclasses are frozen dataclasses."""

    needs_generator: ClassVar[bool] = False
    """Whether the method needs the latent image diffusion model (LIDM) that ``generator=`` names."""

    def settings(self) -> dict[str, Any]:
        """The fields of the method for dataset.json; integers are converted to floats."""
        return {name: float(value) if isinstance(value, int) else value for name, value in asdict(self).items()}  # type: ignore[call-overload]

    def check_generator(self, model: DiffusionModel, recordings: Recordings) -> None:
        """Raise ``UserError`` if ``model`` cannot anonymize the ``recordings``."""

    def anonymize(self, copy_generator: CopyGenerator, selections: Sequence[FrameSelection]) -> Sequence[Tensor]:
        """Anonymize the frames of each of ``selections`` with ``copy_generator``: unscaled latents, (f, C, H, W)."""
        raise NotImplementedError


@dataclass(frozen=True)
class SDEditMethod(AnonymizationMethod):
    """SDEdit (arXiv 2108.01073): add noise up to the diffusion time ``strength``, then sample from that time.

    ``strength`` is a fraction of the diffusion time: 0 returns the stored frame, 1 starts from pure noise. Samples are
    conditioned on the labels of the recording. ``select_joint_frames`` selects frames that are sampled jointly.
    """

    strength: float
    needs_generator: ClassVar[bool] = True

    def __post_init__(self) -> None:
        validation.fraction("strength", self.strength)

    def check_generator(self, model: DiffusionModel, recordings: Recordings) -> None:
        """Raise ``UserError`` for latents of another size, and for labels outside the training data of ``model``."""
        metadata, root = model.metadata, recordings.store.root
        for name, height, width in recordings.table[["FileName", "FrameHeight", "FrameWidth"]].itertuples(index=False):
            if (height, width) != (metadata.height, metadata.width):
                raise UserError(
                    f"{name} of {root} is {width}x{height}, and generator= samples {metadata.width}x{metadata.height}: "
                    "give the LIDM that was trained on these latents"
                )
        if self.strength == 0:  # the stored frames are returned, so the labels do not matter
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

    def anonymize(self, copy_generator: CopyGenerator, selections: Sequence[FrameSelection]) -> Sequence[Tensor]:
        """Samples that start from noisy frames. The noise is a function of seed, recording name and frame number."""
        if self.strength == 0:
            return [copy_generator.recordings.posterior(each.row, each.frames)[0] for each in selections]
        frames = [(selection.row, int(frame)) for selection in selections for frame in selection.frames]
        recordings, count = copy_generator.recordings, copy_generator.model.metadata.frames
        rngs = [named_rng(copy_generator.seed, f"{recordings.names[row]}/{frame}") for row, frame in frames]
        joint = [select_joint_frames(recordings, row, frame, count) for row, frame in frames]
        x, values = copy_generator.image_batch([selection for selection, _ in joint], rngs)
        sampled = copy_generator.regenerate(x, values, self.strength, rngs)
        positions = torch.tensor([position for _, position in joint])
        return sampled[torch.arange(len(sampled)), positions].split([len(selection.frames) for selection in selections])


@dataclass(frozen=True)
class BlurMethod(AnonymizationMethod):
    """Gaussian blur of decoded frames, with a standard deviation of ``blur`` pixels; the blurred frames are encoded."""

    blur: float

    def __post_init__(self) -> None:
        validation.number("blur", self.blur, above=0, below=1000, note=", a standard deviation in pixels")

    def anonymize(self, copy_generator: CopyGenerator, selections: Sequence[FrameSelection]) -> Sequence[Tensor]:
        """Posterior means of the blurred frames; for the blur, frames are padded with their edge pixels."""
        from scipy.ndimage import gaussian_filter

        latents = torch.cat([copy_generator.recordings.posterior(each.row, each.frames)[0] for each in selections])
        blurred = gaussian_filter(copy_generator.decode(latents).numpy(), (0, 0, self.blur, self.blur), mode="nearest")
        mean, _ = copy_generator.encode(torch.from_numpy(blurred))
        return mean.split([len(selection.frames) for selection in selections])


METHODS: dict[str, type[AnonymizationMethod]] = {"redraw": SDEditMethod, "blur": BlurMethod}
"""Anonymization methods by the value of ``method=``."""


def create_method(name: str, settings: Mapping[str, Mapping[str, Any]]) -> AnonymizationMethod:
    """The method ``name`` with the fields ``settings[name]``. Raises ``UserError`` for an unknown name or field."""
    validation.one_of("method", name, METHODS)
    try:
        return METHODS[name](**settings.get(name, {}))
    except TypeError as error:
        fields = ", ".join(METHODS[name].__dataclass_fields__)  # type: ignore[attr-defined]
        raise UserError(f"methods.{name}={dict(settings.get(name, {}))} is not possible: give {fields}") from error


def select_joint_frames(recordings: Recordings, row: int, frame: int, count: int) -> tuple[FrameSelection, int]:
    """Indices of the ``count`` frames that the generator samples jointly, and the position of ``frame`` among them.

    If ``count`` is 3 and beats are marked, the frames are the key frames of the nearest beat, otherwise they are evenly
    spaced. ``frame`` replaces the nearest selected frame.
    """
    beats, length = marked_triples(recordings, row) if count == 3 else [], int(recordings.frames[row])
    frames = np.array(nearest_triple(beats, frame)) if beats else evenly_spaced_frames(length, count)
    position = int(np.abs(frames - frame).argmin())
    frames[position] = frame
    return FrameSelection(row, frames), position
