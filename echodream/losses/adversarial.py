"""Patch-adversarial loss (Isola et al. 1611.07004) with the discriminator and criterion of MONAI."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from echodream import validation
from echodream.errors import UserError


class PatchAdversarial(nn.Module):
    """Patch discriminator, and adversarial losses of the autoencoder (generator) and the discriminator.

    The adversarial loss starts at batch ``start``, with the factor ``weight``; 0 disables it. If ``adaptive``, the loss
    has the additional factor ``adaptive_adversarial_weight``. ``criterion`` is hinge, least_squares or bce.

    With ``local_mean`` n, the discriminator gets residuals: frames minus their mean over n x n pixels, divided by the
    standard deviation of training residuals. With ``local_contrast`` c, residuals are first divided by the local mean
    brightness, 0 to 1, plus c. ``local_share`` is the share of L1 and L2 that compares local means, not pixels.

    From batch ``decoder_start`` on (default: ``start``), the decoder gets noisy latents, which makes it robust (RAE,
    2510.11690): ``latent_noise`` is the maximum noise in standard deviations of the latents. With ``decoder_only``, the
    encoder is frozen from ``decoder_start`` on. ``lr`` (of the decoder, if ``decoder_only``), ``discriminator_lr`` and
    ``betas`` replace the optimizer settings of the model from batch ``start`` on.
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
        local_mean: int = 0,
        local_contrast: float | None = None,
        local_share: float = 0.0,
        decoder_only: bool = False,
        decoder_start: int | None = None,
        lr: float | None = None,
        discriminator_lr: float | None = None,
        betas: Sequence[float] | None = None,
        latent_noise: float = 0.0,
    ) -> None:
        from monai.losses import PatchAdversarialLoss
        from monai.networks.nets import PatchDiscriminator

        super().__init__()
        validation.one_of("loss.adversarial.criterion", criterion, ("hinge", "least_squares", "bce"))
        validation.number("loss.adversarial.start", start, 0)
        validation.number("loss.adversarial.weight", weight, 0)
        validation.whole_number("loss.adversarial.local_mean", local_mean, 0)
        if local_mean and local_mean % 2 == 0:
            raise UserError(f"loss.adversarial.local_mean is {local_mean}: give an odd number of pixels, or 0")
        if validation.fraction("loss.adversarial.local_share", local_share) and not local_mean:
            raise UserError("loss.adversarial.local_share needs loss.adversarial.local_mean, for example 5")
        for name, rate in {"lr": lr, "discriminator_lr": discriminator_lr, "local_contrast": local_contrast}.items():
            if rate is not None:
                validation.positive_number(f"loss.adversarial.{name}", rate)
        self.discriminator = PatchDiscriminator(2, width, channels, num_layers_d=layers)
        self.criterion = PatchAdversarialLoss(criterion=criterion)
        self.start, self.weight, self.adaptive = start, weight, adaptive
        self.local_mean, self.local_contrast, self.local_share = local_mean, local_contrast, local_share
        self.decoder_only = decoder_only
        self.decoder_start = start if decoder_start is None else decoder_start
        validation.number("loss.adversarial.decoder_start", self.decoder_start, 0, start)
        self.latent_noise = validation.number("loss.adversarial.latent_noise", latent_noise, 0)
        self.lr, self.discriminator_lr, self.betas = lr, discriminator_lr, betas
        self.register_buffer("residual_std", torch.ones(()))

    def optimizer_settings(self, *, discriminator: bool) -> dict[str, Any]:
        """Optimizer keywords of the discriminator if ``discriminator``, else of the decoder (``decoder_only``)."""
        rate = self.discriminator_lr if discriminator else self.lr
        settings: dict[str, Any] = {} if rate is None else {"lr": rate}
        return settings if self.betas is None else {**settings, "betas": tuple(self.betas)}

    @torch.no_grad()
    def fit_residual_std(self, frames: Tensor) -> None:
        """Estimate the standard deviation of the residual from training frames, (B, C, H, W)."""
        if self.local_mean:
            self.residual_std = self._residual(frames).std().clamp(min=1e-4)

    def _residual(self, frames: Tensor) -> Tensor:
        """Residual of ``frames`` after subtraction of local means; if ``local_mean`` is 0, ``frames`` unchanged."""
        if not self.local_mean:
            return frames
        means = self.local_means(frames)
        contrast = 1 if self.local_contrast is None else (means + 1) / 2 + self.local_contrast
        return (frames - means) / contrast

    def local_means(self, frames: Tensor) -> Tensor:
        """Mean over ``local_mean`` x ``local_mean`` pixels around each pixel: (B, C, H, W) to (B, C, H, W)."""
        padded = functional.pad(frames, [self.local_mean // 2] * 4, mode="reflect")
        return functional.avg_pool2d(padded, self.local_mean, stride=1)

    def add_latent_noise(self, latents: Tensor) -> Tensor:
        """Add Gaussian noise to latents (B, D, h, w); each frame has a random amount, up to ``latent_noise``."""
        if not self.latent_noise:
            return latents
        spread = latents.std(dim=(0, 2, 3), keepdim=True)
        level, noise = latents.new_empty(len(latents), 1, 1, 1).uniform_(), latents.new_empty(latents.shape).normal_()
        return latents + self.latent_noise * level * spread * noise

    def generator_loss(self, reconstruction: Tensor) -> Tensor:
        """Adversarial loss of the autoencoder, scalar, for reconstructed frames (B, C, H, W)."""
        return self._adversarial_loss(reconstruction, real=True, for_discriminator=False)

    def discriminator_loss(self, x: Tensor, reconstruction: Tensor) -> Tensor:
        """Loss of the discriminator, scalar, for real and reconstructed frames, (B, C, H, W) each."""
        real = self._adversarial_loss(x.detach(), real=True, for_discriminator=True)
        return 0.5 * (real + self._adversarial_loss(reconstruction.detach(), real=False, for_discriminator=True))

    def _adversarial_loss(self, frames: Tensor, *, real: bool, for_discriminator: bool) -> Tensor:
        scores = self.discriminator(self._residual(frames) / self.residual_std)[-1].float()
        with torch.autocast(scores.device.type, enabled=False):  # the logarithms of bce need float32
            return self.criterion(scores, target_is_real=real, for_discriminator=for_discriminator)
