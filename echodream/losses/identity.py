"""Losses of identity networks (``head=``): they make embeddings of one identity similar."""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from echodream import validation
from echodream.errors import UserError

PairLogits = Callable[[Tensor, Tensor], Tensor]
"""Function from embeddings a and b of P pairs, each (P, D), to logits (P,) that a and b have one identity."""


class IdentityLoss(nn.Module):
    """Base class of losses of embeddings with identity labels."""

    needs_pair_layer: ClassVar[bool] = False
    """Whether the network needs a sigmoid output and a linear layer that classifies pairs of embeddings."""
    similarity: ClassVar[str] = "cosine"
    """Similarity measure of the trained embeddings, "cosine" or "pearson"."""
    needs_linear_code: ClassVar[bool] = False
    """Whether the loss needs the linear codes of the original frames."""
    needs_copy_pairs: ClassVar[bool] = False
    """Whether the loss needs pairs of copies of one frame, at most one pair of each frame, and no other pairs."""

    def configure(self, features: int, identities: int) -> None:
        """Create the parameters of the loss for embeddings of ``features`` dimensions and ``identities`` labels."""
        return

    @abstractmethod
    def forward(
        self, features: Tensor, identity: Tensor, pairs: Tensor, pair_logits: PairLogits, targets: Tensor | None = None
    ) -> Tensor:
        """Loss, scalar, of embeddings ``features`` (N, D) with labels ``identity``, int64 (N,).

        ``pairs`` are row indices, int64 (P, 2), and ``pair_logits`` a classifier of pairs. ``targets`` are the linear
        codes of the original frames, (N, D), if ``needs_linear_code``.
        """


class PublishedPairLoss(IdentityLoss):
    """Binary cross-entropy of a linear layer over |a - b|, for embeddings a and b, as in the published filter."""

    needs_pair_layer = True
    similarity = "pearson"

    def forward(
        self, features: Tensor, identity: Tensor, pairs: Tensor, pair_logits: PairLogits, targets: Tensor | None = None
    ) -> Tensor:
        first, second = pairs.unbind(dim=1)
        same = (identity[first] == identity[second]).to(features.dtype)
        return functional.binary_cross_entropy_with_logits(pair_logits(features[first], features[second]), same)


class _MetricLearningLoss(IdentityLoss):
    """Base class of losses that pytorch-metric-learning implements in ``loss``."""

    loss: nn.Module

    def forward(
        self, features: Tensor, identity: Tensor, pairs: Tensor, pair_logits: PairLogits, targets: Tensor | None = None
    ) -> Tensor:
        return self.loss(features, identity)


class NTXentLoss(_MetricLearningLoss):
    """NT-Xent contrastive loss (2002.05709). All frames of one identity in the batch are positives."""

    def __init__(self, temperature: float = 0.1) -> None:
        from pytorch_metric_learning.losses import NTXentLoss as Loss

        super().__init__()
        validation.positive_number("head.temperature", temperature)
        self.loss = Loss(temperature=temperature)


class CopyContrastiveLoss(IdentityLoss):
    """NT-Xent contrastive loss of copy detection (2002.05709, 2202.10261).

    The only positive of a copy is the second copy of its frame. All frames of other identities are negatives. By
    ``other_frames``, all other frames of the copy's identity are "ignored" or "negative".
    """

    needs_copy_pairs = True

    def __init__(self, temperature: float = 0.1, other_frames: str = "ignored") -> None:
        super().__init__()
        validation.positive_number("head.temperature", temperature)
        validation.one_of("head.other_frames", other_frames, ("ignored", "negative"))
        self.temperature, self.other_frames = temperature, other_frames

    def forward(
        self, features: Tensor, identity: Tensor, pairs: Tensor, pair_logits: PairLogits, targets: Tensor | None = None
    ) -> Tensor:
        rows, positive = torch.cat([pairs, pairs.flip(1)]).unbind(dim=1)
        unit = functional.normalize(features.float())
        logits = unit[rows] @ unit.T / self.temperature
        columns = torch.arange(len(unit), device=unit.device)
        excluded = columns == rows[:, None]
        if self.other_frames == "ignored":
            excluded = excluded | ((identity == identity[rows][:, None]) & (columns != positive[:, None]))
        return functional.cross_entropy(logits.masked_fill(excluded, -math.inf), positive)


class ArcFaceLoss(_MetricLearningLoss):
    """ArcFace loss (1801.07698) with an angular ``margin`` in degrees. ``scale`` multiplies the cosines."""

    def __init__(self, margin: float = 28.6, scale: float = 64.0) -> None:
        super().__init__()
        validation.positive_number("head.scale", scale)
        validation.number("head.margin", margin, 0, below=90, note=" degrees")
        self.margin, self.scale = margin, scale

    def configure(self, features: int, identities: int) -> None:
        from pytorch_metric_learning.losses import ArcFaceLoss as Loss

        self.loss = Loss(identities, features, margin=self.margin, scale=self.scale)


class CopyCodeLoss(IdentityLoss):
    """Squared distance between the embedding of a copy and the linear code of the original frame.

    The linear code has the ``features`` largest principal components of the training frames. Each component is divided
    by its standard deviation over versions of a frame, made by noise of ``sigma`` (whitened units) and denoising with a
    Gaussian model. Two codes are close if one frame may be a noised and denoised version of the other frame.
    """

    needs_linear_code = True

    def __init__(self, features: int = 40, sigma: float = 0.5) -> None:
        super().__init__()
        validation.whole_number("head.features", features)
        validation.positive_number("head.sigma", sigma)
        self.features, self.sigma = features, sigma

    def linear_code(self, mean: Tensor, variance: Tensor, axes: Tensor) -> tuple[Tensor, Tensor]:
        """Weight (features, M) and bias (features,) of the linear code, with mean square 1 over training frames.

        ``mean`` (M,), ascending ``variance`` (M,) and ``axes`` (M, M) are the PCA of flattened training frames.
        """
        validation.whole_number("head.features", self.features, 1, len(variance), note=", the values of a frame")
        variance, axes = variance[-self.features :], axes[:, -self.features :]
        gain = variance / (variance + self.sigma**2)
        residual = gain * (1 + gain) * self.sigma**2
        clamped = residual.clamp(min=1e-12)
        weight = axes * clamped.rsqrt() / (variance / clamped).sum().sqrt()
        return weight.T, -mean @ weight

    def forward(
        self, features: Tensor, identity: Tensor, pairs: Tensor, pair_logits: PairLogits, targets: Tensor | None = None
    ) -> Tensor:
        assert targets is not None
        return (features - targets)[:, : self.features].square().sum(dim=1).mean()


def combined_margin(cosine: Tensor, m1: float, m2: float, m3: float) -> Tensor:
    """Margin function cos(m1 theta + m2) - m3 of ``cosine`` = cos(theta), of any shape.

    Margins (1, m, 0) are ArcFace (1801.07698), (1, 0, m) CosFace (1801.09414), (m, 0, 0) SphereFace (1704.08063). For
    angles from k pi to (k + 1) pi, the cosine is replaced by (-1)^k cos(angle) - 2 k, which is monotonic.
    """
    angle = m1 * cosine.clamp(-1 + 1e-7, 1 - 1e-7).acos() + m2
    half_turns = (angle.detach() / math.pi).floor()
    return (1 - 2 * (half_turns % 2)) * angle.cos() - 2 * half_turns - m3


class MarginSoftmaxLoss(IdentityLoss):
    """Margin softmax loss: cross-entropy over training identities, each with a learned center.

    Logits are ``scale`` times the cosine to each center. ``combined_margin`` with ``margins`` (m1, m2, m3) is applied
    to the cosine to the correct center. With ``share`` below 1, each step uses the centers of the identities in the
    batch and a random ``share`` of all other centers (Partial FC, 2010.05222). The random centers depend on ``seed``
    and the step number only, so that they are equal in all processes.
    """

    def __init__(
        self, margins: Sequence[float] = (1.0, 0.5, 0.0), scale: float = 64.0, share: float = 1.0, seed: int = 0
    ) -> None:
        super().__init__()
        m1, m2, m3 = margins if len(margins) == 3 else (math.nan, 0, 0)
        if not (1 <= m1 <= 10 and 0 <= m2 < math.pi / 2 and 0 <= m3 < 1):
            remedy = "give m1 from 1 to 10, m2 from 0 to below pi / 2, and m3 from 0 to below 1"
            raise UserError(f"head.margins is {list(margins)}: {remedy}")
        validation.positive_number("head.scale", scale)
        validation.number("head.share", share, maximum=1, above=0)
        self.margins, self.scale, self.share, self.seed = (m1, m2, m3), scale, share, seed
        self.step: Tensor
        self.register_buffer("step", torch.tensor(0))

    def configure(self, features: int, identities: int) -> None:
        """Create a random center with ``features`` dimensions for each of ``identities`` identities."""
        self.centers = nn.Parameter(0.01 * torch.randn(identities, features))

    def forward(
        self, features: Tensor, identity: Tensor, pairs: Tensor, pair_logits: PairLogits, targets: Tensor | None = None
    ) -> Tensor:
        centers: Tensor = self.centers
        label = identity
        if self.share < 1:
            sampled = self.sample_centers(identity)
            centers, label = centers[sampled], torch.searchsorted(sampled, identity)
        with torch.autocast(features.device.type, enabled=False):
            cosines = functional.linear(functional.normalize(features.float()), functional.normalize(centers))
            column = label.unsqueeze(1)
            logits = cosines.scatter(1, column, combined_margin(cosines.gather(1, column), *self.margins))
            return functional.cross_entropy(self.scale * logits, label)

    @torch.no_grad()
    def sample_centers(self, identity: Tensor) -> Tensor:
        """Identities whose centers the current step uses, int64, ascending; ``identity``: labels of the batch."""
        count, number = len(self.centers), int(self.step)
        self.step += 1
        if distributed.is_available() and distributed.is_initialized():
            from torch.distributed.nn.functional import all_gather

            identity = torch.cat(all_gather(identity.contiguous()))  # batches of all processes have the same size
        in_batch = np.unique(identity.cpu().numpy())
        keys = np.random.default_rng([self.seed, number]).random(count)
        keys[in_batch] = -1
        others = count - len(in_batch)
        size = len(in_batch) + min(others, max(1, round(self.share * others)))
        return torch.from_numpy(np.sort(np.argsort(keys, kind="stable")[:size])).to(identity.device)
