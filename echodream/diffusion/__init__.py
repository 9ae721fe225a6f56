"""Noise processes, samplers, guidance and windows on tensors (B, C, *rest). No network and no configuration in here."""

from echodream.diffusion.guidance import Guidance, Predict
from echodream.diffusion.processes.base import Denoise, Noised, Process, expand, make
from echodream.diffusion.sliding_window import blend, starts, windowed

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
