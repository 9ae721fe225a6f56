"""Softmax over one centre for each training identity, with a margin; of all centres, or of some in each step."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from echodream import validation
from echodream.errors import UserError
from echodream.losses.identity import Compare, Head


def combined(cosine: Tensor, m1: float, m2: float, m3: float) -> Tensor:
    """cos(m1 theta + m2) - m3 for the cosines of angles theta, going on to fall where m1 theta + m2 is above pi.

    (1, m, 0) is ArcFace (1801.07698), (1, 0, m) CosFace (1801.09414), (m, 0, 0) SphereFace (1704.08063), whose way to
    go on is (-1)^k cos(angle) - 2 k in the k-th half turn. Any shape.
    """
    angle = m1 * cosine.clamp(-1 + 1e-7, 1 - 1e-7).acos() + m2
    turns = (angle.detach() / math.pi).floor()
    return (1 - 2 * (turns % 2)) * angle.cos() - 2 * turns - m3


class Margin(Head):
    """A frame must be nearer to the centre of its identity than to all others by ``margins`` (m1, m2, m3).

    The logits are ``scale`` times cosines, that of the own centre with ``combined``; the loss is their cross-entropy.
    With a ``share`` below 1 each step compares with the centres of the batch's identities and that share of all others,
    which are drawn by ``seed`` and the number of the step (Partial FC, 2010.05222), the same in all processes.
    """

    def __init__(
        self, margins: Sequence[float] = (1.0, 0.5, 0.0), scale: float = 64.0, share: float = 1.0, seed: int = 0
    ) -> None:
        super().__init__()
        m1, m2, m3 = margins if len(margins) == 3 else (math.nan, 0, 0)
        if not (1 <= m1 <= 10 and 0 <= m2 < math.pi / 2 and 0 <= m3 < 1):
            raise UserError(
                f"head.margins is {list(margins)}: give m1 from 1 to 10, m2 from 0 to below pi / 2, and m3 from 0 to "
                "below 1"
            )
        validation.positive_number("head.scale", scale)
        validation.number("head.share", share, maximum=1, above=0)
        self.margins, self.scale, self.share, self.seed = (m1, m2, m3), scale, share, seed
        self.step: Tensor
        self.register_buffer("step", torch.tensor(0))

    def adapt(self, features: int, identities: int) -> None:
        """A random centre for each identity."""
        self.centres = nn.Parameter(0.01 * torch.randn(identities, features))

    def forward(
        self, features: Tensor, identity: Tensor, pairs: Tensor, compare: Compare, targets: Tensor | None = None
    ) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return self._loss(features.float(), identity)

    def _loss(self, features: Tensor, identity: Tensor) -> Tensor:
        centres: Tensor = self.centres
        own = identity
        if self.share < 1:
            kept = self.drawn(identity)
            centres, own = centres[kept], torch.searchsorted(kept, identity)
        cosines = functional.linear(functional.normalize(features), functional.normalize(centres))
        place = own.unsqueeze(1)
        logits = cosines.scatter(1, place, combined(cosines.gather(1, place), *self.margins))
        return functional.cross_entropy(self.scale * logits, own)

    @torch.no_grad()
    def drawn(self, identity: Tensor) -> Tensor:
        """The identities that this step compares with, int64, rising: those of the batch, and some of all others."""
        count, number = len(self.centres), int(self.step)
        self.step += 1
        own = np.unique(_everywhere(identity).cpu().numpy())
        keys = np.random.default_rng([self.seed, number]).random(count)
        keys[own] = -1
        others = count - len(own)
        wanted = len(own) + min(others, max(1, round(self.share * others)))
        return torch.from_numpy(np.sort(np.argsort(keys, kind="stable")[:wanted])).to(identity.device)


def _everywhere(identity: Tensor) -> Tensor:
    """The identities of the batches of all processes, which are as long."""
    if not distributed.is_available() or not distributed.is_initialized() or distributed.get_world_size() == 1:
        return identity
    parts = [torch.empty_like(identity) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, identity.contiguous())
    return torch.cat(parts)
