"""Perceptual losses with EfficientNet-lite0. The extra ``features`` of echodream installs the network's weights."""

import itertools
import logging
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize as unit_length

from echodream import validation
from echodream.losses.autoencoder import LossTerm
from echodream.networks.extractors import lite0

if TYPE_CHECKING:
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution as Posterior

log = logging.getLogger(__name__)


def build_lite0_loss(weight: float, stages: int = 3) -> "Lite0Loss | None":
    """Build ``Lite0Loss``; None if ``weight`` is 0, or if the extra ``features`` is not installed."""
    return Lite0Loss(weight, stages) if weight and _is_installed(Lite0Loss.key) else None


def build_lite0_energy_score(weight: float, stages: int = 3) -> "Lite0EnergyScore | None":
    """Build ``Lite0EnergyScore``; None if ``weight`` is 0, or if the extra ``features`` is not installed."""
    return Lite0EnergyScore(weight, stages) if weight and _is_installed(Lite0EnergyScore.key) else None


def _is_installed(key: str) -> bool:
    """Whether the extra ``features`` is installed; if not, log that the loss ``key`` is off."""
    if not lite0.is_installed():
        log.info("train: the perceptual loss %s is off: %s", key, lite0.INSTALL_INSTRUCTION)
    return lite0.is_installed()


class Lite0Loss(LossTerm):
    """Mean squared distance of EfficientNet-lite0 activations in the first ``stages`` stages.

    The height of activations is halved in each stage. Activations have unit length at each location, as in LPIPS
    (1801.03924). Squared differences are summed over channels. The weights are frozen and not saved in checkpoints.
    """

    key: ClassVar[str] = "loss.lite0"

    def __init__(self, weight: float, stages: int = 3) -> None:
        super().__init__(weight)
        self.stages = validation.whole_number(f"{self.key}.stages", stages, 1, 5)
        self._frozen = [lite0.load_lite0()]  # checkpoints omit networks in a list

    def forward(self, x: Tensor, reconstruction: Tensor, posterior: "Posterior") -> Tensor:
        """Loss, scalar. ``x`` and ``reconstruction``: (B, C, H, W) with C = 1 or 3."""
        pairs = zip(self.activations(x), self.activations(reconstruction), strict=True)
        return torch.stack([(left - right).square().sum(dim=1).mean() for left, right in pairs]).mean()

    def activations(self, frames: Tensor) -> list[Tensor]:
        """Activations of unit length of ``frames``, (B, C, H, W), per stage: (B, channels, H / 2, W / 2), ..."""
        stages = self._frozen[0].to(frames.device).stages(lite0.normalize(frames))
        return [unit_length(stage.float(), dim=1) for stage in itertools.islice(stages, self.stages)]


class Lite0EnergyScore(Lite0Loss):
    """Energy score (Gneiting and Raftery 2007) of two random versions of a frame, in the activations of ``Lite0Loss``.

    The score is E|x - y| - E|y - z| / 2 for a frame x and versions y and z, with Euclidean distances at each location.
    It is a proper scoring rule: its mean is smallest if versions have the distribution of frames. Without the
    second term, the score would be smallest for frames without speckle.
    """

    key = "loss.lite0_energy"

    def forward(self, x: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Score, scalar, of the frames ``x`` for the versions ``first`` and ``second``, (B, C, H, W) each."""

        def distance(left: Tensor, right: Tensor) -> Tensor:
            return (left - right).square().sum(dim=1).add(1e-6).sqrt().mean()  # the gradient of sqrt(0) is infinite

        stages = zip(self.activations(x), self.activations(first), self.activations(second), strict=True)
        return torch.stack([distance(a, y) + distance(a, z) - distance(y, z) for a, y, z in stages]).mean() / 2
