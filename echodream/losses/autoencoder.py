"""The terms of an autoencoder's loss, each a ``Term``: ``term(x, reconstruction, posterior) -> scalar``.

Images ``x`` and ``reconstruction`` are in [-1, 1], (B, C, H, W); the posterior is diffusers' diagonal Gaussian with
mean and std (B, D, h, w). Terms are averages over pixels, except the KL, which Rombach et al. (2112.10752) sum over
the latent and average over the batch; it is divided by the pixels of an image here so that its weight 1e-6 per pixel
sum equals theirs (their reconstruction loss is summed over pixels).
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from echodream import validation
from echodream.errors import UserError

if TYPE_CHECKING:
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution as Posterior


class Term(nn.Module):
    """One term of the loss, counted ``weight`` times; 0 leaves it out."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = float(validation.number(f"loss: the weight of {type(self).__name__}", weight, 0, note=" (off)"))


class L1(Term):
    """Mean absolute error."""

    def forward(self, x: Tensor, reconstruction: Tensor, posterior: "Posterior") -> Tensor:
        """Scalar."""
        return (x - reconstruction).abs().mean()


class L2(Term):
    """Mean squared error."""

    def forward(self, x: Tensor, reconstruction: Tensor, posterior: "Posterior") -> Tensor:
        """Scalar."""
        return (x - reconstruction).square().mean()


class KL(Term):
    """Kullback-Leibler divergence of the posterior from N(0, 1), summed over the latent, per pixel of ``x``."""

    def forward(self, x: Tensor, reconstruction: Tensor, posterior: "Posterior") -> Tensor:
        """Scalar: sum of (mean^2 + var - 1 - log var) / 2, averaged over the batch, divided by C * H * W."""
        mean, log_variance = posterior.mean.float(), posterior.logvar.float()
        total = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=(1, 2, 3))
        return total.mean() / x[0].numel()


class MultiScaleSSIM(Term):
    """1 - MS-SSIM (Wang et al. 2003) over ``scales`` octaves, with that paper's exponents made to add up to 1."""

    _EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)

    def __init__(self, weight: float, scales: int = 3) -> None:
        super().__init__(weight)
        if not 1 <= scales <= 5:
            raise UserError(f"loss.ms_ssim.scales is {scales}; give 1 to 5")
        exponents = self._EXPONENTS[:scales]
        self.betas = tuple(value / sum(exponents) for value in exponents)

    def forward(self, x: Tensor, reconstruction: Tensor, posterior: "Posterior") -> Tensor:
        """Scalar in [0, 1]. Raises ``UserError`` when the image is too small for the scales."""
        from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

        try:
            value = multiscale_structural_similarity_index_measure(
                reconstruction.float(), x.float(), data_range=2.0, betas=self.betas, normalize="relu"
            )
        except ValueError as error:
            raise UserError(
                f"frames of {x.shape[-1]}x{x.shape[-2]} are too small for loss.ms_ssim.scales={len(self.betas)}: "
                "give fewer scales, or loss.ms_ssim.weight=0"
            ) from error
        assert isinstance(value, Tensor)
        return 1 - value


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last: nn.Parameter, most: float = 1e4) -> Tensor:
    """Balance of an adversarial term: |d reconstruction / d last| / |d adversarial / d last| (Esser et al. 2012.09841).

    ``last`` is the weight of the decoder's last layer; both terms are scalars. Returns a scalar without gradient.
    """
    wanted = torch.autograd.grad(reconstruction, last, retain_graph=True)[0].norm()
    given = torch.autograd.grad(adversarial, last, retain_graph=True)[0].norm()
    return (wanted / (given + 1e-4)).clamp(0, most).detach()
