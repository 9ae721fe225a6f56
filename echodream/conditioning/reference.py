"""Reference frames: what the clip's heart looks like, at moments that are known."""

from typing import Any

import torch
from torch import Tensor, nn

from echodream.conditioning.base import ReferenceCondition

_NEAR = 3e-4
"""Frames by which a later reference must be nearer than an earlier one: ties do not hang on rounding."""


def between(reference: Tensor, time: Tensor, frames: int, beat: bool = False) -> Tensor:
    """What lies between reference frames: for each of ``frames`` frames, linear in time; (B, C, frames, H, W).

    ``reference`` is (B, C, R, H, W), its ``time`` (B, R), in frames. Before the first and after the last the nearest
    is kept; with ``beat``, the references are of one beat, which comes again before and after.
    """
    time, order = time.float().sort(dim=1, stable=True)
    reference = reference.take_along_dim(order[:, None, :, None, None], dim=2)
    at = torch.arange(frames, device=time.device).expand(len(time), -1).float()
    first, length = time[:, :1], (time[:, -1:] - time[:, :1])
    if beat:
        at = torch.where(length > 0, first + (at - first).remainder(length.clamp(min=_NEAR)), at)
    upper = torch.searchsorted(time.contiguous(), at.contiguous(), right=True).clamp(max=time.shape[1] - 1)
    lower = (upper - 1).clamp(min=0)
    start, end = time.gather(1, lower), time.gather(1, upper)
    share = ((at - start) / (end - start).clamp(min=_NEAR)).clamp(0, 1).to(reference.dtype)
    ends = [reference.take_along_dim(index[:, None, :, None, None], dim=2) for index in (lower, upper)]
    return torch.lerp(ends[0], ends[1], share[:, None, :, None, None])


class Reference(ReferenceCondition):
    """Any number of frames, placed in time: each frame of the clip is given the one nearest to it.

    With it go two channels of their distance in time d, in frames: exp(-d^2 / 2), which is 1 where the frame itself is
    given, and tanh(d / 32). Dropped, there is a learned latent of one colour, and zero in both channels.
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
        return len(self.null) + 2

    def forward(self, reference: Tensor, time: Tensor, keep: Tensor, rest: torch.Size) -> Tensor:
        time, order = time.float().sort(dim=1, stable=True)
        d = torch.arange(rest[0], device=time.device)[None, :, None] - time[:, None]  # b f r
        index = (d.abs() + _NEAR * torch.arange(time.shape[1], device=time.device)).argmin(dim=2, keepdim=True)
        d = d.gather(2, index)[..., 0]
        chosen = order.gather(1, index[..., 0])
        latents = reference.take_along_dim(chosen[:, None, :, None, None], dim=2)
        near = torch.stack([(-d.square() / 2).exp(), (d / 32).tanh()], dim=1)[..., None, None].to(reference.dtype)
        null = torch.cat([self.null, self.null.new_zeros(2, 1, 1, 1)]).to(reference.dtype)
        given = torch.cat([latents, near.expand(-1, -1, -1, *rest[1:])], dim=1)
        return torch.where(keep[:, None, None, None, None], given, null)
