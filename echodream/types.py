"""The shape alphabet and the types that more than one package speaks of.

B batch, C channels, F frames, H W space, D embedding, K classes; ``t`` is diffusion time only.
Images are (B, C, H, W), videos (B, C, F, H, W): the channel is always dimension 1.
"""

from dataclasses import dataclass
from typing import NotRequired, TypedDict

from torch import Tensor


@dataclass(frozen=True)
class Condition:
    """What a denoiser is told besides the noisy sample."""

    tokens: Tensor
    """For cross-attention: (B, L, D), or (1, L, D), the same for all rows."""
    channels: Tensor | None = None
    """Concatenated to the noisy sample along channels: (B, E, *rest)."""


class Batch(TypedDict):
    """What a datamodule yields. Labels are columns of the Store, one entry per sample."""

    x: Tensor
    """Frames: (B, C, H, W). Clips: (B, C, F, H, W). Pairs: the first of each pair, (B, C, H, W).

    Triplets: (B, 3 C, H, W), the C channels of an end diastole, of the end systole and of the end diastole after it.
    """
    name: list[str]
    """FileName of each sample's recording."""
    columns: dict[str, Tensor | list[str]]
    """Study columns asked for by the view: numbers as (B,), text as a list."""
    mask: NotRequired[Tensor]
    """Clips: bool, (B, F). True where a frame is real, False where a short recording was padded."""
    reference: NotRequired[Tensor]
    """Clips with reference frames: (B, C, R, H, W)."""
    reference_time: NotRequired[Tensor]
    """Position of each reference frame, in frames from the start of the clip: float, (B, R).

    Triplets: of the three frames stacked in ``x``, in frames from the first, which is 0: float, (B, 3).
    """
    other: NotRequired[Tensor]
    """Pairs: the second of each pair, (B, C, H, W)."""
    other_name: NotRequired[list[str]]
    """Pairs: FileName of the second's recording."""
    same: NotRequired[Tensor]
    """Pairs: float, (B,). 1 where both come from one identity, else 0."""
