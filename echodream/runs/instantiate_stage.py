"""Function of a stage, and its arguments: the settings that are named in the signature of the function."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from echodream.config.stage_signature import parameter_hints
from echodream.errors import UserError
from echodream.runs.summary import Summary


@dataclass(frozen=True)
class StageCall:
    """Function of a stage and its arguments. The function is imported by ``instantiate``."""

    target: str
    """Import path of the function."""
    type_hints: Mapping[str, str]
    """Type hint of each parameter; ``InputPath`` and ``OutputPath`` mark the paths that the stage reads and writes."""
    arguments: Mapping[str, Any]
    key: str = "stage"
    """Configuration key of the stage in error messages: "stage" or "then"."""

    @property
    def name(self) -> str:
        """Name of the stage, the value of stage=."""
        return self.target.split(".")[-2]

    @property
    def dst(self) -> Path:
        """Output folder of the stage."""
        return Path(self.arguments["dst"])

    def inputs(self) -> list[Path]:
        """Files and folders that the stage reads; some may not exist."""
        paths: list[str] = []
        for name, hint in self.type_hints.items():
            if "InputPath" in hint:
                paths += _collect_strings(self.arguments.get(name))
            elif "ExtractorPath" in hint:
                paths += [text.partition(":")[2] for text in _collect_strings(self.arguments.get(name))]
        return [Path(path) for path in paths if path]

    def settings(self) -> dict[str, Any]:
        """All arguments except the output folders."""
        names = [name for name in self.arguments if "OutputPath" not in self.type_hints.get(name, "")]
        return {name: self.arguments[name] for name in names}

    def instantiate(self) -> Callable[..., Summary]:
        """Import the function and bind its instantiated arguments. Raises ``UserError`` for unknown arguments."""
        if unknown := sorted(set(self.arguments) - set(self.type_hints)):
            raise UserError(f"unknown key '{self.key}.{unknown[0]}'; {self.key} has {', '.join(self.type_hints)}")
        node = {"_target_": self.target, "_partial_": True, "_convert_": "all", **self.arguments}
        return instantiate(OmegaConf.create({self.key: node})[self.key])


def stage_call(cfg: DictConfig, key: str = "stage") -> StageCall:
    """Stage ``cfg[key]`` with its arguments from ``cfg[key]``, or else from the top level of ``cfg``.

    A mapping without ``_target_`` in ``cfg[key]`` is merged into the top-level mapping of the same name. For example,
    +stage.look.seconds=3 keeps the other keys of ``look``. Raises ``UserError`` for an unknown key in the mapping.
    """
    arguments = _to_container(cfg[key])
    target = str(arguments.pop("_target_"))
    hints = parameter_hints(target)
    top_level = {name: _to_container(cfg[name]) for name in hints if name in cfg}
    for name in top_level.keys() & arguments.keys():
        defaults, overrides = top_level[name], arguments[name]
        if isinstance(defaults, Mapping) and isinstance(overrides, Mapping) and "_target_" not in overrides:
            unknown = [entry for entry in overrides if entry not in defaults]
            if unknown and name != "guidance" and "_target_" not in defaults:
                raise UserError(f"unknown key '{key}.{name}.{unknown[0]}'; {name} has {', '.join(defaults)}")
            arguments[name] = OmegaConf.to_container(OmegaConf.merge(defaults, overrides))
    return StageCall(target, hints, {**top_level, **arguments}, key)


def _to_container(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _collect_strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    entries = value.values() if isinstance(value, Mapping) else value if isinstance(value, Sequence) else ()
    return [text for entry in entries for text in _collect_strings(entry)]
