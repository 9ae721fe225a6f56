"""LPIPS perceptual loss (Zhang et al. 1801.03924) with VGG-16, from local weight files; nothing is downloaded."""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional

from echodream.errors import UserError
from echodream.losses.autoencoder import LossTerm
from echodream.weights import read_weights

if TYPE_CHECKING:
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution as Posterior

log = logging.getLogger(__name__)

_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_MEAN, _STD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # ImageNet's, for inputs in [-1, 1]


def build_lpips(
    weight: float, backbone: str | None, linear: str | None, sha256: Mapping[str, str | None]
) -> "LPIPS | None":
    """``LPIPS`` if both weight files are given; None, with a log message, if both are missing.

    Raises ``UserError`` if only one file is given, or a file without its SHA-256.
    """
    if backbone is None and linear is None:
        if weight:
            log.info("train: LPIPS is off, because loss.perceptual has no weight files (backbone= and linear=)")
        return None
    for name, file in (("backbone", backbone), ("linear", linear)):
        if file is None or sha256.get(name) is None:
            key = name if file is None else f"sha256.{name}"
            raise UserError(f"loss.perceptual.{key} is needed: LPIPS takes two weight files, each with its SHA-256")
    return LPIPS(weight, str(backbone), str(linear), {name: str(value) for name, value in sha256.items()})


class LPIPS(LossTerm):
    """LPIPS distance as a loss term.

    ``backbone`` is a VGG-16 state dict with torchvision's names (``features.N.weight``), ``linear`` the LPIPS v0.1
    layers (``linN.model.1.weight``); each is a safetensors file, or a pickle that opens with ``weights_only=True``.
    ``sha256`` holds the hash of each file. The weights are frozen and are not saved in checkpoints. Raises
    ``UserError`` if a file is absent, has another hash or holds other weights.
    """

    def __init__(self, weight: float, backbone: str, linear: str, sha256: Mapping[str, str]) -> None:
        super().__init__(weight)
        features = read_weights(backbone, sha256["backbone"])
        heads = read_weights(linear, sha256["linear"])
        channels, number = 3, 0
        for index, widths in enumerate(_STAGES):
            for width in widths:
                self._register_weight(features, f"features.{number}.weight", (width, channels, 3, 3), backbone)
                self._register_weight(features, f"features.{number}.bias", (width,), backbone)
                channels, number = width, number + 2  # a convolution and its ReLU
            self._register_weight(heads, f"lin{index}.model.1.weight", (1, channels, 1, 1), linear)
            number += 1  # max pooling

    def _register_weight(self, state: Mapping[str, Tensor], name: str, shape: tuple[int, ...], file: str) -> None:
        weight = state.get(name)
        if weight is None or tuple(weight.shape) != shape:
            problem = f"no {name}" if weight is None else f"{name} of shape {tuple(weight.shape)}"
            raise UserError(f"{file} is not VGG-16 or LPIPS v0.1: it has {problem}, and needs shape {shape}")
        self.register_buffer(name.replace(".", "_"), weight.float(), persistent=False)

    def forward(self, x: Tensor, reconstruction: Tensor, posterior: "Posterior") -> Tensor:
        """Mean distance over the batch, scalar. Frames of one channel are repeated to three."""
        shift, scale = (x.new_tensor(values)[:, None, None] for values in (_MEAN, _STD))
        left, right = ((y.expand(-1, 3, -1, -1) - shift) / scale for y in (x, reconstruction))
        total, number = x.new_zeros(()), 0
        for index, widths in enumerate(_STAGES):
            if index:
                left, right, number = functional.max_pool2d(left, 2), functional.max_pool2d(right, 2), number + 1
            for _ in widths:
                left, right, number = self._apply_layer(left, number), self._apply_layer(right, number), number + 2
            difference = (_unit_length(left) - _unit_length(right)).square()
            total = total + (difference * self.get_buffer(f"lin{index}_model_1_weight")).sum(dim=1).mean()
        return total

    def _apply_layer(self, x: Tensor, number: int) -> Tensor:
        weight, bias = (self.get_buffer(f"features_{number}_{kind}") for kind in ("weight", "bias"))
        return functional.relu(functional.conv2d(x, weight, bias, padding=1))


def _unit_length(features: Tensor) -> Tensor:
    """Features, (B, D, h, w), with unit length at each location; float32, because squares overflow in float16."""
    return functional.normalize(features.float(), dim=1, eps=1e-10)
