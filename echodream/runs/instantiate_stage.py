"""The function of a stage with its arguments: the settings of the configuration that its signature names."""

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
    """A stage with its arguments. Its function is not imported before ``instantiate``."""

    target: str
    """The import path of the function."""
    hints: Mapping[str, str]
    """Type hint of each parameter; it marks the paths that the stage reads or writes."""
    arguments: Mapping[str, Any]
    key: str = "stage"
    """Key of the stage in the configuration, "stage" or "then"; for error messages."""

    @property
    def name(self) -> str:
        """The stage, as stage= names it."""
        return self.target.split(".")[-2]

    @property
    def dst(self) -> Path:
        """The folder that the stage writes."""
        return Path(self.arguments["dst"])

    def inputs(self) -> list[Path]:
        """Files and folders that the stage reads; not all have to exist."""
        paths: list[str] = []
        for name, hint in self.hints.items():
            if "InputPath" in hint:
                paths += _collect_strings(self.arguments.get(name))
            elif "ExtractorPath" in hint:
                paths += [text.partition(":")[2] for text in _collect_strings(self.arguments.get(name))]
        return [Path(path) for path in paths if path]

    def settings(self) -> dict[str, Any]:
        """All arguments except the folders that the stage writes."""
        written = [name for name, hint in self.hints.items() if "OutputPath" in hint]
        return {name: value for name, value in self.arguments.items() if name not in written}

    def instantiate(self) -> Callable[..., Summary]:
        """The function with its arguments; objects among them are built. Raises ``UserError`` for unknown arguments."""
        if unknown := sorted(set(self.arguments) - set(self.hints)):
            raise UserError(f"unknown key '{self.key}.{unknown[0]}'; {self.key} has {', '.join(self.hints)}")
        node = {"_target_": self.target, "_partial_": True, "_convert_": "all", **self.arguments}
        return instantiate(OmegaConf.create({self.key: node})[self.key])


def stage_call(cfg: DictConfig, key: str = "stage") -> StageCall:
    """The stage that ``cfg`` names under ``key``, with the arguments of ``cfg[key]`` and the top-level keys of ``cfg``.

    If both set an argument, ``cfg[key]`` wins. A mapping without ``_target_`` is merged into the top-level one, so that
    +stage.look.seconds=3 keeps the other keys. Raises ``UserError`` for an unknown key of such a mapping.
    """
    arguments = _to_container(cfg[key])
    target = str(arguments.pop("_target_"))
    hints = parameter_hints(target)
    top_level = {name: _to_container(cfg[name]) for name in hints if name in cfg}
    for name in top_level.keys() & arguments.keys():
        whole, part = top_level[name], arguments[name]
        if isinstance(whole, Mapping) and isinstance(part, Mapping) and "_target_" not in part:
            unknown = [entry for entry in part if entry not in whole]
            if unknown and name != "guidance" and "_target_" not in whole:
                raise UserError(f"unknown key '{key}.{name}.{unknown[0]}'; {name} has {', '.join(whole)}")
            arguments[name] = OmegaConf.to_container(OmegaConf.merge(whole, part))
    return StageCall(target, hints, {**top_level, **arguments}, key)


def _to_container(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _collect_strings(value: Any) -> list[str]:
    """All strings in ``value``, a nested structure of mappings and sequences."""
    if isinstance(value, str):
        return [value]
    entries = value.values() if isinstance(value, Mapping) else value if isinstance(value, Sequence) else ()
    return [text for entry in entries for text in _collect_strings(entry)]
