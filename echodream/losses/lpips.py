"""LPIPS (Zhang et al. 1801.03924) with VGG-16, from weight files that the user gives: nothing is downloaded."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from echodream.errors import UserError
from echodream.weights import read_weights

if TYPE_CHECKING:
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution as Posterior

_SLICES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_MEAN, _STD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # ImageNet's, for inputs in [-1, 1]


class LPIPS(nn.Module):
    """Perceptual distance as a loss term.

    ``backbone`` is a VGG-16 state dict with torchvision's names (``features.N.weight``), ``linear`` the LPIPS v0.1
    heads (``linN.model.1.weight``); safetensors, or a pickle that opens with ``weights_only=True``. ``sha256`` holds
    the hash of each file. Raises ``UserError`` for an absent, foreign or changed file.
    """

    def __init__(self, backbone: str, linear: str, sha256: tuple[str, str]) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        channels, names = 3, iter(range(31))
        for index, widths in enumerate(_SLICES):
            layers: dict[str, nn.Module] = {} if index == 0 else {str(next(names)): nn.MaxPool2d(2)}
            for width in widths:
                layers[str(next(names))] = nn.Conv2d(channels, width, 3, padding=1)
                layers[str(next(names))] = nn.ReLU()
                channels = width
            self.stages.append(nn.Sequential())
            for name, layer in layers.items():
                self.stages[-1].add_module(name, layer)
        self.heads = nn.ModuleList(nn.Conv2d(widths[-1], 1, 1, bias=False) for widths in _SLICES)
        self._load(backbone, linear, sha256)
        self.requires_grad_(False).eval()

    def _load(self, backbone: str, linear: str, sha256: tuple[str, str]) -> None:
        features = read_weights(backbone, sha256[0])
        heads = read_weights(linear, sha256[1])
        state = {}
        for index, stage in enumerate(self.stages):
            for name, _ in stage.named_parameters():
                state[f"stages.{index}.{name}"] = features.get(f"features.{name}")
            state[f"heads.{index}.weight"] = heads.get(f"lin{index}.model.1.weight")
        if absent := [name for name, value in state.items() if value is None]:
            raise UserError(f"{backbone} or {linear} is not VGG-16 and LPIPS v0.1: no weights for {absent[0]}")
        self.load_state_dict(state)

    def train(self, mode: bool = True) -> "LPIPS":
        """Stays in evaluation mode."""
        return super().train(False)

    def forward(self, x: Tensor, reconstruction: Tensor, posterior: "Posterior") -> Tensor:
        """Mean distance over the batch: scalar. Grey images are repeated to three channels."""
        shift, scale = (x.new_tensor(values)[:, None, None] for values in (_MEAN, _STD))
        left, right = ((y.expand(-1, 3, -1, -1) - shift) / scale for y in (x, reconstruction))
        total = x.new_zeros(())
        for stage, head in zip(self.stages, self.heads, strict=True):
            left, right = stage(left), stage(right)
            difference = (_unit(left) - _unit(right)).square()
            total = total + head(difference).mean(dim=(1, 2, 3)).mean()
        return total


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)
