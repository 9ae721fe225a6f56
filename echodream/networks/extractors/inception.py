"""InceptionV3 as the Frechet inception distance has it, under the names of its published weights.

The layers are those of Szegedy et al. (arXiv 1512.00567) with the two changes of the network that the distance was
defined with: average pools leave the border out, and the last block pools by the maximum. Sizes follow from the file.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from echodream.networks.extractors.base import FRAMES, Extractor
from echodream.networks.extractors.files import load_file_exactly, sha256

SIDE = 299
CLASSES = 1008
WHERE = (
    "FID's weights are pt_inception-2015-12-05-6726825d.pth, published at github.com/mseitzer/pytorch-fid/releases: "
    "download them and give extractors=[inception:/path/to/the/file]"
)
Size = int | tuple[int, int]
Steps = list[tuple[int, Size]]
"""Channels and kernel of one convolution after the other."""


class Inception(Extractor):
    """From frames to 2,048 features; with them FID, KID and IS have their names."""

    network: "InceptionV3"
    name, sees = "inception", (FRAMES,)
    resize = f"bicubic, antialiased, to {SIDE}x{SIDE}; grey as three equal channels"

    def __init__(self, path: str) -> None:
        self.network = InceptionV3().eval()
        load_file_exactly(self.network, path, WHERE)
        self.weights = sha256(path)

    def features(self, x: Tensor) -> Tensor:
        frames = x[:, :, 0].expand(-1, 3, -1, -1)
        large = functional.interpolate(frames, size=(SIDE, SIDE), mode="bicubic", antialias=True)
        levels = (large + 1) * 127.5
        found: Tensor = self.network((levels - 128) / 128)
        return found

    def scores(self, features: Tensor) -> Tensor:
        found: Tensor = self.network.fc(features) - self.network.fc.bias
        return found

    def title(self, metric: str, frames: int) -> str:
        return {"frechet": "FID", "kernel": "KID", "IS": "IS"}.get(metric, super().title(metric, frames))

    def published(self) -> int:
        return 10_000


class InceptionV3(nn.Module):
    """Frames in about [-1, 1], (B, 3, 299, 299), to (B, 2048)."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = Wide(192, 32), Wide(256, 64), Wide(288, 64)
        self.Mixed_6a = Halved(288, {"branch3x3": [(384, 3)], "branch3x3dbl": [(64, 1), (96, 3), (96, 3)]})
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = map(Long, (128, 160, 160, 192))
        sevens: Steps = [(192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3)]
        self.Mixed_7a = Halved(768, {"branch3x3": [(192, 1), (320, 3)], "branch7x7x3": sevens})
        self.Mixed_7b, self.Mixed_7c = Forked(1280, "average"), Forked(2048, "maximum")
        self.fc = nn.Linear(2048, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(functional.max_pool2d(x, 3, stride=2)))
        x = functional.max_pool2d(x, 3, stride=2)
        for name, block in self.named_children():
            if name.startswith("Mixed"):
                x = block(x)
        return x.mean(dim=(2, 3))


class Conv(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, channels: int, out: int, kernel: Size, stride: int = 1, padding: Size = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)))


class Blocks(nn.Module):
    """Convolutions that keep the size, by name."""

    def conv(self, name: str, channels: int, out: int, kernel: Size) -> None:
        """Add one."""
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        self.add_module(name, Conv(channels, out, kernel, padding=(sides[0] // 2, sides[1] // 2)))

    def through(self, x: Tensor, *names: str) -> Tensor:
        """``x`` through these, one after the other."""
        for name in names:
            x = self.get_submodule(name)(x)
        return x


class Wide(Blocks):
    """Mixed_5: branches of one, two and three convolutions, and a pool of ``pooled`` channels."""

    def __init__(self, channels: int, pooled: int) -> None:
        super().__init__()
        self.conv("branch1x1", channels, 64, 1)
        self.conv("branch5x5_1", channels, 48, 1)
        self.conv("branch5x5_2", 48, 64, 5)
        self.conv("branch3x3dbl_1", channels, 64, 1)
        self.conv("branch3x3dbl_2", 64, 96, 3)
        self.conv("branch3x3dbl_3", 96, 96, 3)
        self.conv("branch_pool", channels, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.through(x, "branch1x1"), self.through(x, "branch5x5_1", "branch5x5_2")]
        parts.append(self.through(x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"))
        return torch.cat([*parts, self.through(_average(x), "branch_pool")], dim=1)


class Long(Blocks):
    """Mixed_6b to 6e: convolutions of 7 by 1 and 1 by 7, of ``width`` channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv("branch1x1", 768, 192, 1)
        steps: Steps = [(width, 1), (width, (1, 7)), (192, (7, 1))]
        doubled: Steps = [(width, 1), (width, (7, 1)), (width, (1, 7)), (width, (7, 1)), (192, (1, 7))]
        self.chains = [_chain(self, "branch7x7", steps), _chain(self, "branch7x7dbl", doubled)]
        self.conv("branch_pool", 768, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.through(x, *names) for names in (["branch1x1"], *self.chains)]
        return torch.cat([*parts, self.through(_average(x), "branch_pool")], dim=1)


class Halved(Blocks):
    """Mixed_6a and 7a: branches whose last convolution halves the size, as a pool does."""

    def __init__(self, channels: int, branches: dict[str, Steps]) -> None:
        super().__init__()
        self.chains = []
        for branch, steps in branches.items():
            names, before = [], channels
            for number, (out, kernel) in enumerate(steps, 1):
                names.append(f"{branch}_{number}" if len(steps) > 1 else branch)
                if number == len(steps):
                    self.add_module(names[-1], Conv(before, out, kernel, stride=2))
                else:
                    self.conv(names[-1], before, out, kernel)
                before = out
            self.chains.append(names)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.through(x, *names) for names in self.chains]
        return torch.cat([*parts, functional.max_pool2d(x, 3, stride=2)], dim=1)


class Forked(Blocks):
    """Mixed_7b and 7c: branches that end in a 1 by 3 beside a 3 by 1."""

    def __init__(self, channels: int, pool: str) -> None:
        super().__init__()
        self.pool = pool
        self.conv("branch1x1", channels, 320, 1)
        self.conv("branch3x3_1", channels, 384, 1)
        self.conv("branch3x3dbl_1", channels, 448, 1)
        self.conv("branch3x3dbl_2", 448, 384, 3)
        for branch in ("branch3x3_2", "branch3x3dbl_3"):
            self.conv(f"{branch}a", 384, 384, (1, 3))
            self.conv(f"{branch}b", 384, 384, (3, 1))
        self.conv("branch_pool", channels, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        short, long = self.through(x, "branch3x3_1"), self.through(x, "branch3x3dbl_1", "branch3x3dbl_2")
        forks = [self.through(short, f"branch3x3_2{side}") for side in "ab"]
        forks += [self.through(long, f"branch3x3dbl_3{side}") for side in "ab"]
        pooled = _average(x) if self.pool == "average" else functional.max_pool2d(x, 3, stride=1, padding=1)
        return torch.cat([self.through(x, "branch1x1"), *forks, self.through(pooled, "branch_pool")], dim=1)


def _chain(block: Blocks, branch: str, steps: Steps) -> list[str]:
    """Add the convolutions ``branch``_1, ``branch``_2 and so on, from 768 channels; their names."""
    before = 768
    for number, (out, kernel) in enumerate(steps, 1):
        block.conv(f"{branch}_{number}", before, out, kernel)
        before = out
    return [f"{branch}_{number}" for number in range(1, len(steps) + 1)]


def _average(x: Tensor) -> Tensor:
    return functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
