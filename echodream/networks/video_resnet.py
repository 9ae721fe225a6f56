"""R(2+1)D residual networks (1711.11248), with the module names of torchvision's weight files."""

from collections.abc import Sequence

from torch import Tensor, nn


def factorized_convolution(inputs: int, outputs: int, middle: int, stride: int = 1) -> nn.Sequential:
    """(2+1)D convolution of clips (B, C, F, H, W): 1 x 3 x 3 to ``middle`` channels, then 3 x 1 x 1 to ``outputs``."""
    return nn.Sequential(
        nn.Conv3d(inputs, middle, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False),
        nn.BatchNorm3d(middle),
        nn.ReLU(inplace=True),
        nn.Conv3d(middle, outputs, (3, 1, 1), (stride, 1, 1), (1, 0, 0), bias=False),
    )


class R2Plus1dBlock(nn.Module):
    """Residual block of two factorized convolutions, with the number of parameters of two 3 x 3 x 3 convolutions."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        middle = inputs * outputs * 27 // (inputs * 9 + 3 * outputs)
        first = factorized_convolution(inputs, outputs, middle, stride)
        self.conv1 = nn.Sequential(first, nn.BatchNorm3d(outputs), nn.ReLU(inplace=True))
        self.conv2 = nn.Sequential(factorized_convolution(outputs, outputs, middle), nn.BatchNorm3d(outputs))
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            projection = nn.Conv3d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm3d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Block output: (B, inputs, F, H, W) to (B, outputs, F / stride, H / stride, W / stride), rounded up."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.conv2(self.conv1(x)) + shortcut)


class R2Plus1dBackbone(nn.Module):
    """R(2+1)D network without a classification layer: clips (B, C, F, H, W) to features (B, D).

    ``widths`` and ``layers`` are the channels and numbers of blocks of the four levels. ``stem`` and ``stride`` are the
    kernel size and stride of the first convolution over (F, H, W).
    """

    def __init__(
        self, channels: int, widths: Sequence[int], layers: Sequence[int], stem: Sequence[int], stride: Sequence[int]
    ) -> None:
        super().__init__()
        middle = max(1, 45 * widths[0] // 64)  # 45 channels if ``widths[0]`` is 64, as published
        (kernel_f, kernel_h, kernel_w), (stride_f, stride_h, stride_w) = stem, stride
        spatial = ((1, kernel_h, kernel_w), (1, stride_h, stride_w), (0, kernel_h // 2, kernel_w // 2))
        temporal = ((kernel_f, 1, 1), (stride_f, 1, 1), (kernel_f // 2, 0, 0))
        self.stem = nn.Sequential(
            nn.Conv3d(channels, middle, *spatial, bias=False),
            nn.BatchNorm3d(middle),
            nn.ReLU(inplace=True),
            nn.Conv3d(middle, widths[0], *temporal, bias=False),
            nn.BatchNorm3d(widths[0]),
            nn.ReLU(inplace=True),
        )
        inputs = widths[0]
        for level, (outputs, count) in enumerate(zip(widths, layers, strict=True), 1):
            first_block = R2Plus1dBlock(inputs, outputs, 1 if level == 1 else 2)
            next_blocks = [R2Plus1dBlock(outputs, outputs, 1) for _ in range(1, count)]
            self.add_module(f"layer{level}", nn.Sequential(first_block, *next_blocks))
            inputs = outputs
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Features averaged over F, H and W: (B, C, F, H, W) to (B, D)."""
        x = self.stem(x)
        for level in range(1, 5):
            x = self.get_submodule(f"layer{level}")(x)
        return x.mean(dim=(2, 3, 4))
