"""Registry of denoisers, which wrap networks of diffusers."""

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
    classes = [kind for module in modules for _, kind in inspect.getmembers(module, inspect.isclass)]
    own = [kind for kind in classes if issubclass(kind, Denoiser) and "network_class" in vars(kind)]
    found: dict[str, type[Denoiser]] = {}
    for kind in own:
        if found.setdefault(kind.network_class, kind) is not kind:
            raise TypeError(
                f"{kind.__name__} needs a network_class of its own: {found[kind.network_class].__name__} has it"
            )
    return found


DENOISERS = denoisers_by_network(denoisers)
"""Denoiser class of each diffusers network, by ``_class_name`` in config.json of a diffusers folder."""


def load_denoiser(folder: str | Path) -> Denoiser:
    """Load a network that diffusers saved. Raises ``UserError`` for an unknown class or weights that do not match."""
    import diffusers

    folder = Path(folder)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        name = config["_class_name"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder}/config.json does not describe a diffusers model: give its folder") from error
    if name not in DENOISERS:
        raise UserError(f"{folder}/config.json describes a {name}: give the folder of a {', '.join(sorted(DENOISERS))}")
    denoiser = DENOISERS[name]
    if unsupported := [key for key in denoiser.unsupported_settings if config.get(key) is not None]:
        raise UserError(f"{folder}/config.json sets {unsupported[0]}, which is not supported: give another {name}")
    try:
        patch = config.pop("latent_patch", 1)  # not a setting of diffusers
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
    """Load a denoiser to continue its training. Raises ``UserError`` if ``video``, channels or tokens differ.

    The network has the dropout of its config.json, so that another ``dropout`` than 0 is refused, too.
    """
    if dropout:
        raise UserError(f"denoiser.dropout={dropout}: an imported denoiser keeps its own; give denoiser.dropout=0")
    denoiser = load_denoiser(weights)
    if denoiser.is_video != video:
        kind, model = ("images", "lidm") if video else ("clips", "lvdm")
        raise UserError(f"denoiser.weights={weights} is a denoiser of {kind}: give it to model={model}")
    denoiser.check_dimensions(channels, extra_channels, token_width)
    return denoiser.train()


def check_registered(denoiser: Denoiser) -> None:
    """Raise ``UserError`` for a denoiser that is not in ``DENOISERS`` or not of diffusers, so it cannot be loaded."""
    import diffusers

    name = type(denoiser.network).__name__
    if getattr(diffusers, name, None) is not type(denoiser.network):
        raise UserError(f"denoiser={type(denoiser).__name__} has a network {name}, which is none of diffusers: use one")
    if DENOISERS.get(name) is not type(denoiser):
        problem = f"denoiser={type(denoiser).__name__} with {name} cannot be loaded after training"
        raise UserError(f"{problem}: write it in a file of echodream/networks/denoisers, with its network_class")
