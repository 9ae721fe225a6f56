"""The autoencoder, diffusers' AutoencoderKL: build it, or load weights in the diffusers or the CompVis layout."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from echodream import validation
from echodream.errors import UserError
from echodream.networks.decoder_noise import CONFIG_KEY, add_decoder_noise, noise_levels
from echodream.store import Store
from echodream.weights import diffusers_weights_file, load_exactly, mismatch_message, read_weights

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


def build_autoencoder(
    channels: int,
    widths: Sequence[int],
    layers: int = 2,
    latent: int = 4,
    groups: int = 32,
    noise: float = 0.0,
    weights: str | None = None,
) -> "AutoencoderKL":
    """Build an autoencoder that halves height and width at every level but the last.

    Frames are (B, ``channels``, H, W), latents (B, ``latent``, h, w). ``noise`` is the initial scale of the decoder's
    noise (``DecoderNoise``; 0: none). ``weights`` is a diffusers folder, which also defines the architecture, or a
    CompVis .ckpt file. Raises ``UserError`` if settings and weights do not fit.
    """
    from diffusers import AutoencoderKL

    if weights is not None and not Path(weights).exists():
        raise UserError(f"vae.weights={weights} does not exist: give a diffusers folder or a CompVis .ckpt file")
    if weights is not None and Path(weights).is_dir():
        network = load_autoencoder(weights)
        if (expected := network.config.in_channels) != channels:
            problem = f"vae.weights={weights} takes {expected} channels, and vae.channels is {channels}"
            raise UserError(f"{problem}: choose another vae=, or other weights")
        return _with_noise(network, noise)
    if not widths or any(width % groups for width in widths):
        raise UserError(f"vae.widths is {list(widths)}, not multiples of vae.groups={groups}")
    network = AutoencoderKL(
        in_channels=channels,
        out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=tuple(widths),
        layers_per_block=layers,
        latent_channels=latent,
        norm_num_groups=groups,
        scaling_factor=1.0,
    )
    if weights is not None:
        _load_compvis(network, weights)
    return _with_noise(network, noise)


def _with_noise(network: "AutoencoderKL", scale: float) -> "AutoencoderKL":
    validation.number("vae.noise", scale, 0)
    return add_decoder_noise(network, scale) if scale and not noise_levels(network) else network


def load_autoencoder(folder: str | Path) -> "AutoencoderKL":
    """Load config.json and diffusion_pytorch_model of ``folder``. Raises ``UserError`` for other or unsafe weights."""
    from diffusers import AutoencoderKL

    folder = Path(folder)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise TypeError("it is not a JSON object")
        has_noise = config.pop(CONFIG_KEY, False)
        network = AutoencoderKL.from_config(config)
        if has_noise:
            add_decoder_noise(network, 1.0)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{folder}/config.json is not the configuration of an AutoencoderKL: {reason}") from error
    file = diffusers_weights_file(folder)
    state = {_current_diffusers_name(name): value for name, value in read_weights(file).items()}
    load_exactly(network, state, file)
    return network.eval()


def load_frozen_autoencoder(folder: str | Path) -> "AutoencoderKL":
    """Load a diffusers folder for inference: without gradients, in channels-last memory format."""
    return load_autoencoder(folder).requires_grad_(False).to(memory_format=torch.channels_last)


def reconstruct(network: "AutoencoderKL", x: Tensor) -> Tensor:
    """Decode the posterior mean of frames: (B, C, H, W) in [-1, 1] to the same shape and range."""
    y: Tensor = network.decode(network.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
    return y


def downsampling_factor(network: "AutoencoderKL") -> int:
    """Factor by which the autoencoder reduces height and width."""
    return 2 ** (len(network.config.block_out_channels) - 1)


def check_frame_size(store: Store, channels: int, factor: int) -> None:
    """Raise ``UserError`` unless videos have ``channels`` channels, and height and width divisible by ``factor``."""
    if store.dataset.channels != channels:
        problem = f"{store.root} has {store.dataset.channels} channels, this vae takes {channels}"
        grey = "true" if channels == 1 else "false"
        raise UserError(f"{problem}: ingest with data.grey={grey}, or choose another vae")
    for name, height, width in store.table[["FileName", "FrameHeight", "FrameWidth"]].itertuples(index=False):
        if height % factor or width % factor:
            problem = f"{name} is {width}x{height}, not divisible by {factor}"
            raise UserError(f"{store.root}: {problem}: ingest with another data.size")


_COMPVIS_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def _current_diffusers_name(name: str) -> str:
    """Name since diffusers 0.17 of an attention weight ``name`` of an older version; other names are unchanged."""
    pattern = r"(?<=attentions\.0\.)(query|key|value|proj_attn)(?=\.)"
    return re.sub(pattern, lambda match: _OLD_ATTENTION[match[1]], name)


def _load_compvis(network: "AutoencoderKL", path: str) -> None:
    """Load a CompVis checkpoint; its loss and discriminator weights are ignored, all others must match."""
    state = read_weights(path)
    state = {name: value for name, value in state.items() if not name.startswith(("loss.", "model_ema."))}
    names, current = compvis_names(network), network.state_dict()
    if names.keys() != state.keys():
        missing, unknown = sorted(names.keys() - state.keys()), sorted(state.keys() - names.keys())
        raise UserError(mismatch_message(path, missing, unknown))
    load_exactly(network, {new: _linear_weight(state[old], current[new]) for old, new in names.items()}, path)


def compvis_names(network: "AutoencoderKL") -> dict[str, str]:
    """Mapping from the CompVis name to the diffusers name of each weight of ``network``."""
    last = len(network.config.block_out_channels) - 1
    return {_compvis_name(name, last): name for name in network.state_dict()}


def _compvis_name(name: str, last: int) -> str:
    name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d+)\.resnets", lambda match: f"up.{last - int(match[1])}.block", name)
    name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda match: f"up.{last - int(match[1])}.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d+)", lambda match: f"mid.block_{int(match[1]) + 1}", name)
    attention = r"mid_block\.attentions\.0\.(group_norm|to_out\.0|to_[qkv])"
    name = re.sub(attention, lambda match: f"mid.attn_1.{_COMPVIS_ATTENTION[match[1]]}", name)
    return name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")


def _linear_weight(weight: Tensor, current: Tensor) -> Tensor:
    """``weight`` of a 1x1 convolution, (D, C, 1, 1), as (D, C) if ``current`` is the weight of a linear layer."""
    return weight[:, :, 0, 0] if weight.ndim == 4 and current.ndim == 2 and weight.shape[2:] == (1, 1) else weight
