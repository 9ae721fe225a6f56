"""Losses that bring frames of one identity together and keep identities apart; one for each kind of head."""

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from echodream import validation
from echodream.errors import UserError

Compare = Callable[[Tensor, Tensor], Tensor]
"""Two sets of features, (P, D) each, to the logits that they are of one identity, (P,)."""


class Head(nn.Module):
    """What features are trained with."""

    paired: ClassVar[bool] = False
    """Whether the network must end in a sigmoid and compare pairs by a layer of its own."""
    similarity: ClassVar[str] = "cosine"
    """How features are compared afterwards."""
    coded: ClassVar[bool] = False
    """Whether the network corrects a linear code of the frame, and is told the codes of what frames were made of."""

    def adapt(self, features: int, identities: int) -> None:
        """Take shape: so many ``features`` (D), and ``identities`` that are numbered from 0."""
        return

    @abstractmethod
    def forward(
        self, features: Tensor, identity: Tensor, pairs: Tensor, compare: Compare, targets: Tensor | None = None
    ) -> Tensor:
        """The loss of ``features``, (N, D), of the numbered ``identity`` of each, int64 (N,).

        ``pairs``, int64 (P, 2), are the rows that were drawn as pairs, and ``compare`` is the network's own.
        ``targets``, (N, D), are the codes of the frames that each was made of, of a head that is ``coded``.
        """


class Published(Head):
    """Binary cross-entropy of the linear layer over |a - b|, for each pair: as in the published filter."""

    paired = True
    similarity = "pearson"

    def forward(
        self, features: Tensor, identity: Tensor, pairs: Tensor, compare: Compare, targets: Tensor | None = None
    ) -> Tensor:
        first, second = pairs.unbind(dim=1)
        same = (identity[first] == identity[second]).to(features.dtype)
        return functional.binary_cross_entropy_with_logits(compare(features[first], features[second]), same)


class Contrastive(Head):
    """NT-Xent: each frame must find those of its identity among all of the batch, by cosine over ``temperature``.

    All frames of one identity are positives of each other, whether they were drawn as a pair or not (2002.05709).
    """

    def __init__(self, temperature: float = 0.1) -> None:
        from pytorch_metric_learning.losses import NTXentLoss

        super().__init__()
        validation.positive_number("head.temperature", temperature)
        self.loss = NTXentLoss(temperature=temperature)

    def forward(
        self, features: Tensor, identity: Tensor, pairs: Tensor, compare: Compare, targets: Tensor | None = None
    ) -> Tensor:
        loss: Tensor = self.loss(features, identity)
        return loss


class ArcFace(Head):
    """A direction for each training identity, to which its frames must lie nearer by an angle (1801.07698).

    ``margin`` is that angle in degrees, ``scale`` multiplies the cosines.
    """

    def __init__(self, margin: float = 28.6, scale: float = 64.0) -> None:
        super().__init__()
        validation.positive_number("head.scale", scale)
        validation.number("head.margin", margin, 0, below=90, note=" degrees")
        self.margin, self.scale = margin, scale
        self.loss: nn.Module

    def adapt(self, features: int, identities: int) -> None:
        from pytorch_metric_learning.losses import ArcFaceLoss

        self.loss = ArcFaceLoss(identities, features, margin=self.margin, scale=self.scale)

    def forward(
        self, features: Tensor, identity: Tensor, pairs: Tensor, compare: Compare, targets: Tensor | None = None
    ) -> Tensor:
        loss: Tensor = self.loss(features, identity)
        return loss


class Code(Head):
    """The squared distance of a copy's features from the code of the frame that it was made of.

    The code is linear: the ``features`` largest principal components of training frames, each divided by the spread
    that is left of it after the frame was noised by ``sigma`` (in whitened units) and drawn again. So frames that one
    could have been redrawn from are near, and others far. A new patient has a code like everybody, no direction among
    those of training patients; what the network learns is to undo what was done to a frame.
    """

    coded = True

    def __init__(self, features: int = 40, sigma: float = 0.5) -> None:
        super().__init__()
        validation.whole_number("head.features", features)
        validation.positive_number("head.sigma", sigma)
        self.features, self.sigma = features, sigma

    def code(self, mean: Tensor, variance: Tensor, axes: Tensor) -> tuple[Tensor, Tensor]:
        """Weight (features, N) and bias (features,) from mean, (N,), and principal axes, (N, N), by rising variance.

        The mean square of a frame's code is 1.
        """
        if self.features > len(variance):
            raise UserError(f"head.features={self.features}, and frames have {len(variance)} values: give at most that")
        variance, axes = variance[-self.features :], axes[:, -self.features :]
        gain = variance / (variance + self.sigma**2)
        left = gain * (1 + gain) * self.sigma**2
        weight = axes * left.clamp(min=1e-12).rsqrt() / (variance / left.clamp(min=1e-12)).sum().sqrt()
        return weight.T, -mean @ weight

    def forward(
        self, features: Tensor, identity: Tensor, pairs: Tensor, compare: Compare, targets: Tensor | None = None
    ) -> Tensor:
        assert targets is not None
        return (features - targets)[:, : self.features].square().sum(dim=1).mean()
