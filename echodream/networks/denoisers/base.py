"""Base class of denoisers: each denoiser wraps a network of diffusers as ``denoiser(x_t, t, condition)``."""

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
    """Network of diffusers that predicts the target of the diffusion process from x_t, t and a condition."""

    is_video: ClassVar[bool]
    """Whether samples are clips, (B, C, F, H, W), and not images, (B, C, H, W)."""
    network_class: ClassVar[str]
    """Name of the network's class in diffusers; ``registry.DENOISERS`` finds the denoiser class by this name."""
    network_name: ClassVar[str]
    """Name of the attribute that holds the network, and prefix of the network's weights in the state dict."""
    takes_tokens: ClassVar[bool] = True
    """Whether the network has an input for the tokens of conditions."""
    unsupported_settings: ClassVar[tuple[str, ...]] = ()
    """Keys of config.json for network inputs that denoisers do not support."""
    reuses_output_memory: bool = False
    """Whether the next call of the denoiser overwrites the output of this call, as with CUDA graphs."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.add_module(self.network_name, network)
        self._added_time: Tensor | None = None
        self.time_embedding.register_forward_hook(self._add_condition_time)

    @property
    def network(self) -> Any:
        """The wrapped network of diffusers."""
        return self.get_submodule(self.network_name)

    @property
    @abstractmethod
    def time_embedding(self) -> Any:
        """Module that embeds the diffusion time, a ``TimestepEmbedding`` of diffusers."""

    @property
    def time_embedding_width(self) -> int:
        """Number of dimensions T of the embedding of the diffusion time."""
        return int(self.time_embedding.linear_2.out_features)

    def _add_condition_time(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        """Forward hook of ``time_embedding``: add ``Condition.time``, (B, T), to the embedding, (B, T)."""
        return output if self._added_time is None else output + self._added_time.to(output)

    @abstractmethod
    def predict(self, x: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        """Prediction (B, C, *rest) for padded ``x`` (B, C + E, *rest), ``t`` (B,) and ``tokens`` (B, L, D)."""

    @property
    @abstractmethod
    def size_multiple(self) -> int:
        """Number by which height and width of the network's input have to be divisible."""

    @property
    @abstractmethod
    def token_width(self) -> int:
        """Number of dimensions D of a condition token."""

    @property
    def channels(self) -> int:
        """Number of channels C of a sample."""
        return int(self.network.config.out_channels)

    @property
    def extra_channels(self) -> int:
        """Number of channels E of a condition, which is concatenated with x_t."""
        return int(self.network.config.in_channels) - self.channels

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Prediction (B, C, *rest) for ``x_t`` (B, C, *rest) at times ``t`` (B,), with the dtype of ``x_t``.

        ``x_t`` is padded to multiples of ``size_multiple``. A network with bf16 weights computes in bf16.
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
        """Raise ``UserError`` unless the numbers of channels and the token width are those of the network."""
        for description, required, actual in (
            ("number of latent channels", channels, self.channels),
            ("number of reference channels", extra_channels, self.extra_channels),
            ("width of condition tokens", token_width, self.token_width if self.takes_tokens else token_width),
        ):
            if required != actual:
                problem = f"the {description} of the denoiser is {actual}, and {required} is needed"
                raise UserError(f"{problem}: choose the vae and the conditioning= that it was trained with")

    def accelerate(self, compile: bool | str, channels_last: bool, prefix: str = "") -> None:
        """Compile the denoiser (``compile``: see ``compile_in_place``), and use channels-last memory format.

        ``prefix`` precedes the names ``compile`` and ``channels_last`` in error messages.
        """
        if validation.true_or_false(f"{prefix}channels_last", channels_last):
            use_channels_last(self)
        compile_in_place([self], compile, f"{prefix}compile")
        self.reuses_output_memory = compile == CUDA_GRAPHS

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass instead of storing them."""
        self.network.enable_gradient_checkpointing()

    def save(self, folder: str | Path) -> None:
        """Write config.json and diffusion_pytorch_model.safetensors, the files of a model of diffusers."""
        self.network.save_pretrained(folder)


def padding_to_multiple(size: int, multiple: int) -> tuple[int, int]:
    """Padding before and after an axis, so that its length ``size`` becomes a multiple of ``multiple``."""
    missing = -size % multiple
    return missing // 2, missing - missing // 2
