"""Closed-form error of a linear denoiser: difficulty of a patient for a network that was not trained on the patient."""

import torch
from torch import Tensor

VARIANCE_FLOOR = 0.01
"""Smallest variance of a direction, as a fraction of the mean variance."""


class GaussianDenoiser:
    """The optimal denoiser of Gaussian data with the mean and covariance of ``rows``, (R, D): the Wiener filter.

    Directions outside of the span of the rows have the variance ``VARIANCE_FLOOR`` times the mean variance.
    """

    def __init__(self, rows: Tensor) -> None:
        self.mean = rows.mean(dim=0)
        self.centered = rows - self.mean
        self.floor = VARIANCE_FLOOR * float(self.centered.square().mean())
        values, vectors = torch.linalg.eigh((self.centered @ self.centered.T).double())
        kept = values > 1e-5 * values[-1]
        self.variance = values[kept] / len(rows) + self.floor
        self.to_directions = vectors[:, kept] / values[kept].sqrt()

    def expected_errors(self, x: Tensor, snr: Tensor) -> Tensor:
        """Expected mean squared error of denoised ``x``, (B, D), at signal-to-noise ratios ``snr``, (L,): (B, L)."""
        difference = x - self.mean
        along = ((difference @ self.centered.T).double() @ self.to_directions).square()
        across = (difference.double().square().sum(dim=1) - along.sum(dim=1)).clamp(min=0)
        others = x.shape[1] - along.shape[1]
        errors = []
        for ratio in snr.double().tolist():
            within, outside = (1 + ratio * self.variance).square(), (1 + ratio * self.floor) ** 2
            noise = (ratio * self.variance.square() / within).sum() + others * ratio * self.floor**2 / outside
            errors.append(((along / within).sum(dim=1) + across / outside + noise) / x.shape[1])
        return torch.stack(errors, dim=1)
