"""Power spectra as features (``extractors=[spectrum, temporal_spectrum]``)."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from echodream.metrics.texture import radial_power, temporal_power
from echodream.networks.extractors.base import CLIPS, FRAMES, Extractor

CLIP_FRAMES = 32
"""Length in frames of the clips of ``temporal_spectrum``."""


class Spectrum(Extractor):
    """Power spectra of gray levels, 0 to 255. ``power`` maps a clip (F, H, W) to the power at R frequencies, (R,)."""

    weights_hash, resizing, feature_kind = "none", "none", "spectrum"

    def __init__(self, name: str, metric: str, power: Callable[[np.ndarray], np.ndarray], clip_frames: int = 1) -> None:
        self.name, self.metric, self.power = name, metric, power
        self.inputs, self.clip_types = ((FRAMES,), ()) if clip_frames == 1 else ((CLIPS,), ((clip_frames, 1),))
        self.network = nn.Identity()

    def features(self, x: Tensor) -> Tensor:
        """Power at each frequency, (B, R), of clips (B, C, F, H, W) in [-1, 1]."""
        gray = ((x.mean(dim=1) + 1) * 127.5).cpu().double().numpy()
        return torch.from_numpy(np.stack([self.power(clip) for clip in gray]))

    def metric_name(self, metric: str, frames: int) -> str:
        return self.metric


def spatial_spectrum() -> Spectrum:
    """Radially averaged spatial power spectrum of single frames (``metrics.texture.radial_power``)."""
    return Spectrum("spectrum", "log-spectral distance", lambda clip: radial_power(clip)[0])


def temporal_spectrum() -> Spectrum:
    """Temporal power spectrum of pixels in clips of F frames, at F/2 - 1 frequencies (``texture.temporal_power``)."""
    return Spectrum("temporal_spectrum", "temporal log-spectral distance", temporal_power, CLIP_FRAMES)
