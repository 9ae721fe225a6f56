"""Registry of denoisers: denoiser classes by their network class in diffusers, and loading of trained denoisers."""

import importlib
import inspect
import json
import pkgutil
from pathlib import Path
from types import ModuleType

from echodream.errors import UserError
from echodream.networks import denoisers
from echodream.networks.denoisers.base import Denoiser
from echodream.weights import diffusers_weights_file, load_strictly, read_weights


def denoisers_by_network(package: ModuleType) -> dict[str, type[Denoiser]]:
    """Denoiser classes in all modules of ``package``, by ``network_class``."""
    names = [f"{package.__name__}.{module.name}" for module in pkgutil.iter_modules(package.__path__)]
    modules = [importlib.import_module(name) for name in names if name != __name__]
    members = [kind for module in modules for _, kind in inspect.getmembers(module, inspect.isclass)]
    classes = [kind for kind in members if issubclass(kind, Denoiser) and "network_class" in vars(kind)]
    by_network: dict[str, type[Denoiser]] = {}
    for kind in classes:
        if (first := by_network.setdefault(kind.network_class, kind)) is not kind:
            raise TypeError(f"{kind.__name__} needs another network_class: {first.__name__} already has this one")
    return by_network


DENOISERS = denoisers_by_network(denoisers)
"""Denoiser classes, by ``_class_name`` in the config.json of a network of diffusers."""


def load_denoiser(folder: str | Path) -> Denoiser:
    """Load a denoiser that diffusers saved. Raises ``UserError`` for an unknown class or unsuitable weights."""
    import diffusers

    folder = Path(folder)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        name = config["_class_name"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder}/config.json is not of a diffusers model: give the folder of a model") from error
    if name not in DENOISERS:
        raise UserError(f"{folder}/config.json describes a {name}: give the folder of a {', '.join(sorted(DENOISERS))}")
    denoiser = DENOISERS[name]
    if unsupported := [key for key in denoiser.unsupported_settings if config.get(key) is not None]:
        raise UserError(f"{folder}/config.json sets {unsupported[0]}, which is not supported: give another {name}")
    try:
        patch = config.pop("latent_patch", 1)  # a setting of echodream, not of diffusers
        network = getattr(diffusers, name).from_config(config)
        network.register_to_config(latent_patch=patch)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RuntimeError) as error:
        raise UserError(f"{folder}/config.json does not fit a {name}: {' '.join(str(error).split())}") from error
    file = diffusers_weights_file(folder)
    load_strictly(network, read_weights(file), file, "its config.json describes another network")
    return denoiser(network).eval()


def import_pretrained(
    weights: str, video: bool, channels: int, extra_channels: int, token_width: int, dropout: float = 0.0
) -> Denoiser:
    """Load the denoiser in the folder ``weights`` to continue its training, with the dropout of its config.json.

    Raises ``UserError`` for another ``video``, number of channels or ``token_width``, or if ``dropout`` is not 0.
    """
    if dropout:
        raise UserError(f"denoiser.dropout={dropout}: an imported denoiser keeps its dropout; give denoiser.dropout=0")
    denoiser = load_denoiser(weights)
    if denoiser.is_video != video:
        kind, model = ("images", "lidm") if video else ("clips", "lvdm")
        raise UserError(f"denoiser.weights={weights} is a denoiser of {kind}: give it to model={model}")
    denoiser.check_dimensions(channels, extra_channels, token_width)
    return denoiser.train()


def check_registered(denoiser: Denoiser) -> None:
    """Raise ``UserError`` if ``load_denoiser`` could not load ``denoiser`` or its network after training."""
    import diffusers

    name = type(denoiser.network).__name__
    if getattr(diffusers, name, None) is not type(denoiser.network):
        problem = f"denoiser={type(denoiser).__name__} has a network {name}, which is not a class of diffusers"
        raise UserError(f"{problem}: use a network of diffusers")
    if DENOISERS.get(name) is not type(denoiser):
        problem = f"denoiser={type(denoiser).__name__} with {name} cannot be loaded after training"
        raise UserError(f"{problem}: write its class, with network_class, in a file of echodream/networks/denoisers")
