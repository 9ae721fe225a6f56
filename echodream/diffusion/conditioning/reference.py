"""Reference condition: latent frames of the clip at known times."""

import math

import torch
from torch import Tensor, nn

from echodream.diffusion.conditioning.base import ReferenceCondition

_TIME_TOLERANCE = 3e-4
"""Tolerance in frames: a reference that is later than a frame by at most this time counts as simultaneous."""


def interpolate_references(reference: Tensor, time: Tensor, frames: int) -> Tensor:
    """Interpolate reference frames (B, C, R, H, W) at ``time`` (B, R), in frames, to clips (B, C, ``frames``, H, W)."""
    return _ReferenceInterpolation(reference, time, frames).interpolated


def repeat_key_frames(reference: Tensor, time: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """Repeat the ED-ES-ED key frames (B, C, 3, H, W) of a beat, at ``time`` (B, 3), over a clip of ``frames`` frames.

    Returns key frames (B, C, R, H, W) and times (B, R), on the device of ``reference``. The number of beats depends on
    ``time``. If ``time`` is on the CPU, the function does not wait for the GPU.
    """
    length = (time[:, 2] - time[:, 0]).clamp(min=1)
    earlier = max(0, math.ceil(float((time[:, 0] / length).max())))
    later = max(0, math.ceil(float(((frames - time[:, 2]) / length).max())))
    repeated = torch.cat([*[reference[:, :, :2]] * earlier, reference, *[reference[:, :, 1:]] * later], dim=2)
    beats = range(-earlier, later + 1)
    parts = [time[:, 1 if beat > 0 else 0 : 2 if beat < 0 else 3] + length[:, None] * beat for beat in beats]
    return repeated, torch.cat(parts, dim=1).to(reference.device, non_blocking=True)


class _ReferenceInterpolation:
    """Interpolation of reference frames at each frame, and time distances to the previous and next reference."""

    def __init__(self, reference: Tensor, time: Tensor, frames: int) -> None:
        time, order = time.float().sort(dim=1, stable=True)
        frame = torch.arange(frames, device=time.device).expand(len(time), -1).float()
        after = torch.searchsorted(time.contiguous(), (frame + _TIME_TOLERANCE).contiguous(), right=True)
        self.before_first, self.after_last = after == 0, after == time.shape[1]
        after, before = after.clamp(max=time.shape[1] - 1), (after - 1).clamp(min=0)
        self.since_previous = (frame - time.gather(1, before)).clamp(min=0)
        self.until_next = (time.gather(1, after) - frame).clamp(min=0)
        gap = self.since_previous + self.until_next
        weight = torch.where(gap > 0, self.since_previous / gap.clamp(min=_TIME_TOLERANCE), gap).to(reference.dtype)
        indices = (order.gather(1, index)[:, None, :, None, None] for index in (before, after))
        start, end = (reference.take_along_dim(index, dim=2) for index in indices)
        self.interpolated = torch.lerp(start, end, weight[:, None, :, None, None])


class Reference(ReferenceCondition):
    """Condition on any number of reference frames at known times, interpolated linearly at each frame of the clip.

    Three additional channels encode distances d to references, in frames: exp(-d^2 / 2) of the nearest reference, and
    tanh(d / 32) of the previous and the next reference (1 if absent). The null embedding is a latent that is constant
    over space and time, with 0 in the additional channels.
    """

    kind = "reference"
    interpolates_in_time = True

    def build(self, channels: int) -> None:
        self.null = nn.Parameter(torch.randn(channels, 1, 1, 1))

    @property
    def extra_channels(self) -> int:
        return len(self.null) + 3

    def forward(self, reference: Tensor, time: Tensor, keep: Tensor, size: torch.Size) -> Tensor:
        interpolation = _ReferenceInterpolation(reference, time, size[0])
        since = interpolation.since_previous.masked_fill(interpolation.before_first, torch.inf)
        until = interpolation.until_next.masked_fill(interpolation.after_last, torch.inf)
        near = (-torch.minimum(since, until).square() / 2).exp()
        distances = torch.stack([near, (since / 32).tanh(), (until / 32).tanh()], dim=1)[..., None, None]
        null = torch.cat([self.null, self.null.new_zeros(3, 1, 1, 1)]).to(reference.dtype)
        distances = distances.to(reference.dtype).expand(-1, -1, -1, *size[1:])
        channels = torch.cat([interpolation.interpolated, distances], dim=1)
        return torch.where(keep[:, None, None, None, None], channels, null)
