"""InceptionV3 (1512.00567), the network of the Frechet inception distance. Layers have the published weights' names.

Unlike InceptionV3, the network of FID excludes padding from average pooling, and its last block has max pooling.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from echodream.networks.extractors.base import FRAMES, Extractor, load_weights_file
from echodream.store.checksums import file_sha256

INPUT_SIDE = 299
CLASS_COUNT = 1008
DOWNLOAD_INSTRUCTIONS = (
    "FID's weights are pt_inception-2015-12-05-6726825d.pth, published at github.com/mseitzer/pytorch-fid/releases: "
    "download them and give extractors=[inception:/path/to/the/file]"
)
Branches = dict[str, list[tuple[int, str]]]
"""Output channels and kernel size of each convolution, by branch. "1x3 3x1" are two parallel convolutions."""
MIXED_5_BRANCHES: Branches = {
    "branch1x1": [(64, "1x1")],
    "branch5x5": [(48, "1x1"), (64, "5x5")],
    "branch3x3dbl": [(64, "1x1"), (96, "3x3"), (96, "3x3")],
}
MIXED_6A_BRANCHES: Branches = {"branch3x3": [(384, "3x3")], "branch3x3dbl": [(64, "1x1"), (96, "3x3"), (96, "3x3")]}
MIXED_7A_BRANCHES: Branches = {
    "branch3x3": [(192, "1x1"), (320, "3x3")],
    "branch7x7x3": [(192, "1x1"), (192, "1x7"), (192, "7x1"), (192, "3x3")],
}
MIXED_7_BRANCHES: Branches = {
    "branch1x1": [(320, "1x1")],
    "branch3x3": [(384, "1x1"), (384, "1x3 3x1")],
    "branch3x3dbl": [(448, "1x1"), (384, "3x3"), (384, "1x3 3x1")],
}


def mixed_6_branches(width: int) -> Branches:
    """Branches of a Mixed_6 block, with factorized 7x7 convolutions of ``width`` channels."""
    branch7x7dbl = [(width, "1x1"), (width, "7x1"), (width, "1x7"), (width, "7x1"), (192, "1x7")]
    branch7x7 = [(width, "1x1"), (width, "1x7"), (192, "7x1")]
    return {"branch1x1": [(192, "1x1")], "branch7x7": branch7x7, "branch7x7dbl": branch7x7dbl}


class Inception(Extractor):
    """Features of frames: 2,048 features for FID and KID, and logits for the inception score."""

    network: "InceptionV3"
    name, inputs = "inception", (FRAMES,)
    resizing = f"bicubic, antialiased, to {INPUT_SIDE}x{INPUT_SIDE}; grey as three equal channels"

    def __init__(self, path: str) -> None:
        self.network = InceptionV3().eval()
        load_weights_file(self.network, path, DOWNLOAD_INSTRUCTIONS)
        self.weights_hash = file_sha256(Path(path))

    def features(self, x: Tensor) -> Tensor:
        frames = x[:, :, 0].expand(-1, 3, -1, -1)
        resized = functional.interpolate(frames, size=(INPUT_SIDE, INPUT_SIDE), mode="bicubic", antialias=True)
        gray_levels = (resized + 1) * 127.5
        return self.network((gray_levels - 128) / 128)

    def class_logits(self, features: Tensor) -> Tensor:
        """Logits (B, 1008) without the bias, from which the inception score of this network is computed."""
        return self.network.fc(features) - self.network.fc.bias

    def metric_name(self, metric: str, frames: int) -> str:
        return {"frechet": "FID", "kernel": "KID", "IS": "IS"}.get(metric, super().metric_name(metric, frames))

    def published_sample_count(self) -> int:
        return 10_000


class InceptionV3(nn.Module):
    """Network from frames (B, 3, 299, 299), pixels in about [-1, 1], to features (B, 2048)."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvBatchNorm(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = ConvBatchNorm(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvBatchNorm(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = ConvBatchNorm(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvBatchNorm(80, 192, 3)
        for name, channels, pooled in (("5b", 192, 32), ("5c", 256, 64), ("5d", 288, 64)):
            self.add_module(f"Mixed_{name}", InceptionBlock(channels, MIXED_5_BRANCHES, pooled))
        self.Mixed_6a = InceptionBlock(288, MIXED_6A_BRANCHES, stride=2)
        for name, width in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
            self.add_module(f"Mixed_{name}", InceptionBlock(768, mixed_6_branches(width), 192))
        self.Mixed_7a = InceptionBlock(768, MIXED_7A_BRANCHES, stride=2)
        self.Mixed_7b = InceptionBlock(1280, MIXED_7_BRANCHES, 192)
        self.Mixed_7c = InceptionBlock(2048, MIXED_7_BRANCHES, 192, max_pool=True)
        self.fc = nn.Linear(2048, CLASS_COUNT)

    def forward(self, x: Tensor) -> Tensor:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(functional.max_pool2d(x, 3, stride=2)))
        x = functional.max_pool2d(x, 3, stride=2)
        for block in self.children():
            x = block(x) if isinstance(block, InceptionBlock) else x
        return x.mean(dim=(2, 3))


class ConvBatchNorm(nn.Module):
    """2D convolution, batch normalization and ReLU."""

    def __init__(
        self,
        channels: int,
        out: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)))


class InceptionBlock(nn.Module):
    """Inception block: concatenated ``branches`` and a pooling branch.

    The pooling branch has average pooling, or max pooling with ``max_pool``, and a 1x1 convolution to ``pooled``
    channels. With ``stride`` 2, the pooling branch has max pooling and no convolution; the pooling and the last
    convolution of each branch have stride 2 and no padding.
    """

    def __init__(
        self, channels: int, branches: Branches, pooled: int = 0, max_pool: bool = False, stride: int = 1
    ) -> None:
        super().__init__()
        self.stride, self.max_pool = stride, max_pool or stride > 1
        self.branches: list[list[list[str]]] = []
        """Names of the convolutions, by branch and position in the branch. Parallel convolutions share a position."""
        for branch, layers in branches.items():
            steps, inputs = [], channels
            for number, (outputs, kernels) in enumerate(layers, 1):
                name = f"{branch}_{number}" if len(layers) > 1 else branch
                steps.append([f"{name}{letter}" for letter in "ab"] if " " in kernels else [name])
                step_stride = stride if number == len(layers) else 1
                for layer, kernel in zip(steps[-1], kernels.split(), strict=True):
                    height, width = map(int, kernel.split("x"))
                    padding = (height // 2, width // 2) if step_stride == 1 else (0, 0)
                    self.add_module(layer, ConvBatchNorm(inputs, outputs, (height, width), step_stride, padding))
                inputs = outputs
            self.branches.append(steps)
        self.branch_pool = ConvBatchNorm(channels, pooled, 1) if pooled else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for steps in self.branches:
            y = x
            for names in steps:
                y = torch.cat([self.get_submodule(name)(y) for name in names], dim=1)
            outputs.append(y)
        pooled = functional.max_pool2d(x, 3, self.stride, 2 - self.stride) if self.max_pool else average_pool(x)
        return torch.cat([*outputs, self.branch_pool(pooled)], dim=1)


def average_pool(x: Tensor) -> Tensor:
    """3x3 average pooling with stride 1. The padding is excluded from the mean."""
    return functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
