"""Perceptual loss with EfficientNet-lite0. The extra ``features`` of echodream installs the network's weights."""

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
    """Build ``Lite0Loss``; None if ``weight`` is 0, or if the extra ``features`` is not installed."""
    if weight and not lite0.is_installed():
        log.info("train: the perceptual loss loss.lite0 is off: %s", lite0.INSTALL_INSTRUCTION)
    return Lite0Loss(weight, stages) if weight and lite0.is_installed() else None


class Lite0Loss(LossTerm):
    """Mean squared distance of EfficientNet-lite0 activations in the first ``stages`` stages.

    The height of activations is halved in each stage. Activations have unit length at each location, as in LPIPS
    (1801.03924). Squared differences are summed over channels. The weights are frozen and not saved in checkpoints.
    """

    def __init__(self, weight: float, stages: int = 3) -> None:
        super().__init__(weight)
        self.stages = stages
        self._frozen = [lite0.load_lite0()]  # checkpoints omit networks in a list

    def forward(self, x: Tensor, reconstruction: Tensor, posterior: "Posterior") -> Tensor:
        """Loss, scalar. ``x`` and ``reconstruction``: (B, C, H, W) with C = 1 or 3."""
        network = self._frozen[0].to(x.device)
        total, stages = x.new_zeros(()), (network.stages(lite0.normalize(y)) for y in (x, reconstruction))
        for left, right in itertools.islice(zip(*stages, strict=True), self.stages):
            difference = unit_length(left.float(), dim=1) - unit_length(right.float(), dim=1)
            total = total + difference.square().sum(dim=1).mean() / self.stages
        return total
