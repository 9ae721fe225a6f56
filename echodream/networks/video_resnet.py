"""R(2+1)D: residual networks whose 3D convolutions are one over space and then one over time (arXiv 1711.11248).

Modules are named as torchvision names them, so that its published weights load as they are.
"""

from collections.abc import Sequence

from torch import Tensor, nn


def factorised(inputs: int, outputs: int, middle: int, stride: int = 1) -> nn.Sequential:
    """A 3 x 3 convolution of each frame to ``middle`` channels, and one over three frames: (B, C, F, H, W)."""
    return nn.Sequential(
        nn.Conv3d(inputs, middle, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False),
        nn.BatchNorm3d(middle),
        nn.ReLU(inplace=True),
        nn.Conv3d(middle, outputs, (3, 1, 1), (stride, 1, 1), (1, 0, 0), bias=False),
    )


class Block(nn.Module):
    """Two factorised convolutions and a shortcut; ``middle`` has the parameters of 3 x 3 x 3 convolutions."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        middle = inputs * outputs * 27 // (inputs * 9 + 3 * outputs)
        self.conv1 = nn.Sequential(
            factorised(inputs, outputs, middle, stride), nn.BatchNorm3d(outputs), nn.ReLU(inplace=True)
        )
        self.conv2 = nn.Sequential(factorised(outputs, outputs, middle), nn.BatchNorm3d(outputs))
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            shorter = nn.Conv3d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shorter, nn.BatchNorm3d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, F, H, W), smaller by the stride."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y: Tensor = self.relu(self.conv2(self.conv1(x)) + shortcut)
        return y


class R2Plus1d(nn.Module):
    """Four levels of ``layers`` blocks with ``widths`` channels: clips (B, C, F, H, W) to features (B, D)."""

    def __init__(
        self, channels: int, widths: Sequence[int], layers: Sequence[int], stem: Sequence[int], stride: Sequence[int]
    ) -> None:
        super().__init__()
        middle = max(1, 45 * widths[0] // 64)  # 45 of 64 as published
        (frames, height, width), (along, down, right) = stem, stride
        self.stem = nn.Sequential(
            nn.Conv3d(channels, middle, (1, height, width), (1, down, right), (0, height // 2, width // 2), bias=False),
            nn.BatchNorm3d(middle),
            nn.ReLU(inplace=True),
            nn.Conv3d(middle, widths[0], (frames, 1, 1), (along, 1, 1), (frames // 2, 0, 0), bias=False),
            nn.BatchNorm3d(widths[0]),
            nn.ReLU(inplace=True),
        )
        inputs = widths[0]
        for level, (outputs, count) in enumerate(zip(widths, layers, strict=True), 1):
            first = Block(inputs, outputs, 1 if level == 1 else 2)
            self.add_module(
                f"layer{level}", nn.Sequential(first, *(Block(outputs, outputs, 1) for _ in range(1, count)))
            )
            inputs = outputs
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """The mean of the last level over space and time."""
        x = self.stem(x)
        for level in range(1, 5):
            x = self.get_submodule(f"layer{level}")(x)
        return x.mean(dim=(2, 3, 4))
