"""Steps of the studies in launch/, run in the test process, so that tests use the same commands as users."""

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import yaml
from hydra.core.global_hydra import GlobalHydra

from echodream import cli

LAUNCH = Path(__file__).resolve().parents[2] / "launch"


@dataclass(frozen=True)
class Line:
    """A command such as ``python train.py model=vae``: the program without .py, and the overrides."""

    program: str
    overrides: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join(["python", f"{self.program}.py", *self.overrides])

    @property
    def what(self) -> str:
        """Name of the model that is trained, or of the stage that is run."""
        return self.value("model" if self.program == "train" else "stage") or ""

    def value(self, key: str) -> str | None:
        """Value of the override of ``key``, or None."""
        said = [override.partition("=")[2] for override in self.overrides if _key(override) == key]
        return said[-1] if said else None

    def run(self, *overrides: str) -> None:
        """Run the command in the working directory; ``overrides`` replace the overrides of the same keys."""
        replaced = {_key(override) for override in overrides}
        kept = [override for override in self.overrides if _key(override) not in replaced]
        GlobalHydra.instance().clear()
        with mock.patch.object(sys, "argv", [f"{self.program}.py", *kept, *overrides]):
            try:
                getattr(cli, self.program)()
            except SystemExit as stopped:
                raise AssertionError(f"{self} exited with {stopped.code}") from None


def _pipeline() -> ModuleType:
    spec = importlib.util.spec_from_file_location("launch_pipeline", LAUNCH / "pipeline.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


pipeline = _pipeline()


def settings(study: str, **keys: str) -> dict[str, Any]:
    """Settings in the yaml file of ``study``; ``keys`` replace values, as on the command line."""
    found: dict[str, Any] = yaml.safe_load((LAUNCH / "studies" / f"{study}.yaml").read_text())
    return {**found, **keys}


def steps(study: str, **keys: str) -> Sequence[Any]:
    """The steps of ``study``, in their order."""
    found: Sequence[Any] = pipeline.steps(settings(study, **keys))
    return found


def lines(study: str, **keys: str) -> list[Line]:
    """The command of each step of ``study``, in their order."""
    return [Line(step.program, step.overrides) for step in steps(study, **keys)]


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")
