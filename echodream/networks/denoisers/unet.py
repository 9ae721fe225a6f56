"""diffusers' UNets as denoisers of (B, C, *rest): padding and layout are done here and nowhere else."""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from echodream import validation
from echodream.errors import UserError
from echodream.types import Condition
from echodream.weights import load_exactly, read_weights

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel, UNetSpatioTemporalConditionModel


class Denoiser(nn.Module, ABC):
    """A UNet that is told the noise time t and a condition; what it predicts is the process's business."""

    unet: Any

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The prediction for each row, (B, C, *rest), from ``x_t`` (B, C, *rest) at times ``t`` (B,), int64 or float.

        Height and width are padded with copies of the border to what the down-samplings need, and cropped again.
        """
        count, (height, width) = len(x_t), x_t.shape[-2:]
        given = x_t if condition.channels is None else torch.cat([x_t, condition.channels.to(x_t)], dim=1)
        top, bottom = borders(height, self.factor)
        left, right = borders(width, self.factor)
        if self.factor > 1 and (bottom or right):
            around = (left, right, top, bottom) + (0, 0) * (given.ndim - 4)
            given = pad(given, around, mode="replicate")
        tokens = condition.tokens.to(x_t).expand(count, -1, -1)
        return self.predict(given, t.expand(count), tokens)[..., top : top + height, left : left + width]

    @abstractmethod
    def predict(self, x: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        """The UNet on x (B, C + E, *rest), t (B,) and tokens (B, L, D), of sides that it takes."""

    @property
    def factor(self) -> int:
        """Height and width of the UNet are multiples of this."""
        return int(2 ** (len(self.unet.config.block_out_channels) - 1))

    @property
    def channels(self) -> int:
        """Channels of a sample, C."""
        return int(self.unet.config.out_channels)

    @property
    def extra(self) -> int:
        """Channels of the condition, E."""
        return int(self.unet.config.in_channels) - self.channels

    @property
    def width(self) -> int:
        """Width of the condition's tokens, D."""
        found = self.unet.config.cross_attention_dim
        return int(found if isinstance(found, int) else found[0])

    def check(self, channels: int, extra: int, width: int) -> None:
        """Raise ``UserError`` unless samples of ``channels``, and conditions of ``extra`` and ``width``, fit."""
        for what, asked, own in (
            ("channels of a latent", channels, self.channels),
            ("channels of a reference", extra, self.extra),
            ("width of the condition's tokens", width, self.width),
        ):
            if asked != own:
                raise UserError(
                    f"the UNet has {own} for the {what}, and {asked} is asked for: choose the vae and the "
                    "conditioning= that it was trained with"
                )

    def enable_gradient_checkpointing(self) -> None:
        """Keep no activations of the blocks, and compute them again on the way back."""
        self.unet.enable_gradient_checkpointing()

    def save(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``diffusion_pytorch_model.safetensors``, as diffusers does."""
        self.unet.save_pretrained(folder)


class ImageDenoiser(Denoiser):
    """Images, (B, C, H, W), through diffusers' UNet2DConditionModel."""

    def __init__(self, unet: "UNet2DConditionModel") -> None:
        super().__init__()
        self.unet = unet

    def predict(self, x: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        return self.unet(x, t, encoder_hidden_states=tokens).sample


class VideoDenoiser(Denoiser):
    """Clips, (B, C, F, H, W) of any number of frames, through diffusers' UNetSpatioTemporalConditionModel.

    What that UNet can be told of frame rate and camera ("added time ids") is always zero.
    """

    def __init__(self, unet: "UNetSpatioTemporalConditionModel") -> None:
        super().__init__()
        self.unet = unet

    def predict(self, x: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        config = self.unet.config
        ids = config.projection_class_embeddings_input_dim // config.addition_time_embed_dim
        frames_first = x.transpose(1, 2)  # b c f h w -> b f c h w
        zeros = torch.zeros(len(x), ids, dtype=x.dtype, device=x.device)
        return self.unet(frames_first, t, tokens, added_time_ids=zeros).sample.transpose(1, 2)


def borders(size: int, factor: int) -> tuple[int, int]:
    """How much to add before and after ``size`` for the next multiple of ``factor``: nothing where it is one."""
    missing = -size % factor
    return missing // 2, missing - missing // 2


_IMAGE = {
    "none": ("DownBlock2D", "UpBlock2D"),
    "self": ("AttnDownBlock2D", "AttnUpBlock2D"),
    "cross": ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D"),
}
_VIDEO = {
    "none": ("DownBlockSpatioTemporal", "UpBlockSpatioTemporal"),
    "cross": ("CrossAttnDownBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
}
_GROUPS = 32
"""Of the group norms of diffusers' spatio-temporal blocks. A level 32 wide has groups of one channel, which take away
what t adds there: it hears of t through wider levels only."""


def build_image(
    channels: int,
    extra: int,
    width: int,
    widths: Sequence[int],
    layers: int,
    attention: Sequence[str],
    heads: int | Sequence[int] = 8,
    groups: int = 32,
) -> ImageDenoiser:
    """A denoiser of images with ``channels``, ``extra`` channels of condition and tokens of ``width``.

    ``attention`` says for each level what its blocks have: "none", "self" (among pixels), or "cross" (among pixels and
    to the condition's tokens); the middle always has "cross". ``heads`` (one number, or one for each level) counts the
    heads of "cross", and is the size of a head of "self", as diffusers takes its attention_head_dim.
    """
    from diffusers import UNet2DConditionModel

    _check_numbers(widths, layers, attention, groups)
    down, up = _blocks(_IMAGE, widths, attention)
    _check(widths, heads, attention, groups, "denoiser.groups")
    unet = UNet2DConditionModel(
        in_channels=channels + extra,
        out_channels=channels,
        down_block_types=down,
        up_block_types=up,
        block_out_channels=tuple(widths),
        layers_per_block=layers,
        cross_attention_dim=width,
        attention_head_dim=heads if isinstance(heads, int) else tuple(heads),
        norm_num_groups=groups,
    )
    return ImageDenoiser(unet)


def build_video(
    channels: int,
    extra: int,
    width: int,
    widths: Sequence[int],
    layers: int,
    attention: Sequence[str],
    heads: int | Sequence[int] = 8,
) -> VideoDenoiser:
    """A denoiser of clips with ``channels``, ``extra`` channels of condition and tokens of ``width``.

    ``attention`` says for each level what its blocks have: "none", or "cross" (among pixels, among frames, and to the
    condition's tokens, with ``heads`` heads); the middle always has "cross".
    """
    from diffusers import UNetSpatioTemporalConditionModel

    _check_numbers(widths, layers, attention)
    down, up = _blocks(_VIDEO, widths, attention)
    _check(widths, heads, attention, _GROUPS, "the groups of its norms,")
    unet = UNetSpatioTemporalConditionModel(
        in_channels=channels + extra,
        out_channels=channels,
        down_block_types=down,
        up_block_types=up,
        block_out_channels=tuple(widths),
        layers_per_block=layers,
        cross_attention_dim=width,
        num_attention_heads=heads if isinstance(heads, int) else tuple(heads),
        addition_time_embed_dim=1,
        projection_class_embeddings_input_dim=1,
    )
    return VideoDenoiser(unet)


def _check_numbers(widths: object, layers: object, attention: object, groups: object = 1) -> None:
    """Raise ``UserError`` where there is no list of widths, or of attention, or no number of layers or groups."""
    for key, value in (("widths", widths), ("attention", attention)):
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            validation.refuse(f"denoiser.{key}", value, "give a list with an entry for each level")
    numbers = [("widths", width) for width in cast(Sequence[object], widths)]
    for key, value in (*numbers, ("layers", layers), ("groups", groups)):
        validation.whole_number(f"denoiser.{key}", value)


def _blocks(
    kinds: dict[str, tuple[str, str]], widths: Sequence[int], attention: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the blocks on the way down, and on the way up. The command line calls the UNet ``denoiser``."""
    if len(attention) != len(widths) or any(kind not in kinds for kind in attention):
        raise UserError(
            f"denoiser.attention is {list(attention)}: give one of {', '.join(kinds)} for each of "
            f"denoiser.widths={list(widths)}"
        )
    return tuple(kinds[kind][0] for kind in attention), tuple(kinds[kind][1] for kind in reversed(attention))


def _check(widths: Sequence[int], heads: int | Sequence[int], attention: Sequence[str], groups: int, of: str) -> None:
    if any(width % groups for width in widths):
        raise UserError(f"denoiser.widths is {list(widths)}: give multiples of {of} {groups}")
    each = [heads] * len(widths) if isinstance(heads, int) else list(heads)
    used = [*attention[:-1], "cross"]  # the middle has the last level's heads
    if len(each) != len(widths) or any(
        head < 1 or (kind != "none" and width % head) for width, head, kind in zip(widths, each, used, strict=True)
    ):
        raise UserError(f"denoiser.heads is {heads}: give a divisor of each of denoiser.widths={list(widths)}")


def load_denoiser(folder: str | Path) -> ImageDenoiser | VideoDenoiser:
    """Load a UNet as diffusers saves it: ``config.json`` and ``diffusion_pytorch_model`` as safetensors or .bin.

    Raises ``UserError`` for another class of network, and naming missing, extra, misshapen or infinite weights.
    """
    from diffusers import UNet2DConditionModel, UNetSpatioTemporalConditionModel

    folder = Path(folder)
    kinds = {kind.__name__: kind for kind in (UNet2DConditionModel, UNetSpatioTemporalConditionModel)}
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        name = config["_class_name"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder}/config.json is not that of a diffusers UNet: give the folder of one") from error
    if name not in kinds:
        raise UserError(f"{folder}/config.json is of a {name}: give the folder of a {' or a '.join(kinds)}")
    if needs := [key for key in _NOT_GIVEN if config.get(key) is not None]:
        raise UserError(f"{folder}/config.json sets {needs[0]}, which is not supported: give another UNet")
    try:
        unet = kinds[name].from_config(config)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RuntimeError) as error:
        raise UserError(f"{folder}/config.json is not a {name}'s: {' '.join(str(error).split())}") from error
    files = [folder / f"diffusion_pytorch_model{suffix}" for suffix in (".safetensors", ".bin")]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise UserError(f"{folder} has no diffusion_pytorch_model.safetensors or .bin: it is not a diffusers folder")
    load_exactly(unet, read_weights(str(file)), str(file), "its config.json is of another network")
    return (ImageDenoiser(unet) if name == UNet2DConditionModel.__name__ else VideoDenoiser(unet)).eval()


def imported(weights: str, video: bool, channels: int, extra: int, width: int) -> ImageDenoiser | VideoDenoiser:
    """The UNet that diffusers saved to the folder ``weights``, for clips if ``video``; it goes on from its weights.

    Raises ``UserError`` unless it takes samples of ``channels`` and a condition of ``extra`` channels and ``width``.
    """
    network = load_denoiser(weights)
    if isinstance(network, VideoDenoiser) != video:
        kind, model = ("images", "lidm") if video else ("clips", "lvdm")
        raise UserError(f"denoiser.weights={weights} is a UNet of {kind}: give it to model={model}")
    network.check(channels, extra, width)
    return network.train()


_NOT_GIVEN = (
    "class_embed_type",
    "num_class_embeds",
    "addition_embed_type",
    "encoder_hid_dim_type",
    "time_cond_proj_dim",
)
"""Settings of a UNet that wants to be told what our conditions do not say."""
