"""DenseNet of MONAI (Huang et al. 2017). The first convolution is configurable, for small images such as latents."""

import re
from collections.abc import Sequence

from torch import Tensor, nn

from echodream.errors import UserError


class DenseNetBackbone(nn.Module):
    """DenseNet without a classification layer: (B, C, H, W) to (B, D). DenseNet-121 has ``layers`` (6, 12, 24, 16).

    The first convolution has kernel size ``stem``, ``stride`` and ``width`` output channels. Each layer adds ``growth``
    channels. A transition after each block except the last halves channels, height and width.
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

        net = DenseNet(2, channels, 1, init_features=width, growth_rate=growth, block_config=tuple(layers))
        self.feature_count: int = net.class_layers.out.in_features
        padding = (stem[0] // 2, stem[1] // 2)
        first = nn.Conv2d(channels, width, (stem[0], stem[1]), (stride[0], stride[1]), padding, bias=False)
        nn.init.kaiming_normal_(first.weight)
        net.features.conv0 = first
        if not max_pool:
            net.features.pool0 = nn.Identity()
        net.class_layers.out = nn.Identity()
        self.net = net
        self.minimum_side = 8 * max(stride) * (2 if max_pool else 1)

    def forward(self, x: Tensor) -> Tensor:
        """Features: (B, C, H, W) to (B, D). Raises ``UserError`` if height or width is below ``minimum_side``."""
        height, width = x.shape[-2:]
        if min(height, width) < self.minimum_side:
            problem = f"images of {width}x{height} are too small: this DenseNet needs {self.minimum_side} pixels"
            raise UserError(f"{problem}: give backbone=densenet121_latents, which needs 8 pixels")
        return self.net(x)


def monai_densenet_name(name: str) -> str:
    """Name in ``DenseNetBackbone`` of the torchvision weight ``name``, in which norm1 may be written norm.1."""
    return "net." + re.sub(r"(denselayer\d+)\.(norm|conv)\.?([12])\.", r"\1.layers.\2\3.", name)
