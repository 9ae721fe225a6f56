"""Base class of denoisers, which give all networks of diffusers the call ``denoiser(x_t, t, condition)``."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from echodream import validation
from echodream.errors import UserError
from echodream.networks.acceleration import CUDA_GRAPHS, compile_in_place, use_channels_last
from echodream.types import Condition


class Denoiser(nn.Module, ABC):
    """A diffusers network with the inputs x_t, t and a condition. The noise process defines the output."""

    is_video: ClassVar[bool]
    """Whether samples are clips, (B, C, F, H, W), instead of images, (B, C, H, W)."""
    network_class: ClassVar[str]
    """Name of the diffusers class of the network, by which a trained denoiser is found and loaded."""
    network_name: ClassVar[str]
    """Name of the attribute with the diffusers network, and prefix of its weights in the state dict."""
    takes_tokens: ClassVar[bool] = True
    """Whether the network has an input for the tokens of conditions."""
    unsupported_settings: ClassVar[tuple[str, ...]] = ()
    """Keys of config.json that add inputs to the network which denoisers do not support."""
    reuses_output: bool = False
    """Whether the next call overwrites the output of this call, as CUDA graphs do."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.add_module(self.network_name, network)
        self._added_time: Tensor | None = None
        self.time_embedding.register_forward_hook(self._add_to_time)

    @property
    def network(self) -> Any:
        """The wrapped network, an object of diffusers."""
        return self.get_submodule(self.network_name)

    @property
    @abstractmethod
    def time_embedding(self) -> Any:
        """The ``TimestepEmbedding`` of diffusers that embeds the diffusion time."""

    @property
    def time_width(self) -> int:
        """Width T of the embedding of the diffusion time."""
        return int(self.time_embedding.linear_2.out_features)

    def _add_to_time(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        """Forward hook of ``time_embedding`` that adds ``Condition.time``."""
        return output if self._added_time is None else output + self._added_time.to(output)

    @abstractmethod
    def predict(self, x: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        """Output of the network for padded ``x`` (B, C + E, *rest), ``t`` (B,) and ``tokens`` (B, L, D)."""

    @property
    @abstractmethod
    def size_multiple(self) -> int:
        """Divisor of the height and width that the network accepts."""

    @property
    @abstractmethod
    def token_width(self) -> int:
        """Width D of the condition tokens."""

    @property
    def channels(self) -> int:
        """Number of channels C of a sample."""
        return int(self.network.config.out_channels)

    @property
    def extra_channels(self) -> int:
        """Number of channels E of a condition."""
        return int(self.network.config.in_channels) - self.channels

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Prediction for ``x_t``, (B, C, *rest) each, at times ``t`` (B,), with padding to ``size_multiple``.

        With weights in bf16, the network computes in bf16, and the prediction has the type of ``x_t``.
        """
        count, (height, width), dtype = len(x_t), x_t.shape[-2:], x_t.dtype
        weight = next(self.parameters(), None)
        if has_bf16_weights := weight is not None and weight.dtype == torch.bfloat16:
            x_t = x_t.to(torch.bfloat16)
        x = x_t if condition.channels is None else torch.cat([x_t, condition.channels.to(x_t)], dim=1)
        top, bottom = padding_to_multiple(height, self.size_multiple)
        left, right = padding_to_multiple(width, self.size_multiple)
        if self.size_multiple > 1 and (bottom or right):
            x = pad(x, (left, right, top, bottom) + (0, 0) * (x.ndim - 4), mode="replicate")
        tokens = condition.tokens.to(x_t).expand(count, -1, -1)
        self._added_time = condition.time
        output = self.predict(x, t.expand(count), tokens)[..., top : top + height, left : left + width]
        self._added_time = None
        return output.to(dtype) if has_bf16_weights else output

    def check_dimensions(self, channels: int, extra_channels: int, token_width: int) -> None:
        """Raise ``UserError`` if the network needs other numbers of channels or another width of tokens."""
        for description, required, actual in (
            ("channels of a latent", channels, self.channels),
            ("channels of a reference", extra_channels, self.extra_channels),
            ("width of the condition's tokens", token_width, self.token_width if self.takes_tokens else token_width),
        ):
            if required != actual:
                problem = f"the denoiser has {actual} as {description}, and {required} is needed"
                raise UserError(f"{problem}: choose the vae and the conditioning= that it was trained with")

    def accelerate(self, compile: bool | str, channels_last: bool, prefix: str = "") -> None:
        """Compile the denoiser and set its memory format. ``prefix`` precedes both settings in error messages.

        ``compile``: see ``compile_in_place``.
        """
        if validation.true_or_false(f"{prefix}channels_last", channels_last):
            use_channels_last(self)
        compile_in_place([self], compile, f"{prefix}compile")
        self.reuses_output = compile == CUDA_GRAPHS

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass instead of storing them."""
        self.network.enable_gradient_checkpointing()

    def save(self, folder: str | Path) -> None:
        """Write config.json and diffusion_pytorch_model.safetensors, the format of diffusers."""
        self.network.save_pretrained(folder)


def padding_to_multiple(size: int, multiple: int) -> tuple[int, int]:
    """Padding before and after an axis of ``size`` up to the next multiple of ``multiple``."""
    missing = -size % multiple
    return missing // 2, missing - missing // 2
