"""Statistics of latents, gathered as they come."""

import torch
from torch import Tensor


class PosteriorMoments:
    """Mean and std per channel of draws from diagonal Gaussian posteriors, in float64, over all that was added."""

    def __init__(self) -> None:
        self.count = 0
        self._total: Tensor = torch.zeros(())
        self._square: Tensor = torch.zeros(())

    def add(self, mean: Tensor, std: Tensor) -> None:
        """Take up posteriors: mean and std, (N, C, h, w) each."""
        mean, std = mean.detach().to("cpu", torch.float64), std.detach().to("cpu", torch.float64)
        self.count += mean.numel() // mean.shape[1]
        self._total = self._total + mean.sum(dim=(0, 2, 3))
        self._square = self._square + (mean.square() + std.square()).sum(dim=(0, 2, 3))

    def mean(self) -> list[float]:
        """One number per channel; at least one posterior must have been added."""
        found: list[float] = (self._total / self.count).tolist()
        return found

    def std(self) -> list[float]:
        """One number per channel, at least 1e-6: the variance between the means and that of the posteriors together."""
        variance = self._square / self.count - (self._total / self.count).square()
        found: list[float] = variance.clamp(min=1e-12).sqrt().tolist()
        return found
