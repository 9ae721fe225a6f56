"""Patch-adversarial loss (Isola et al. 1611.07004), with MONAI's discriminator and loss."""

import torch
from torch import Tensor, nn

from echodream import validation


class PatchAdversarial(nn.Module):
    """A patch discriminator, with the loss of the generator and its own loss.

    The generator's loss is used from batch ``start`` on. It is multiplied by ``weight`` and, if ``adaptive``, by the
    ratio of gradient norms at the decoder's last layer (``adaptive_adversarial_weight``). ``criterion`` is MONAI's
    hinge, least_squares or bce, whose scores pass through tanh, leaky ReLU or sigmoid. ``weight`` 0 disables it.
    """

    def __init__(
        self,
        channels: int,
        width: int = 64,
        layers: int = 3,
        criterion: str = "hinge",
        start: int = 50_001,
        weight: float = 0.5,
        adaptive: bool = True,
    ) -> None:
        from monai.losses import PatchAdversarialLoss
        from monai.networks.nets import PatchDiscriminator

        super().__init__()
        validation.one_of("loss.adversarial.criterion", criterion, ("hinge", "least_squares", "bce"))
        validation.number("loss.adversarial.start", start, 0)
        validation.number("loss.adversarial.weight", weight, 0)
        self.discriminator = PatchDiscriminator(2, width, channels, num_layers_d=layers)
        self.criterion = PatchAdversarialLoss(criterion=criterion)
        self.start, self.weight, self.adaptive = start, weight, adaptive

    def generator_loss(self, reconstruction: Tensor) -> Tensor:
        """Adversarial loss of the autoencoder, scalar. ``reconstruction``: (B, C, H, W)."""
        return self._loss(reconstruction, real=True, for_discriminator=False)

    def discriminator_loss(self, x: Tensor, reconstruction: Tensor) -> Tensor:
        """Loss of the discriminator, scalar, for real and reconstructed frames (detached), (B, C, H, W) each."""
        real = self._loss(x.detach(), real=True, for_discriminator=True)
        return 0.5 * (real + self._loss(reconstruction.detach(), real=False, for_discriminator=True))

    def _loss(self, frames: Tensor, *, real: bool, for_discriminator: bool) -> Tensor:
        scores = self.discriminator(frames)[-1].float()
        with torch.autocast(scores.device.type, enabled=False):  # the logarithms of bce need float32
            return self.criterion(scores, target_is_real=real, for_discriminator=for_discriminator)
