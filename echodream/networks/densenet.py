"""DenseNet (Huang et al. 2017), MONAI's, for frames of any number of channels and of small sides."""

import re
from collections.abc import Sequence

from torch import Tensor, nn

from echodream.errors import UserError


class DenseBody(nn.Module):
    """What comes before the head: (B, C, H, W) to (B, D). DenseNet-121 has ``layers`` (6, 12, 24, 16).

    The first convolution, ``stem`` wide with ``stride``, gives ``width`` channels, and each layer adds ``growth``.
    Each block but the last ends with half of the channels and of the sides, so that ``H, W`` must be 8 after the stem.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        growth: int,
        layers: Sequence[int],
        stem: Sequence[int],
        stride: Sequence[int],
        max_pool: bool,
    ) -> None:
        super().__init__()
        from monai.networks.nets.densenet import DenseNet

        made = DenseNet(2, channels, 1, init_features=width, growth_rate=growth, block_config=tuple(layers))
        self.width: int = made.class_layers.out.in_features
        (tall, wide), (down, right) = stem, stride
        first = nn.Conv2d(channels, width, (tall, wide), (down, right), (tall // 2, wide // 2), bias=False)
        nn.init.kaiming_normal_(first.weight)
        made.features.conv0 = first
        if not max_pool:
            made.features.pool0 = nn.Identity()
        made.class_layers.out = nn.Identity()
        self.net = made
        self.least = 8 * max(stride) * (2 if max_pool else 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, D). Raises ``UserError`` for sides that are halved to nothing."""
        height, width = x.shape[-2:]
        if min(height, width) < self.least:
            raise UserError(
                f"images of {width}x{height} are too small for this DenseNet, which needs {self.least}: give "
                "backbone=densenet121_latents, which needs 8"
            )
        found: Tensor = self.net(x)
        return found


def own_name(name: str) -> str:
    """The name in ``DenseBody`` of what torchvision calls ``name``, in its files (norm.1) or its networks (norm1)."""
    return "net." + re.sub(r"(denselayer\d+)\.(norm|conv)\.?([12])\.", r"\1.layers.\2\3.", name)
