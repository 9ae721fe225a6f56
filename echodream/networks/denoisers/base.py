"""Base class of denoisers: a network of diffusers behind ``denoiser(x_t, t, condition)``, with padding and layout."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from echodream.errors import UserError
from echodream.types import Condition


class Denoiser(nn.Module, ABC):
    """A diffusers network with the inputs x_t, t and a condition. The noise process says what it predicts."""

    is_video: ClassVar[bool]
    """Whether samples are clips, (B, C, F, H, W), instead of images, (B, C, H, W)."""
    network_name: ClassVar[str]
    """Name of the attribute with the diffusers network, and prefix of its weights in the state dict."""
    unsupported_settings: ClassVar[tuple[str, ...]] = ()
    """Keys of ``config.json`` that make the network require inputs that denoisers do not have."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.add_module(self.network_name, network)

    @property
    def network(self) -> Any:
        """The network of diffusers."""
        return self.get_submodule(self.network_name)

    @abstractmethod
    def predict(self, x: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        """Output of the network for x (B, C + E, *rest), t (B,) and tokens (B, L, D); H and W are valid sizes."""

    @property
    @abstractmethod
    def size_multiple(self) -> int:
        """Height and width of the network's input are multiples of this."""

    @property
    @abstractmethod
    def token_width(self) -> int:
        """Width of the condition's tokens, D."""

    @property
    def channels(self) -> int:
        """Channels of a sample, C."""
        return int(self.network.config.out_channels)

    @property
    def extra_channels(self) -> int:
        """Channels of the condition, E."""
        return int(self.network.config.in_channels) - self.channels

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The prediction, (B, C, *rest), for ``x_t`` (B, C, *rest) at times ``t`` (B,), int64 or float.

        Height and width are padded by replication to multiples of ``size_multiple``, and cropped again.
        """
        count, (height, width) = len(x_t), x_t.shape[-2:]
        x = x_t if condition.channels is None else torch.cat([x_t, condition.channels.to(x_t)], dim=1)
        top, bottom = padding(height, self.size_multiple)
        left, right = padding(width, self.size_multiple)
        if self.size_multiple > 1 and (bottom or right):
            x = pad(x, (left, right, top, bottom) + (0, 0) * (x.ndim - 4), mode="replicate")
        tokens = condition.tokens.to(x_t).expand(count, -1, -1)
        return self.predict(x, t.expand(count), tokens)[..., top : top + height, left : left + width]

    def check(self, channels: int, extra_channels: int, token_width: int) -> None:
        """Raise ``UserError`` unless the network takes these numbers of channels and this width of tokens."""
        for description, required, actual in (
            ("channels of a latent", channels, self.channels),
            ("channels of a reference", extra_channels, self.extra_channels),
            ("width of the condition's tokens", token_width, self.token_width),
        ):
            if required != actual:
                problem = f"the denoiser has {actual} as {description}, and {required} is needed"
                raise UserError(f"{problem}: choose the vae and the conditioning= that it was trained with")

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations of the blocks in the backward pass instead of storing them."""
        self.network.enable_gradient_checkpointing()

    def save(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``diffusion_pytorch_model.safetensors``, as diffusers does."""
        self.network.save_pretrained(folder)


def padding(size: int, multiple: int) -> tuple[int, int]:
    """Padding before and after ``size`` that reaches the next multiple of ``multiple``."""
    missing = -size % multiple
    return missing // 2, missing - missing // 2
