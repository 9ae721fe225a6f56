"""A stage's function with its arguments: the settings of the configuration that the function's signature names."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from echodream.config.stage_signature import parameter_hints
from echodream.errors import UserError

if TYPE_CHECKING:
    from echodream.runs.summary import Summary


@dataclass(frozen=True)
class StageCall:
    """A stage with its arguments. Its function is not imported before ``instantiate``."""

    target: str
    """The import path of the function."""
    hints: Mapping[str, str]
    """The type hint of each parameter, which says what is a path that the stage reads or writes."""
    arguments: Mapping[str, Any]
    key: str = "stage"
    """Where the configuration names the stage; for error messages."""

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
        paths = []
        for name, hint in self.hints.items():
            if "InputPath" in hint:
                paths += list(_strings(self.arguments.get(name)))
            elif "ExtractorPath" in hint:
                paths += [text.partition(":")[2] for text in _strings(self.arguments.get(name))]
        return [Path(path) for path in paths if path]

    def settings(self) -> dict[str, Any]:
        """All arguments except the folders that the stage writes."""
        written = [name for name, hint in self.hints.items() if "OutputPath" in hint]
        return {name: value for name, value in self.arguments.items() if name not in written}

    def instantiate(self) -> "Callable[..., Summary]":
        """The function with its arguments; objects among them are built. Raises ``UserError`` for unknown arguments."""
        if unknown := sorted(set(self.arguments) - set(self.hints)):
            raise UserError(f"unknown key '{self.key}.{unknown[0]}'; {self.key} has {', '.join(self.hints)}")
        node = {"_target_": self.target, "_partial_": True, "_convert_": "all", **self.arguments}
        stage: partial[Summary] = instantiate(OmegaConf.create({self.key: node})[self.key])
        return stage


def stage_call(cfg: DictConfig, key: str = "stage") -> StageCall:
    """The stage that ``cfg`` names under ``key``, with the arguments that stand there and those that ``cfg`` has."""
    target = str(cfg[key]["_target_"])
    hints = parameter_hints(target)
    arguments = {name: _plain(cfg[name]) for name in hints if name in cfg}
    arguments |= {str(name): _plain(value) for name, value in cfg[key].items() if name != "_target_"}
    return StageCall(target, hints, arguments, key)


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _strings(value: Any) -> Iterator[str]:
    """Every string in ``value``, a nested structure of mappings and sequences."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from _strings(entry)
    elif isinstance(value, Sequence):
        for entry in value:
            yield from _strings(entry)
