"""U-Nets of diffusers as denoisers of images and clips."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pixel_shuffle, pixel_unshuffle

from echodream import validation
from echodream.errors import UserError
from echodream.networks.denoisers.base import Denoiser


class _UNet(Denoiser):
    network_name = "unet"
    unsupported_settings = (
        *("class_embed_type", "num_class_embeds", "addition_embed_type"),
        *("encoder_hid_dim_type", "time_cond_proj_dim"),
    )

    @property
    def time_embedding(self) -> Any:
        return self.network.time_embedding

    @property
    def size_multiple(self) -> int:
        return int(self.patch_side * 2 ** (len(self.network.config.block_out_channels) - 1))

    @property
    def patch_side(self) -> int:
        """Side p of the patches: p x p latent pixels with C channels become one pixel with p^2 * C channels."""
        return int(self.network.config.get("latent_patch") or 1)

    @property
    def channels(self) -> int:
        return super().channels // self.patch_side**2

    @property
    def extra_channels(self) -> int:
        return int(self.network.config.in_channels) // self.patch_side**2 - self.channels

    @property
    def token_width(self) -> int:
        width = self.network.config.cross_attention_dim
        return int(width if isinstance(width, int) else width[0])


class ImageUNet(_UNet):
    """Denoiser of images, (B, C, H, W): UNet2DConditionModel."""

    network_class = "UNet2DConditionModel"
    is_video = False

    def predict(self, x: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        output = self.network(pixel_unshuffle(x, self.patch_side), t, encoder_hidden_states=tokens).sample
        return pixel_shuffle(output, self.patch_side)


class UnconditionalImageUNet(_UNet):
    """Denoiser of images, (B, C, H, W), without conditions: UNet2DModel."""

    network_class = "UNet2DModel"
    is_video = False
    takes_tokens = False

    def predict(self, x: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        return pixel_shuffle(self.network(pixel_unshuffle(x, self.patch_side), t).sample, self.patch_side)


class _TemporalConvolution(nn.Conv3d):
    """3 x 1 x 1 convolution over frames, computed as a 2D convolution over (frames, pixels), which is faster."""

    def forward(self, x: Tensor) -> Tensor:
        flat = conv2d(x.flatten(3), self.weight[..., 0], self.bias, padding=(1, 0))  # (B, C, F, H * W)
        return flat.unflatten(3, x.shape[3:])


class VideoUNet(_UNet):
    """Denoiser of clips of any length, (B, C, F, H, W): UNetSpatioTemporalConditionModel with zero time ids."""

    network_class = "UNetSpatioTemporalConditionModel"
    is_video = True

    def __init__(self, network: Any) -> None:
        super().__init__(network)
        for module in network.modules():
            if type(module) is nn.Conv3d and (module.kernel_size, module.padding) == ((3, 1, 1), (1, 0, 0)):
                module.__class__ = _TemporalConvolution

    def predict(self, x: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        config = self.network.config
        ids = config.projection_class_embeddings_input_dim // config.addition_time_embed_dim
        frames_first = pixel_unshuffle(x.transpose(1, 2), self.patch_side)  # (B, F, C, H, W)
        zeros = torch.zeros(len(x), ids, dtype=x.dtype, device=x.device)
        output = self.network(frames_first, t, tokens, added_time_ids=zeros).sample
        return pixel_shuffle(output, self.patch_side).transpose(1, 2)


_IMAGE_BLOCKS = {
    "none": ("DownBlock2D", "UpBlock2D"),
    "self": ("AttnDownBlock2D", "AttnUpBlock2D"),
    "cross": ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D"),
}
_VIDEO_BLOCKS = {
    "none": ("DownBlockSpatioTemporal", "UpBlockSpatioTemporal"),
    "cross": ("CrossAttnDownBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
}
_HEAD_DIMENSION = 8
_VIDEO_NORM_GROUPS = 32
"""Number of groups of GroupNorm in the spatio-temporal blocks of diffusers."""


def build_unet(
    channels: int,
    extra_channels: int,
    token_width: int,
    video: bool,
    widths: Sequence[int],
    layers: int,
    attention: Sequence[str],
    heads: int | Sequence[int] = 8,
    groups: int = 32,
    patch: int = 1,
    dropout: float = 0.0,
) -> ImageUNet | VideoUNet:
    """Build a U-Net for images or, with ``video``, for clips.

    Samples have ``channels`` channels, conditions ``extra_channels``, and tokens ``token_width`` dimensions. ``widths``
    are the numbers of channels of the levels. ``attention`` is a type of attention for each level: "none", "self" (over
    pixels, images only), or "cross" (over pixels, frames and tokens). The middle block has "cross" attention. ``heads``
    is the number of attention heads of all levels, or a list with one number per level. For "self" attention, ``heads``
    is the dimension of a head (attention_head_dim of diffusers). ``groups`` is the number of groups of GroupNorm
    (images only). With ``patch`` p, patches of p x p latent pixels become one pixel with p^2 times the channels, which
    reduces computation. ``dropout`` is the dropout probability of residual blocks in training (images only).
    """
    from diffusers import UNet2DConditionModel, UNetSpatioTemporalConditionModel

    for key, value in (("widths", widths), ("attention", attention)):
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            validation.refuse(f"denoiser.{key}", value, "give a list with an entry for each level")
    for width in widths:
        validation.whole_number("denoiser.widths", width)
    for key, number in (("layers", layers), ("groups", groups), ("patch", patch)):
        validation.whole_number(f"denoiser.{key}", number)
    if validation.number("denoiser.dropout", dropout, 0, below=1) and video:
        raise UserError(f"denoiser.dropout={dropout}: the U-Net for clips has no dropout; give denoiser.dropout=0")
    blocks = _VIDEO_BLOCKS if video else _IMAGE_BLOCKS
    if len(attention) != len(widths) or any(kind not in blocks for kind in attention):
        remedy = f"give one of {', '.join(blocks)} for each of denoiser.widths={list(widths)}"
        raise UserError(f"denoiser.attention is {list(attention)}: {remedy}")
    divisor, name = (_VIDEO_NORM_GROUPS, "the groups of GroupNorm,") if video else (groups, "denoiser.groups")
    if any(width % divisor for width in widths):
        raise UserError(f"denoiser.widths is {list(widths)}: give multiples of {name} {divisor}")
    heads_per_level = [heads] * len(widths) if isinstance(heads, int) else list(heads)
    kinds = [*attention[:-1], "cross"]  # the middle block has "cross" attention with the heads of the last level
    if len(heads_per_level) != len(widths) or any(
        count < 1 or (kind != "none" and width % count)
        for width, count, kind in zip(widths, heads_per_level, kinds, strict=True)
    ):
        raise UserError(f"denoiser.heads is {heads}: give a divisor of each of denoiser.widths={list(widths)}")
    arguments: dict[str, Any] = {
        "in_channels": (channels + extra_channels) * patch**2,
        "out_channels": channels * patch**2,
        "down_block_types": tuple(blocks[kind][0] for kind in attention),
        "up_block_types": tuple(blocks[kind][1] for kind in reversed(attention)),
        "block_out_channels": tuple(widths),
        "layers_per_block": layers,
        "cross_attention_dim": token_width,
    }
    head_counts = heads if isinstance(heads, int) else tuple(heads)
    network: Any
    if video:
        time_ids = {"addition_time_embed_dim": 1, "projection_class_embeddings_input_dim": 1}
        network = UNetSpatioTemporalConditionModel(**arguments, num_attention_heads=head_counts, **time_ids)
    else:
        image_arguments = {"attention_head_dim": head_counts, "norm_num_groups": groups, "dropout": float(dropout)}
        network = UNet2DConditionModel(**arguments, **image_arguments)
    network.register_to_config(latent_patch=patch)
    return VideoUNet(network) if video else ImageUNet(network)


def build_unconditional_unet(
    channels: int,
    extra_channels: int,
    token_width: int,
    video: bool,
    widths: Sequence[int],
    layers: int,
    attention: Sequence[str],
    heads: int | Sequence[int] = 8,
    groups: int = 32,
    patch: int = 1,
    dropout: float = 0.0,
) -> UnconditionalImageUNet:
    """Build a U-Net for images without conditions, the LIDM of EchoNet-Synthetic.

    The settings are those of ``build_unet``. Because there are no tokens, "self" attention replaces "cross" attention.
    If ``heads`` is a list, each head has dimension 8.
    """
    from diffusers import UNet2DModel

    with torch.device("meta"):
        sizes = (widths, layers, attention, heads, groups, patch)
        build_unet(channels, extra_channels, token_width, video, *sizes, dropout)
    if video:
        raise UserError("denoiser: a U-Net without conditions is for images; use it with model=lidm")
    kinds = ["none" if kind == "none" else "self" for kind in attention]
    network: Any = UNet2DModel(
        in_channels=(channels + extra_channels) * patch**2,
        out_channels=channels * patch**2,
        down_block_types=tuple(_IMAGE_BLOCKS[kind][0] for kind in kinds),
        up_block_types=tuple(_IMAGE_BLOCKS[kind][1] for kind in reversed(kinds)),
        block_out_channels=tuple(widths),
        layers_per_block=layers,
        attention_head_dim=heads if isinstance(heads, int) else _HEAD_DIMENSION,
        norm_num_groups=groups,
        dropout=float(dropout),
    )
    network.register_to_config(latent_patch=patch)
    return UnconditionalImageUNet(network)
