"""diffusers' AutoencoderKL: built, or loaded from published weights of either layout."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from echodream.errors import UserError
from echodream.store import Store
from echodream.weights import load_exactly, mismatch, read_weights

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


def build(
    channels: int, widths: Sequence[int], layers: int = 2, latent: int = 4, groups: int = 32, weights: str | None = None
) -> "AutoencoderKL":
    """An autoencoder that reduces height and width by 2 at every level but the last.

    Images are (B, ``channels``, H, W), latents (B, ``latent``, h, w). With ``weights``, a diffusers folder or a CompVis
    .ckpt, the weights are loaded; a diffusers folder brings its own architecture.
    """
    from diffusers import AutoencoderKL

    if weights is not None and not Path(weights).exists():
        raise UserError(f"vae.weights={weights} does not exist: give a diffusers folder or a CompVis .ckpt file")
    if weights is not None and Path(weights).is_dir():
        network = load_folder(weights)
        if network.config.in_channels != channels:
            raise UserError(
                f"vae.weights={weights} takes {network.config.in_channels} channels, and vae.channels is {channels}: "
                "choose another vae=, or other weights"
            )
        return network
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
    return network


def load_folder(folder: str | Path) -> "AutoencoderKL":
    """Load a folder as diffusers saves it: ``config.json`` and ``diffusion_pytorch_model`` as safetensors or .bin.

    Raises ``UserError`` naming missing and extra weights, or a pickle that would run code.
    """
    from diffusers import AutoencoderKL

    folder = Path(folder)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise TypeError("it is not a JSON object")
        network = AutoencoderKL.from_config(config)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{folder}/config.json is not an AutoencoderKL's: {' '.join(str(error).split())}") from error
    files = [folder / f"diffusion_pytorch_model{suffix}" for suffix in (".safetensors", ".bin")]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise UserError(f"{folder} has no diffusion_pytorch_model.safetensors or .bin: it is not a diffusers folder")
    state = {_current_name(name): value for name, value in read_weights(str(file)).items()}
    load_exactly(network, state, str(file))
    return network.eval()


def load_frozen(folder: str | Path) -> "AutoencoderKL":
    """``load_folder``, for a network that is used and not trained: without gradients, and channels last in memory."""
    return load_folder(folder).requires_grad_(False).to(memory_format=torch.channels_last)


def factor(network: "AutoencoderKL") -> int:
    """By how much height and width are reduced."""
    return 2 ** (len(network.config.block_out_channels) - 1)


def check_frames(store: Store, channels: int, scale: int) -> None:
    """Raise ``UserError`` unless the videos of ``store`` have ``channels`` and sides divisible by ``scale``."""
    if store.dataset.channels != channels:
        raise UserError(
            f"{store.root} has {store.dataset.channels} channels, this vae takes {channels}: ingest with "
            f"data.grey={'true' if channels == 1 else 'false'}, or choose another vae"
        )
    for name, height, width in store.table[["FileName", "FrameHeight", "FrameWidth"]].itertuples(index=False):
        if height % scale or width % scale:
            raise UserError(
                f"{store.root}: {name} is {width}x{height}, not divisible by {scale}: ingest with another data.size"
            )


_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def _current_name(name: str) -> str:
    """The name that a weight of attention has had since diffusers 0.17; any other name as it is."""
    return re.sub(
        r"(?<=attentions\.0\.)(query|key|value|proj_attn)(?=\.)", lambda found: _OLD_ATTENTION[found[1]], name
    )


def _load_compvis(network: "AutoencoderKL", path: str) -> None:
    """Load a CompVis checkpoint: the keys of losses and of the discriminator are ignored, all others must match."""
    state = read_weights(path)
    given = {name: value for name, value in state.items() if not name.startswith(("loss.", "model_ema."))}
    names = compvis_names(network)
    if names.keys() != given.keys():
        raise UserError(mismatch(path, sorted(names.keys() - given.keys()), sorted(given.keys() - names.keys())))
    load_exactly(network, {own: _linear(own, given[name], network.state_dict()) for name, own in names.items()}, path)


def compvis_names(network: "AutoencoderKL") -> dict[str, str]:
    """CompVis' name of each weight of ``network``, with diffusers' name for it."""
    last = len(network.config.block_out_channels) - 1
    return {_compvis_name(name, last): name for name in network.state_dict()}


def _compvis_name(name: str, last: int) -> str:
    name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d+)\.resnets", lambda found: f"up.{last - int(found[1])}.block", name)
    name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda found: f"up.{last - int(found[1])}.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d+)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    name = re.sub(
        r"mid_block\.attentions\.0\.(group_norm|to_out\.0|to_[qkv])",
        lambda found: f"mid.attn_1.{_ATTENTION[found[1]]}",
        name,
    )
    return name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")


def _linear(name: str, value: Tensor, own: Mapping[str, Tensor]) -> Tensor:
    """A 1x1 convolution, (D, C, 1, 1), as the linear layer, (D, C), that it is in diffusers."""
    return value[:, :, 0, 0] if value.ndim == 4 and own[name].ndim == 2 and value.shape[2:] == (1, 1) else value
