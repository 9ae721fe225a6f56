"""InceptionV3 of the Frechet inception distance; layers have the names of the published weights.

The layers are those of Szegedy et al. (arXiv 1512.00567), with the two changes of the network that defines FID: average
pools do not count the padding, and the last block has a max pool.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from echodream.networks.extractors.base import FRAMES, Extractor, load_weights_file
from echodream.store.checksums import file_sha256

SIDE = 299
CLASSES = 1008
INSTRUCTIONS = (
    "FID's weights are pt_inception-2015-12-05-6726825d.pth, published at github.com/mseitzer/pytorch-fid/releases: "
    "download them and give extractors=[inception:/path/to/the/file]"
)
Size = int | tuple[int, int]
Layers = list[tuple[int, Size]]
"""Output channels and kernel of consecutive convolutions."""


class Inception(Extractor):
    """The 2,048 features of FID and KID, and the logits of the inception score, of frames."""

    network: "InceptionV3"
    name, inputs = "inception", (FRAMES,)
    resize = f"bicubic, antialiased, to {SIDE}x{SIDE}; grey as three equal channels"

    def __init__(self, path: str) -> None:
        self.network = InceptionV3().eval()
        load_weights_file(self.network, path, INSTRUCTIONS)
        self.weights = file_sha256(Path(path))

    def features(self, x: Tensor) -> Tensor:
        """(B, C, 1, H, W) to (B, 2048)."""
        frames = x[:, :, 0].expand(-1, 3, -1, -1)
        resized = functional.interpolate(frames, size=(SIDE, SIDE), mode="bicubic", antialias=True)
        gray_levels = (resized + 1) * 127.5
        features: Tensor = self.network((gray_levels - 128) / 128)
        return features

    def scores(self, features: Tensor) -> Tensor:
        """(B, 2048) to logits without the bias, (B, 1008), as in the inception score of the FID network."""
        scores: Tensor = self.network.fc(features) - self.network.fc.bias
        return scores

    def title(self, metric: str, frames: int) -> str:
        """FID, KID and IS, or the metric with the name of the extractor."""
        return {"frechet": "FID", "kernel": "KID", "IS": "IS"}.get(metric, super().title(metric, frames))

    def published_samples(self) -> int:
        """Samples of published FID."""
        return 10_000


class InceptionV3(nn.Module):
    """Frames in about [-1, 1], (B, 3, 299, 299), to features, (B, 2048)."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvBatchNorm(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = ConvBatchNorm(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvBatchNorm(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = ConvBatchNorm(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvBatchNorm(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = InceptionA(192, 32), InceptionA(256, 64), InceptionA(288, 64)
        self.Mixed_6a = Reduction(288, {"branch3x3": [(384, 3)], "branch3x3dbl": [(64, 1), (96, 3), (96, 3)]})
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = map(InceptionC, (128, 160, 160, 192))
        branch_7x7: Layers = [(192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3)]
        self.Mixed_7a = Reduction(768, {"branch3x3": [(192, 1), (320, 3)], "branch7x7x3": branch_7x7})
        self.Mixed_7b, self.Mixed_7c = InceptionE(1280, "average"), InceptionE(2048, "maximum")
        self.fc = nn.Linear(2048, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(functional.max_pool2d(x, 3, stride=2)))
        x = functional.max_pool2d(x, 3, stride=2)
        for name, block in self.named_children():
            if name.startswith("Mixed"):
                x = block(x)
        return x.mean(dim=(2, 3))


class ConvBatchNorm(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, channels: int, out: int, kernel: Size, stride: int = 1, padding: Size = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)))


class InceptionBlock(nn.Module):
    """Parallel branches of named convolutions."""

    def add_conv(self, name: str, channels: int, out: int, kernel: Size) -> None:
        """Add a convolution that keeps the size."""
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        self.add_module(name, ConvBatchNorm(channels, out, kernel, padding=(sides[0] // 2, sides[1] // 2)))

    def apply_layers(self, x: Tensor, *names: str) -> Tensor:
        """Apply the layers ``names`` to ``x`` one after the other."""
        for name in names:
            x = self.get_submodule(name)(x)
        return x


class InceptionA(InceptionBlock):
    """Mixed_5b to 5d: branches of one, two and three convolutions, and an average pool with ``pooled`` channels."""

    def __init__(self, channels: int, pooled: int) -> None:
        super().__init__()
        self.add_conv("branch1x1", channels, 64, 1)
        self.add_conv("branch5x5_1", channels, 48, 1)
        self.add_conv("branch5x5_2", 48, 64, 5)
        self.add_conv("branch3x3dbl_1", channels, 64, 1)
        self.add_conv("branch3x3dbl_2", 64, 96, 3)
        self.add_conv("branch3x3dbl_3", 96, 96, 3)
        self.add_conv("branch_pool", channels, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.apply_layers(x, "branch1x1"), self.apply_layers(x, "branch5x5_1", "branch5x5_2")]
        parts.append(self.apply_layers(x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"))
        return torch.cat([*parts, self.apply_layers(_average_pool(x), "branch_pool")], dim=1)


class InceptionC(InceptionBlock):
    """Mixed_6b to 6e: branches with 7x1 and 1x7 convolutions of ``width`` channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.add_conv("branch1x1", 768, 192, 1)
        layers: Layers = [(width, 1), (width, (1, 7)), (192, (7, 1))]
        doubled: Layers = [(width, 1), (width, (7, 1)), (width, (1, 7)), (width, (7, 1)), (192, (1, 7))]
        self.branches = [_add_branch(self, "branch7x7", layers), _add_branch(self, "branch7x7dbl", doubled)]
        self.add_conv("branch_pool", 768, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.apply_layers(x, *names) for names in (["branch1x1"], *self.branches)]
        return torch.cat([*parts, self.apply_layers(_average_pool(x), "branch_pool")], dim=1)


class Reduction(InceptionBlock):
    """Mixed_6a and 7a: branches whose last convolution has stride 2, and a max pool with stride 2."""

    def __init__(self, channels: int, branches: dict[str, Layers]) -> None:
        super().__init__()
        self.branches = []
        for branch, layers in branches.items():
            names, channels_in = [], channels
            for number, (out, kernel) in enumerate(layers, 1):
                names.append(f"{branch}_{number}" if len(layers) > 1 else branch)
                if number == len(layers):
                    self.add_module(names[-1], ConvBatchNorm(channels_in, out, kernel, stride=2))
                else:
                    self.add_conv(names[-1], channels_in, out, kernel)
                channels_in = out
            self.branches.append(names)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.apply_layers(x, *names) for names in self.branches]
        return torch.cat([*parts, functional.max_pool2d(x, 3, stride=2)], dim=1)


class InceptionE(InceptionBlock):
    """Mixed_7b and 7c: branches that end in parallel 1x3 and 3x1 convolutions; ``pool`` is "average" or "maximum"."""

    def __init__(self, channels: int, pool: str) -> None:
        super().__init__()
        self.pool = pool
        self.add_conv("branch1x1", channels, 320, 1)
        self.add_conv("branch3x3_1", channels, 384, 1)
        self.add_conv("branch3x3dbl_1", channels, 448, 1)
        self.add_conv("branch3x3dbl_2", 448, 384, 3)
        for branch in ("branch3x3_2", "branch3x3dbl_3"):
            self.add_conv(f"{branch}a", 384, 384, (1, 3))
            self.add_conv(f"{branch}b", 384, 384, (3, 1))
        self.add_conv("branch_pool", channels, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        short, long = self.apply_layers(x, "branch3x3_1"), self.apply_layers(x, "branch3x3dbl_1", "branch3x3dbl_2")
        parts = [self.apply_layers(short, f"branch3x3_2{side}") for side in "ab"]
        parts += [self.apply_layers(long, f"branch3x3dbl_3{side}") for side in "ab"]
        pooled = _average_pool(x) if self.pool == "average" else functional.max_pool2d(x, 3, stride=1, padding=1)
        return torch.cat([self.apply_layers(x, "branch1x1"), *parts, self.apply_layers(pooled, "branch_pool")], dim=1)


def _add_branch(block: InceptionBlock, branch: str, layers: Layers) -> list[str]:
    """Add the convolutions ``branch``_1, ``branch``_2, ... with 768 input channels. Returns their names."""
    channels_in = 768
    for number, (out, kernel) in enumerate(layers, 1):
        block.add_conv(f"{branch}_{number}", channels_in, out, kernel)
        channels_in = out
    return [f"{branch}_{number}" for number in range(1, len(layers) + 1)]


def _average_pool(x: Tensor) -> Tensor:
    return functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
