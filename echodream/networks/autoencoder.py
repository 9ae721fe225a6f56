"""Construction of the autoencoder, an AutoencoderKL of diffusers, and loading of diffusers and CompVis weights."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from echodream import validation
from echodream.errors import UserError
from echodream.networks.decoder_noise import (
    NOISE_CHANNELS_KEY,
    NOISE_CORRELATION_KEY,
    OLD_NOISE_KEY,
    STATIC_SHARE_KEY,
    add_decoder_noise,
    decoder_noise,
    set_noise_correlation,
)
from echodream.store import Store
from echodream.weights import diffusers_weights_file, load_strictly, mismatch_message, read_weights

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


def build_autoencoder(
    channels: int,
    widths: Sequence[int],
    layers: int = 2,
    latent: int = 4,
    groups: int = 32,
    noise: int = 0,
    weights: str | None = None,
) -> "AutoencoderKL":
    """Build an AutoencoderKL. Each level of the encoder except the last halves height and width.

    Frames are (B, ``channels``, H, W), latents (B, ``latent``, h, w). ``noise`` is the number of noise maps from which
    the decoder generates speckle (``DecoderNoise``); 0 disables speckle. ``weights`` is a diffusers folder, which also
    defines the architecture, or a CompVis .ckpt file. Raises ``UserError`` if ``weights`` do not match the settings.
    """
    from diffusers import AutoencoderKL

    if weights is not None and not Path(weights).exists():
        raise UserError(f"vae.weights={weights} does not exist: give a diffusers folder or a CompVis .ckpt file")
    if weights is not None and Path(weights).is_dir():
        network = load_autoencoder(weights)
        if (expected := network.config.in_channels) != channels:
            problem = f"vae.weights={weights} takes {expected} channels, and vae.channels is {channels}"
            raise UserError(f"{problem}: choose another vae=, or other weights")
    elif not widths or any(width % groups for width in widths):
        raise UserError(f"vae.widths is {list(widths)}: give multiples of vae.groups={groups}")
    else:
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
            _load_compvis_weights(network, weights)
    validation.whole_number("vae.noise", noise, 0)
    return add_decoder_noise(network, noise) if noise and decoder_noise(network) is None else network


def load_autoencoder(folder: str | Path) -> "AutoencoderKL":
    """Load an AutoencoderKL from a diffusers folder. Raises ``UserError`` if the files are unsuitable or unsafe."""
    from diffusers import AutoencoderKL

    folder = Path(folder)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise TypeError("it is not a JSON object")
        channels, correlation = config.pop(NOISE_CHANNELS_KEY, None), config.pop(NOISE_CORRELATION_KEY, None)
        has_static_share = config.pop(STATIC_SHARE_KEY, False)
        if config.pop(OLD_NOISE_KEY, False):
            raise UserError(f"{folder} has the decoder noise of an earlier version: train the vae again")
        network = AutoencoderKL.from_config(config)
        if channels is not None:
            add_decoder_noise(network, channels, has_static_share)
        if correlation is not None:
            set_noise_correlation(network, correlation)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{folder}/config.json describes no AutoencoderKL: {reason}; give another folder") from error
    file = diffusers_weights_file(folder)
    old_name = r"(?<=attentions\.0\.)(query|key|value|proj_attn)(?=\.)"
    state = {
        re.sub(old_name, lambda match: _CURRENT_ATTENTION_NAMES[match[1]], name): value
        for name, value in read_weights(file).items()
    }
    load_strictly(network, state, file)
    return network.eval()


def load_frozen_autoencoder(folder: str | Path) -> "AutoencoderKL":
    """Load the AutoencoderKL in ``folder`` for inference: without gradients, in channels-last memory format."""
    return load_autoencoder(folder).requires_grad_(False).to(memory_format=torch.channels_last)


def reconstruct(network: "AutoencoderKL", x: Tensor) -> Tensor:
    """Encode frames (B, C, H, W) in [-1, 1], and decode the posterior mean to (B, C, H, W) in [-1, 1]."""
    return network.decode(network.encode(x).latent_dist.mode()).sample.clamp(-1, 1)


def downsampling_factor(network: "AutoencoderKL") -> int:
    """Frame height divided by latent height, which equals frame width divided by latent width."""
    return 2 ** (len(network.config.block_out_channels) - 1)


def check_frame_size(store: Store, channels: int, factor: int) -> None:
    """Raise ``UserError`` unless frames have ``channels`` channels, and height and width divisible by ``factor``."""
    if store.dataset.channels != channels:
        problem = f"{store.root} has {store.dataset.channels} channels, this vae takes {channels}"
        raise UserError(f"{problem}: ingest with data.grey={str(channels == 1).lower()}, or choose another vae")
    for name, height, width in store.table[["FileName", "FrameHeight", "FrameWidth"]].itertuples(index=False):
        if height % factor or width % factor:
            problem = f"{name} is {width}x{height}, not divisible by {factor}"
            raise UserError(f"{store.root}: {problem}: ingest with another data.size")


_COMPVIS_ATTENTION_NAMES = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_CURRENT_ATTENTION_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Current name of each attention layer of diffusers, by its name before diffusers 0.17."""


def _load_compvis_weights(network: "AutoencoderKL", path: str) -> None:
    """Load a CompVis checkpoint. Weights of loss, discriminator and EMA are ignored; all others have to match."""
    state = read_weights(path)
    state = {name: value for name, value in state.items() if not name.startswith(("loss.", "model_ema."))}
    names, current = compvis_names(network), network.state_dict()
    if names.keys() != state.keys():
        missing, unknown = sorted(names.keys() - state.keys()), sorted(state.keys() - names.keys())
        raise UserError(mismatch_message(path, missing, unknown))
    renamed = {new: state[old] for old, new in names.items()}
    for name, weight in renamed.items():
        if weight.ndim == 4 and current[name].ndim == 2:  # CompVis has 1x1 convolutions instead of linear layers
            renamed[name] = weight.flatten(1)
    load_strictly(network, renamed, path)


def compvis_names(network: "AutoencoderKL") -> dict[str, str]:
    """Mapping from the CompVis name to the diffusers name of each weight of ``network``."""
    last_level = len(network.config.block_out_channels) - 1
    return {_compvis_name(name, last_level): name for name in network.state_dict()}


def _compvis_name(name: str, last_level: int) -> str:
    """CompVis name of the diffusers weight ``name``. ``last_level`` is the index of the smallest level."""
    name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d+)\.resnets", lambda match: f"up.{last_level - int(match[1])}.block", name)
    name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda match: f"up.{last_level - int(match[1])}.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d+)", lambda match: f"mid.block_{int(match[1]) + 1}", name)
    attention = r"mid_block\.attentions\.0\.(group_norm|to_out\.0|to_[qkv])"
    name = re.sub(attention, lambda match: f"mid.attn_1.{_COMPVIS_ATTENTION_NAMES[match[1]]}", name)
    return name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
