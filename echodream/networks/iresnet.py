"""Improved residual networks (IResNet-50, IResNet-100, ...): the networks of face recognition, 1801.07698."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from echodream import validation
from echodream.errors import UserError
from echodream.weights import load_exactly, read_weights


class Block(nn.Module):
    """Norm, 3 x 3, norm, PReLU, 3 x 3 with the stride, norm; added to the input, or to its strided projection."""

    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inside)
        self.conv1 = _conv(inside, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.prelu = nn.PReLU(width)
        self.conv2 = _conv(width, width, stride=stride)
        self.bn3 = nn.BatchNorm2d(width)
        self.downsample: nn.Module | None = None
        if stride > 1 or inside != width:
            self.downsample = nn.Sequential(_conv(inside, width, kernel=1, stride=stride), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inside, H, W) to (B, width, H / stride, W / stride), rounded up."""
        own = x if self.downsample is None else self.downsample(x)
        y = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        return own + self.bn3(self.conv2(y))


class IResNet(nn.Module):
    """From normalised frames (B, C, H, W) to features (B, D), of frames of one ``size``, (H, W), that is free.

    A 3 x 3 convolution at full size, four levels of ``layers`` blocks with ``widths`` channels that each halve both
    sides, ``dropout``, and a linear layer over all places; features are normalised over the batch, and not scaled.
    ``weights`` is a file of such a network, whose names are those that the authors of ArcFace published theirs with.
    """

    def __init__(
        self,
        channels: int,
        size: Sequence[int],
        layers: Sequence[int],
        widths: Sequence[int],
        features: int,
        dropout: float = 0.0,
        paired: bool = False,
        code: Sequence[int] | None = None,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        if paired or code is not None:
            raise UserError("embedder=iresnet... ends in features alone: give head=margin, arcface or cosine")
        _check(layers, widths, features, dropout)
        self.settings: dict[str, Any] = {"channels": channels, "size": [*size], "layers": [*layers]}
        self.settings |= {"widths": [*widths], "features": features, "dropout": dropout}
        self.conv1, self.bn1, self.prelu = _conv(channels, widths[0]), nn.BatchNorm2d(widths[0]), nn.PReLU(widths[0])
        height, width, inside = size[0], size[1], widths[0]
        for number, (count, outside) in enumerate(zip(layers, widths, strict=True), 1):
            blocks = [
                Block(inside if first == 0 else outside, outside, 2 if first == 0 else 1) for first in range(count)
            ]
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
            inside, height, width = outside, -(-height // 2), -(-width // 2)
        self.bn2, self.dropout = nn.BatchNorm2d(inside), nn.Dropout(dropout)
        self.fc = nn.Linear(inside * height * width, features)
        self.features = nn.BatchNorm1d(features)
        self.features.weight.requires_grad_(False)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.normal_(part.weight, 0, 0.1)
        if weights is not None:
            remedy = "choose the embedder= and src= that they were made for"
            load_exactly(self, read_weights(weights), weights, remedy)

    def forward(self, x: Tensor) -> Tensor:
        """Features: (B, C, H, W) to (B, D)."""
        x = self.prelu(self.bn1(self.conv1(x.contiguous(memory_format=torch.channels_last))))
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
        found: Tensor = self.features(self.fc(self.dropout(self.bn2(x).flatten(1))))
        return found

    def compare(self, a: Tensor, b: Tensor) -> Tensor:
        """There is no layer that compares pairs."""
        raise UserError("this identity network has no layer that compares pairs: give another head=")


def _conv(inside: int, outside: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, kernel, stride, padding=kernel // 2, bias=False)


def _check(layers: Sequence[int], widths: Sequence[int], features: int, dropout: float) -> None:
    for name, value in (("layers", layers), ("widths", widths)):
        validation.whole_numbers(f"embedder.{name}", value, 4)
    validation.whole_number("embedder.features", features)
    validation.number("embedder.dropout", dropout, 0, below=1)
