"""Reference frames: what the clip's heart looks like, at moments that are known."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from echodream.diffusion.conditioning.base import ReferenceCondition

_NEAR = 3e-4
"""Frames by which a reference may lie after a frame and count as lying on it: nothing hangs on rounding."""


def between(reference: Tensor, time: Tensor, frames: int) -> Tensor:
    """What lies between reference frames, linear in time, for each of ``frames`` frames: (B, C, frames, H, W).

    ``reference`` is (B, C, R, H, W), its ``time`` (B, R), in frames. Before the first and after the last it is the
    nearest one.
    """
    return _Placed(reference, time, frames).between


def beating(reference: Tensor, time: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """The three key frames of a beat, (B, C, 3, H, W) at ``time`` (B, 3), and again in the beats around it.

    As many beats as it takes to cover ``frames`` frames from 0. Returns (B, C, R, H, W) and (B, R).
    """
    length = (time[:, 2] - time[:, 0]).clamp(min=1)
    earlier = max(0, math.ceil(float((time[:, 0] / length).max())))
    later = max(0, math.ceil(float(((frames - time[:, 2]) / length).max())))
    which = [0, 1] * earlier + [0, 1, 2] + [1, 2] * later
    beat = [n for n in range(-earlier, 0) for _ in range(2)] + [0] * 3 + [n for n in range(1, later + 1) for _ in "12"]
    return reference[:, :, which], time[:, which] + length[:, None] * time.new_tensor(beat)


class _Placed:
    """References in order of time, and for each frame what lies ``between`` them, and how far the two around it are."""

    def __init__(self, reference: Tensor, time: Tensor, frames: int) -> None:
        time, order = time.float().sort(dim=1, stable=True)
        at = torch.arange(frames, device=time.device).expand(len(time), -1).float()
        after = torch.searchsorted(time.contiguous(), (at + _NEAR).contiguous(), right=True)
        self.first, self.last = after == 0, after == time.shape[1]
        after, before = after.clamp(max=time.shape[1] - 1), (after - 1).clamp(min=0)
        self.since = (at - time.gather(1, before)).clamp(min=0)
        self.until = (time.gather(1, after) - at).clamp(min=0)
        gap = self.since + self.until
        share = torch.where(gap > 0, self.since / gap.clamp(min=_NEAR), gap).to(reference.dtype)
        ends = (order.gather(1, index)[:, None, :, None, None] for index in (before, after))
        start, end = (reference.take_along_dim(index, dim=2) for index in ends)
        self.between = torch.lerp(start, end, share[:, None, :, None, None])


class Reference(ReferenceCondition):
    """Any number of frames, placed in time: each frame of the clip is given what lies between the two around it.

    With it go three channels: exp(-d^2 / 2), which is 1 where d, the distance to the nearer one, is 0; and
    tanh(d / 32) of the distances to the one before and the one after, in frames, 1 where there is none. Dropped, there
    is a learned latent of one colour, and zero in the three channels.
    """

    kind = "reference"

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__(dropout)

    def arguments(self) -> dict[str, Any]:
        return {"dropout": self.dropout}

    def build(self, channels: int) -> None:
        self.null = nn.Parameter(torch.randn(channels, 1, 1, 1))

    @property
    def extra(self) -> int:
        return len(self.null) + 3

    def forward(self, reference: Tensor, time: Tensor, keep: Tensor, rest: torch.Size) -> Tensor:
        placed = _Placed(reference, time, rest[0])
        since = placed.since.masked_fill(placed.first, torch.inf)
        until = placed.until.masked_fill(placed.last, torch.inf)
        near = (-torch.minimum(since, until).square() / 2).exp()
        distances = torch.stack([near, (since / 32).tanh(), (until / 32).tanh()], dim=1)[..., None, None]
        null = torch.cat([self.null, self.null.new_zeros(3, 1, 1, 1)]).to(reference.dtype)
        given = torch.cat([placed.between, distances.to(reference.dtype).expand(-1, -1, -1, *rest[1:])], dim=1)
        return torch.where(keep[:, None, None, None, None], given, null)
