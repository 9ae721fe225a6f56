"""Power spectra as features, without a network: ``extractors=[spectrum, temporal_spectrum]``."""

import numpy as np
import torch
from torch import Tensor, nn

from echodream.metrics.texture import radial_power, temporal_power
from echodream.networks.extractors.base import CLIPS, FRAMES, Extractor

CLIP_FRAMES = 32
"""Length of the clips of ``TemporalSpectrum``."""


class _Spectrum(Extractor):
    """Power of gray levels, 0 to 255, averaged over channels."""

    weights, resize, measures = "none", "none", "spectrum"

    def __init__(self) -> None:
        self.network = nn.Identity()

    def features(self, x: Tensor) -> Tensor:
        """(B, C, F, H, W) in [-1, 1] to the power at each frequency, (B, R)."""
        gray = ((x.mean(dim=1) + 1) * 127.5).cpu().double().numpy()
        return torch.from_numpy(np.stack([self.power(clip) for clip in gray]))

    def power(self, clip: np.ndarray) -> np.ndarray:
        """Power spectrum of a clip, (F, H, W), as (R,)."""
        raise NotImplementedError


class SpatialSpectrum(_Spectrum):
    """Radially averaged spatial power spectrum of single frames (``texture.radial_power``)."""

    name, inputs = "spectrum", (FRAMES,)

    def power(self, clip: np.ndarray) -> np.ndarray:
        """(1, H, W) to (n/2 - 1,)."""
        return radial_power(clip)[0]

    def title(self, metric: str, frames: int) -> str:
        return "log-spectral distance"


class TemporalSpectrum(_Spectrum):
    """Temporal power spectrum of pixels in clips (``texture.temporal_power``)."""

    name, inputs, clips = "temporal_spectrum", (CLIPS,), ((CLIP_FRAMES, 1),)

    def power(self, clip: np.ndarray) -> np.ndarray:
        """(F, H, W) to (F/2 - 1,)."""
        return temporal_power(clip)

    def title(self, metric: str, frames: int) -> str:
        return "temporal log-spectral distance"
