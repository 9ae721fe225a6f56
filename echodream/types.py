"""Notation of tensor shapes, and types that several packages use.

B batch, C channels, F frames, H W space, D embedding, K classes; ``t`` is diffusion time only.
Images are (B, C, H, W), videos (B, C, F, H, W): channels are always dimension 1.
"""

from dataclasses import dataclass
from typing import NotRequired, TypedDict

from torch import Tensor


@dataclass(frozen=True)
class Condition:
    """Conditioning inputs of a denoiser, in addition to the noisy sample and the noise level."""

    tokens: Tensor
    """L tokens for cross-attention: (B, L, D), or (1, L, D) if all rows have the same tokens."""
    channels: Tensor | None = None
    """E channels that are concatenated to the noisy sample: (B, E, *rest)."""
    time: Tensor | None = None
    """Vector that a distilled model adds to the embedding of the diffusion time: (B, T)."""


class Batch(TypedDict):
    """A batch of training samples. Labels are columns of the store, with one entry per sample."""

    x: Tensor
    """Input. view=frames: (B, C, H, W). view=clips: (B, C, F, H, W). view=pairs: first frame of a pair, (B, C, H, W).

    view=triplet: (B, 3 C, H, W), the C channels of an end diastole, of the end systole and of the next end diastole.
    """
    name: list[str]
    """FileName of each sample's recording."""
    columns: dict[str, Tensor | list[str]]
    """Columns of FileList.csv: a numeric column is a tensor (B,), a text column a list."""
    mask: NotRequired[Tensor]
    """view=clips: bool, (B, F); True for recorded frames, False for the padding of a short recording."""
    reference: NotRequired[Tensor]
    """R reference frames of each clip: (B, C, R, H, W)."""
    reference_time: NotRequired[Tensor]
    """Position of each reference frame, in frames from the start of the clip: float, (B, R).

    view=triplet: positions of the three key frames in ``x``, in frames from the first key frame: float, (B, 3).
    """
    other: NotRequired[Tensor]
    """view=pairs: the second frame of each pair, (B, C, H, W)."""
    other_name: NotRequired[list[str]]
    """view=pairs: FileName of the recording of the second frame."""
    same: NotRequired[Tensor]
    """view=pairs: float, (B,); 1 if the two frames of a pair are of one identity, else 0."""
