"""Loss terms of the autoencoder: subclasses of ``LossTerm``, ``term(x, reconstruction, posterior) -> scalar``.

``x`` and ``reconstruction`` are frames in [-1, 1], (B, C, H, W). ``posterior`` is diffusers' diagonal Gaussian with
mean and std of shape (B, D, h, w). Terms are means over pixels, and not sums as in Rombach et al. (2112.10752). To add
a term, write its class in this file, and add its name and weight to conf/loss/autoencoder.yaml.
"""

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from echodream import validation
from echodream.errors import UserError

if TYPE_CHECKING:
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution as Posterior


class LossTerm(nn.Module):
    """Base class of loss terms. A term with ``weight`` 0 is disabled."""

    compares_pixels: ClassVar[bool] = False
    """Whether the term compares each pixel with its reconstruction. Only such terms train the decoder noise."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = float(validation.number(f"loss: the weight of {type(self).__name__}", weight, 0, note=" (off)"))


class L1(LossTerm):
    """Mean absolute error."""

    compares_pixels = True

    def forward(self, x: Tensor, reconstruction: Tensor, posterior: "Posterior") -> Tensor:
        return (x - reconstruction).abs().mean()


class L2(LossTerm):
    """Mean squared error."""

    compares_pixels = True

    def forward(self, x: Tensor, reconstruction: Tensor, posterior: "Posterior") -> Tensor:
        return (x - reconstruction).square().mean()


class KL(LossTerm):
    """Kullback-Leibler divergence of the posterior from N(0, 1), divided by the number of values of a frame."""

    def forward(self, x: Tensor, reconstruction: Tensor, posterior: "Posterior") -> Tensor:
        """Batch mean, scalar, of sum(mean^2 + var - 1 - log var) / 2 over the latent, divided by C * H * W."""
        mean, log_variance = posterior.mean.float(), posterior.logvar.float()
        total = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=(1, 2, 3))
        return total.mean() / x[0].numel()


class MultiScaleSSIM(LossTerm):
    """1 - MS-SSIM (Wang et al. 2003) with ``scales`` scales; the exponents of the paper are normalized to sum to 1."""

    _EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)

    def __init__(self, weight: float, scales: int = 3) -> None:
        super().__init__(weight)
        validation.whole_number("loss.ms_ssim.scales", scales, 1, 5)
        exponents = self._EXPONENTS[:scales]
        self.betas = tuple(value / sum(exponents) for value in exponents)

    def forward(self, x: Tensor, reconstruction: Tensor, posterior: "Posterior") -> Tensor:
        """Loss in [0, 1], scalar. Raises ``UserError`` if the frames are too small for ``scales`` scales."""
        from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

        try:
            value = multiscale_structural_similarity_index_measure(
                reconstruction.float(), x.float(), data_range=2.0, betas=self.betas, normalize="relu"
            )
        except ValueError as error:
            problem = f"frames of {x.shape[-1]}x{x.shape[-2]} are too small for loss.ms_ssim.scales={len(self.betas)}"
            raise UserError(f"{problem}: give fewer scales, or loss.ms_ssim.weight=0") from error
        assert isinstance(value, Tensor)
        return 1 - value


def adaptive_adversarial_weight(
    reconstruction: Tensor, adversarial: Tensor, last_layer: nn.Parameter, maximum: float = 1e4
) -> Tensor:
    """Gradient norm of ``reconstruction`` divided by that of ``adversarial``, at ``last_layer`` (2012.09841)."""
    numerator = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)[0].norm()
    denominator = torch.autograd.grad(adversarial, last_layer, retain_graph=True)[0].norm()
    return (numerator / (denominator + 1e-4)).clamp(0, maximum).detach()
