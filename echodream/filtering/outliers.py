"""Outlier test of the filter: residuals of a principal component analysis of the training frames."""

from collections.abc import Sequence

import torch
from torch import Tensor

from echodream.errors import UserError
from echodream.filtering.copy_generation import CopyGenerator

CONSTANT_CHANNEL_STD = 1e-6
"""Largest standard deviation of a constant channel, divided by the largest standard deviation of all channels."""
TRAINING_FRAMES = 2048
"""Largest number of training frames to which the principal components are fitted."""


class OutlierTest:
    """Residual of a frame after projection on the principal components of training frames (Jackson, Mudholkar 1979).

    The frames, unscaled latents, are decoded and encoded first: latents of a diffusion model have errors that no
    encoded frame has, and that the decoder removes. Each channel is divided by its standard deviation. The smallest
    number of components is used that explains the fraction ``explained_variance`` of the variance. A frame in the span
    of these components, such as a blurred frame, is no outlier. Channels that are constant in training are ignored.
    """

    def __init__(self, copy_generator: CopyGenerator, explained_variance: float) -> None:
        self.copy_generator = copy_generator
        frames = self._encode_again(copy_generator.training_frames(TRAINING_FRAMES))
        self.mean = frames.mean(dim=0)
        scale = (frames - self.mean).square().mean(dim=(0, 2, 3), keepdim=True).sqrt()[0]
        self.scale = torch.where(scale > CONSTANT_CHANNEL_STD * scale.max(), scale, torch.inf)
        _, singular, components = torch.linalg.svd(self._standardize(frames), full_matrices=False)
        variance = singular.square().cumsum(dim=0)
        count = int((variance < explained_variance * variance[-1]).sum()) + 1
        self.components = components[:count]

    def embed_versions(self, latents: Tensor, versions: Sequence[Tensor]) -> list[Tensor]:
        """Outlier scores of ``latents``, (n, C, H, W), from 0 to 1: [(n, 1)]; ``versions`` are not tested."""
        x = self._standardize(self._encode_again(latents))
        residual = (x - x @ self.components.T @ self.components).square().sum(dim=1)
        if not torch.isfinite(residual).all():
            raise UserError("outliers: the autoencoder gives latents that are NaN or infinite: train it again")
        return [(residual / (1 + residual))[:, None]]

    def _encode_again(self, latents: Tensor) -> Tensor:
        return self.copy_generator.encode(self.copy_generator.decode(latents))[0].double()

    def _standardize(self, latents: Tensor) -> Tensor:
        return ((latents - self.mean) / self.scale).flatten(1)
