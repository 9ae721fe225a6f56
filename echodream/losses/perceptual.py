"""Perceptual loss from the stages of EfficientNet-lite0, whose weights come with the extra ``features``."""

import itertools
import logging
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn.functional import normalize as unit_length

from echodream.losses.autoencoder import LossTerm
from echodream.networks.extractors import lite0

if TYPE_CHECKING:
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution as Posterior

log = logging.getLogger(__name__)


def build_lite0_loss(weight: float, stages: int = 3) -> "Lite0Loss | None":
    """``Lite0Loss``; None, with a log message, if the weight is 0 or the extra ``features`` is not installed."""
    if weight and not lite0.is_installed():
        log.info("train: the perceptual loss loss.lite0 is off: %s", lite0.INSTALL)
    return Lite0Loss(weight, stages) if weight and lite0.is_installed() else None


class Lite0Loss(LossTerm):
    """Distance between the activations of EfficientNet-lite0 at 1/2, 1/4, ... of the frame size.

    Activations are normalized to unit length at each location, as in LPIPS (Zhang et al. 1801.03924); their squared
    differences are summed over channels, averaged over locations, and averaged over the first ``stages`` stages.
    The weights of the network are frozen and not saved in checkpoints.
    """

    def __init__(self, weight: float, stages: int = 3) -> None:
        super().__init__(weight)
        self.stages = stages
        self._frozen = [lite0.load_lite0()]  # a list, so that the network is not a submodule, which would be saved

    def forward(self, x: Tensor, reconstruction: Tensor, posterior: "Posterior") -> Tensor:
        """Loss, scalar. ``x`` and ``reconstruction``: (B, C, H, W) with C = 1 or 3."""
        network = self._frozen[0].to(x.device)
        total, stages = x.new_zeros(()), (network.stages(lite0.normalize(y)) for y in (x, reconstruction))
        for left, right in itertools.islice(zip(*stages, strict=True), self.stages):
            difference = unit_length(left.float(), dim=1) - unit_length(right.float(), dim=1)
            total = total + difference.square().sum(dim=1).mean() / self.stages
        return total
