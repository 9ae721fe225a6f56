"""Diffusion transformers (DiT, 2212.09748) of diffusers as denoisers of images and clips."""

from typing import Any

import torch
from torch import Tensor

from echodream import validation
from echodream.errors import UserError
from echodream.networks.denoisers.base import Denoiser


class _Transformer(Denoiser):
    network_name = "transformer"

    @property
    def time_embedding(self) -> Any:
        return self.network.adaln_single.emb.timestep_embedder

    @property
    def size_multiple(self) -> int:
        return int(self.network.config.patch_size)

    @property
    def token_width(self) -> int:
        config = self.network.config
        return int(config.caption_channels or config.cross_attention_dim)


class ImageTransformer(_Transformer):
    """Denoiser of images, (B, C, H, W): PixArtTransformer2DModel, a DiT with cross-attention to tokens (2310.00426)."""

    network_class = "PixArtTransformer2DModel"
    is_video = False

    def __init__(self, network: Any) -> None:
        super().__init__(network)
        if network.use_additional_conditions:
            raise UserError("denoiser: use_additional_conditions of PixArtTransformer2DModel has to be false")

    def predict(self, x: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        return self.network(x, tokens, t).sample


class VideoTransformer(_Transformer):
    """Denoiser of clips of any length, (B, C, F, H, W): LatteTransformer3DModel (2401.03048)."""

    network_class = "LatteTransformer3DModel"
    is_video = True

    def __init__(self, network: Any) -> None:
        super().__init__(network)
        del network.temp_pos_embed  # it has a fixed clip length; ``predict`` computes the embedding of each clip

    def predict(self, x: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        from diffusers.models.embeddings import get_1d_sincos_pos_embed_from_grid

        frames = torch.arange(x.shape[2], device=x.device).unsqueeze(1)
        width = self.network.config.num_attention_heads * self.network.config.attention_head_dim
        self.network.temp_pos_embed = get_1d_sincos_pos_embed_from_grid(width, frames, output_type="pt")[None].to(x)
        return self.network(x, t, tokens).sample


def build_transformer(
    channels: int,
    extra_channels: int,
    token_width: int,
    video: bool,
    layers: int,
    heads: int,
    head_width: int,
    patch_size: int,
    sample_size: int,
    dropout: float = 0.0,
) -> ImageTransformer | VideoTransformer:
    """Build a diffusion transformer for samples with ``channels`` channels: clips if ``video``, else images.

    Conditions have ``extra_channels`` channels, and tokens of ``token_width`` dimensions. A patch of ``patch_size`` x
    ``patch_size`` latent pixels is a token of ``heads`` x ``head_width`` dimensions. Networks of clips have ``layers``
    spatial and ``layers`` temporal blocks. ``sample_size`` scales position embeddings. ``dropout`` is a probability.
    """
    from diffusers import LatteTransformer3DModel, PixArtTransformer2DModel

    sizes = {"layers": layers, "heads": heads, "head_width": head_width}
    for key, value in {**sizes, "patch_size": patch_size, "sample_size": sample_size}.items():
        validation.whole_number(f"denoiser.{key}", value)
    validation.number("denoiser.dropout", dropout, 0, below=1)
    width = heads * head_width
    if width % 4:
        problem = f"denoiser.heads={heads} times denoiser.head_width={head_width} is {width}"
        raise UserError(f"{problem}: give a multiple of 4, which position embeddings need")
    arguments: dict[str, Any] = {
        "num_attention_heads": heads,
        "attention_head_dim": head_width,
        "in_channels": channels + extra_channels,
        "out_channels": channels,
        "num_layers": layers,
        "cross_attention_dim": width,
        "caption_channels": token_width,
        "sample_size": sample_size,
        "patch_size": patch_size,
        "attention_bias": True,
        "activation_fn": "gelu-approximate",
        "num_embeds_ada_norm": 1000,
        "norm_type": "ada_norm_single",
        "norm_elementwise_affine": False,
        "norm_eps": 1e-6,
        "dropout": float(dropout),
    }
    if video:
        return VideoTransformer(LatteTransformer3DModel(**arguments))
    return ImageTransformer(PixArtTransformer2DModel(**arguments, use_additional_conditions=False))
