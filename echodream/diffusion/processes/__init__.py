"""Registry of the noise processes, by their name in diffusion.json of an artifact."""

from collections.abc import Mapping
from typing import Any

from echodream import validation
from echodream.diffusion.few_steps import FewStepConfig
from echodream.diffusion.processes.base import Process
from echodream.diffusion.processes.ddpm import DDPM
from echodream.diffusion.processes.rectified_flow import RectifiedFlow
from echodream.errors import UserError

PROCESSES: dict[str, type[Process]] = {process.name: process for process in (DDPM, RectifiedFlow)}


def build_process(settings: Mapping[str, Any]) -> Process:
    """Build the process with ``settings`` (``Process.settings``). Raises ``UserError`` for invalid settings."""
    arguments = dict(settings)
    name: Any = arguments.pop("name", None)
    validation.one_of("process.name", name, PROCESSES)
    try:
        return PROCESSES[name](**arguments)
    except TypeError as error:
        raise UserError(f"the settings of process {name} are invalid ({error}): train the model again") from error


def read_process(settings: Mapping[str, Any]) -> Process:
    """The process of a model with ``settings`` (diffusion.json). Raises ``UserError``, or ``KeyError``."""
    process = build_process(settings["process"])
    if "few_steps" in settings:
        process.few_steps = FewStepConfig.from_settings(settings["few_steps"])
    return process
