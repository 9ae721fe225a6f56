"""Noise processes, samplers, guidance and windows on tensors (B, C, *rest). No network and no configuration in here."""

from echodream.process.guidance import Guidance, Predict
from echodream.process.process import Denoise, Noised, Process, expand, make
from echodream.process.windows import blend, starts, windowed

__all__ = [
    "Denoise",
    "Guidance",
    "Noised",
    "Predict",
    "Process",
    "blend",
    "expand",
    "make",
    "starts",
    "windowed",
]
