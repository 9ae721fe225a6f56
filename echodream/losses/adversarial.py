"""The patch-adversarial term (Isola et al. 1611.07004) with MONAI's discriminator and loss."""

import torch
from torch import Tensor, nn

from echodream import validation


class PatchAdversarial(nn.Module):
    """A discriminator of patches and its two losses.

    The generator's term counts from batch ``start`` on, times ``weight`` and, if ``adaptive``, times the ratio of
    gradients at the decoder's last layer (``adaptive_weight``). ``criterion`` is MONAI's: hinge, least_squares or bce
    (of a squashed score: tanh, leaky ReLU or sigmoid). ``weight`` 0 leaves all of it out.
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

    def generator(self, reconstruction: Tensor) -> Tensor:
        """How well the reconstruction, (B, C, H, W), is told from an image: scalar, for the autoencoder to lower."""
        return self._judge(reconstruction, real=True, critic=False)

    def critic(self, x: Tensor, reconstruction: Tensor) -> Tensor:
        """The discriminator's own loss on images and (detached) reconstructions, (B, C, H, W): scalar."""
        real = self._judge(x.detach(), real=True, critic=True)
        return 0.5 * (real + self._judge(reconstruction.detach(), real=False, critic=True))

    def _judge(self, images: Tensor, *, real: bool, critic: bool) -> Tensor:
        scores = self.discriminator(images)[-1].float()
        with torch.autocast(scores.device.type, enabled=False):  # the logarithms of bce want float32
            return self.criterion(scores, target_is_real=real, for_discriminator=critic)
