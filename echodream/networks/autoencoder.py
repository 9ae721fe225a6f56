"""diffusers' AutoencoderKL: built, or loaded from published weights of either layout."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

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
                f"vae.weights={weights} takes {network.config.in_channels} channels, vae.channels={channels}"
            )
        return network
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
        network = AutoencoderKL.from_config(config)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder}/config.json is not an AutoencoderKL's: {' '.join(str(error).split())}") from error
    files = [folder / f"diffusion_pytorch_model{suffix}" for suffix in (".safetensors", ".bin")]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise UserError(f"{folder} has no diffusion_pytorch_model.safetensors or .bin: it is not a diffusers folder")
    state = read_weights(str(file))
    if any(".attentions.0.query." in name for name in state):  # names of diffusers before 0.12
        network._convert_deprecated_attention_blocks(state)
    load_exactly(network, state, str(file))
    return network.eval()


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


def _load_compvis(network: "AutoencoderKL", path: str) -> None:
    """Load a CompVis checkpoint: the keys of losses and of the discriminator are ignored, all others must match."""
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    state = read_weights(path)
    wanted = {name: value for name, value in state.items() if not name.startswith(("loss.", "model_ema."))}
    converted = convert_ldm_vae_checkpoint(dict(wanted), network.config)
    used = {value.data_ptr() for value in converted.values()}
    if extra := [name for name, value in wanted.items() if value.data_ptr() not in used]:
        raise UserError(mismatch(path, (), extra))
    load_exactly(network, converted, path)
