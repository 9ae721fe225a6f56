"""Registry of denoisers by the class of diffusers, and loading of their folders.

To add a denoiser, add its class to ``DENOISERS`` and a file to ``conf/denoiser/``.
"""

import json
from pathlib import Path

from echodream.errors import UserError
from echodream.networks.denoisers.base import Denoiser
from echodream.networks.denoisers.dit import ImageTransformer, VideoTransformer
from echodream.networks.denoisers.unet import ImageUNet, VideoUNet
from echodream.weights import load_exactly, read_weights

DENOISERS: dict[str, type[Denoiser]] = {
    "UNet2DConditionModel": ImageUNet,
    "UNetSpatioTemporalConditionModel": VideoUNet,
    "PixArtTransformer2DModel": ImageTransformer,
    "LatteTransformer3DModel": VideoTransformer,
}
"""``_class_name`` in config.json of a diffusers folder -> denoiser class, which is built from the diffusers network."""


def load_denoiser(folder: str | Path) -> Denoiser:
    """Load a denoiser that diffusers saved: ``config.json``, and ``diffusion_pytorch_model`` as safetensors or .bin.

    Raises ``UserError`` for an unknown class of network, and for missing, extra, misshapen or non-finite weights.
    """
    import diffusers

    folder = Path(folder)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        name = config["_class_name"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder}/config.json is not that of a diffusers model: give the folder of one") from error
    if name not in DENOISERS:
        raise UserError(f"{folder}/config.json is of a {name}: give the folder of one of {', '.join(DENOISERS)}")
    denoiser = DENOISERS[name]
    if unsupported := [key for key in denoiser.unsupported_settings if config.get(key) is not None]:
        raise UserError(f"{folder}/config.json sets {unsupported[0]}, which is not supported: give another {name}")
    try:
        network = getattr(diffusers, name).from_config(config)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RuntimeError) as error:
        raise UserError(f"{folder}/config.json is not a {name}'s: {' '.join(str(error).split())}") from error
    files = [folder / f"diffusion_pytorch_model{suffix}" for suffix in (".safetensors", ".bin")]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise UserError(f"{folder} has no diffusion_pytorch_model.safetensors or .bin: it is not a diffusers folder")
    load_exactly(network, read_weights(str(file)), str(file), "its config.json is of another network")
    return denoiser(network).eval()


def import_pretrained(weights: str, video: bool, channels: int, extra_channels: int, token_width: int) -> Denoiser:
    """The denoiser that diffusers saved to the folder ``weights``, for clips if ``video``; training continues from it.

    Raises ``UserError`` unless it has these numbers of channels and this width of tokens.
    """
    denoiser = load_denoiser(weights)
    if denoiser.is_video != video:
        kind, model = ("images", "lidm") if video else ("clips", "lvdm")
        raise UserError(f"denoiser.weights={weights} is a denoiser of {kind}: give it to model={model}")
    denoiser.check(channels, extra_channels, token_width)
    return denoiser.train()


def check_registered(denoiser: Denoiser) -> None:
    """Raise ``UserError`` for a denoiser that could be trained but not be loaded afterwards."""
    name = type(denoiser.network).__name__
    if DENOISERS.get(name) is not type(denoiser):
        raise UserError(
            f"denoiser={type(denoiser).__name__} with {name} cannot be loaded after training: add it to DENOISERS in "
            "echodream/networks/denoisers/registry.py"
        )
