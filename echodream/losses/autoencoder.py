"""Loss terms of the autoencoder: each is a ``LossTerm``, ``term(x, reconstruction, posterior) -> scalar``.

To add a term, write a class here and give it a name and a weight in conf/loss/autoencoder.yaml.

``x`` and ``reconstruction`` are frames in [-1, 1], (B, C, H, W). ``posterior`` is diffusers' diagonal Gaussian with
mean and std of shape (B, D, h, w). Terms are averaged over pixels, where Rombach et al. (2112.10752) sum. The KL
divergence is divided by the number of values of a frame, so their weight of 1e-6 has the same effect here.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from echodream import validation
from echodream.errors import UserError

if TYPE_CHECKING:
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution as Posterior


class LossTerm(nn.Module):
    """Base class: a loss term with a ``weight``; weight 0 disables it."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = float(validation.number(f"loss: the weight of {type(self).__name__}", weight, 0, note=" (off)"))


class L1(LossTerm):
    """Mean absolute error."""

    def forward(self, x: Tensor, reconstruction: Tensor, posterior: "Posterior") -> Tensor:
        """Loss, scalar."""
        return (x - reconstruction).abs().mean()


class L2(LossTerm):
    """Mean squared error."""

    def forward(self, x: Tensor, reconstruction: Tensor, posterior: "Posterior") -> Tensor:
        """Loss, scalar."""
        return (x - reconstruction).square().mean()


class KL(LossTerm):
    """Kullback-Leibler divergence between the posterior and N(0, 1), summed over the latent, per value of ``x``."""

    def forward(self, x: Tensor, reconstruction: Tensor, posterior: "Posterior") -> Tensor:
        """Scalar: sum of (mean^2 + var - 1 - log var) / 2, averaged over the batch, divided by C * H * W."""
        mean, log_variance = posterior.mean.float(), posterior.logvar.float()
        total = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=(1, 2, 3))
        return total.mean() / x[0].numel()


class MultiScaleSSIM(LossTerm):
    """1 - MS-SSIM (Wang et al. 2003) over ``scales`` scales; the paper's exponents are normalized to sum to 1."""

    _EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)

    def __init__(self, weight: float, scales: int = 3) -> None:
        super().__init__(weight)
        if not 1 <= scales <= 5:
            raise UserError(f"loss.ms_ssim.scales is {scales}; give 1 to 5")
        exponents = self._EXPONENTS[:scales]
        self.betas = tuple(value / sum(exponents) for value in exponents)

    def forward(self, x: Tensor, reconstruction: Tensor, posterior: "Posterior") -> Tensor:
        """Scalar in [0, 1]. Raises ``UserError`` if the frames are too small for the number of scales."""
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


def adaptive_adversarial_weight(
    reconstruction: Tensor, adversarial: Tensor, last_layer: nn.Parameter, maximum: float = 1e4
) -> Tensor:
    """Adaptive weight of Esser et al. (2012.09841): |d reconstruction / d w| / |d adversarial / d w|, without gradient.

    ``reconstruction`` and ``adversarial`` are scalar losses, w is ``last_layer``, the weight of the decoder's last
    layer.
    """
    numerator = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)[0].norm()
    denominator = torch.autograd.grad(adversarial, last_layer, retain_graph=True)[0].norm()
    return (numerator / (denominator + 1e-4)).clamp(0, maximum).detach()
