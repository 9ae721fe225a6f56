"""Residual networks for face recognition: IResNet-50, IResNet-100, ... (ArcFace, 1801.07698)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from echodream import validation
from echodream.errors import UserError
from echodream.weights import load_strictly, read_weights


class IResNetBlock(nn.Module):
    """Residual block: norm, 3 x 3 convolution, norm, PReLU, 3 x 3 convolution with ``stride``, norm."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = _convolution_without_bias(inputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.prelu = nn.PReLU(outputs)
        self.conv2 = _convolution_without_bias(outputs, outputs, stride=stride)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride > 1 or inputs != outputs:
            projection = _convolution_without_bias(inputs, outputs, kernel=1, stride=stride)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Block output: (B, inputs, H, W) to (B, outputs, ceil(H / stride), ceil(W / stride))."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        return shortcut + self.bn3(self.conv2(y))


class IResNet(nn.Module):
    """IResNet that maps normalized frames (B, C, H, W) to embeddings (B, D).

    The network has a 3 x 3 convolution, four levels of residual blocks, ``dropout``, and a linear layer with batch
    normalization. ``layers`` and ``widths`` are the numbers of blocks and the channels of the levels. Each level halves
    height and width. ``size`` is the frame size (H, W). ``weights`` is a file with weights named as in ArcFace files.
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
            raise UserError("embedder=iresnet... supports only head=margin, head=arcface and head=cosine")
        for name, value in (("layers", layers), ("widths", widths)):
            validation.whole_numbers(f"embedder.{name}", value, 4)
        validation.whole_number("embedder.features", features)
        validation.number("embedder.dropout", dropout, 0, below=1)
        self.settings: dict[str, Any] = {"channels": channels, "size": [*size], "layers": [*layers]}
        self.settings |= {"widths": [*widths], "features": features, "dropout": dropout}
        self.conv1 = _convolution_without_bias(channels, widths[0])
        self.bn1, self.prelu = nn.BatchNorm2d(widths[0]), nn.PReLU(widths[0])
        height, width, inputs = size[0], size[1], widths[0]
        for level, (count, outputs) in enumerate(zip(layers, widths, strict=True), 1):
            next_blocks = (IResNetBlock(outputs, outputs, 1) for _ in range(1, count))
            self.add_module(f"layer{level}", nn.Sequential(IResNetBlock(inputs, outputs, 2), *next_blocks))
            inputs, height, width = outputs, -(-height // 2), -(-width // 2)
        self.bn2, self.dropout = nn.BatchNorm2d(inputs), nn.Dropout(dropout)
        self.fc = nn.Linear(inputs * height * width, features)
        self.features = nn.BatchNorm1d(features)
        self.features.weight.requires_grad_(False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0, 0.1)
        if weights is not None:
            remedy = "choose the embedder= and src= that the weights were trained with"
            load_strictly(self, read_weights(weights), weights, remedy)

    def forward(self, x: Tensor) -> Tensor:
        """Embeddings of normalized frames: (B, C, H, W) to (B, D)."""
        x = self.prelu(self.bn1(self.conv1(x.contiguous(memory_format=torch.channels_last))))
        for level in range(1, 5):
            x = self.get_submodule(f"layer{level}")(x)
        return self.features(self.fc(self.dropout(self.bn2(x).flatten(1))))

    def pair_logits(self, a: Tensor, b: Tensor) -> Tensor:
        """Raise ``UserError``: IResNet has no layer for pairs of embeddings."""
        raise UserError("this identity network has no layer for pairs of embeddings: give another head=")


def _convolution_without_bias(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
