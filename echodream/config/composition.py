"""Composition of the configuration of a command in this process, without ``hydra.main``."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from echodream.config.aliases import quote_value
from echodream.config.choices import group_choices, join_names
from echodream.config.error_messages import error_sentence
from echodream.config.help import put_options_first
from echodream.config.own_studies import check_own_study
from echodream.config.paths import CONF_DIR
from echodream.errors import UserError

_GLOBAL_STATE = (GlobalHydra, HydraConfig, VersionBase)
"""Singletons of hydra that a composition changes."""
_COMMAND_LINE_GROUPS = ("launcher", "hparams_search")


@contextmanager
def composed_command(program: str, arguments: Sequence[str]) -> Iterator[DictConfig]:
    """Context manager that yields the configuration of ``program``.py ("train" or "sample") with ``arguments``.

    Errors of the configuration are raised as ``UserError``. At the end of the block, the previous global state of
    hydra is restored.
    """
    with _global_hydra_state():
        try:
            check_own_study(arguments)
            yield _compose(program, _hydra_overrides(put_options_first(arguments)))
        except UserError:
            raise
        except Exception as error:
            sentence = error_sentence(error, program, arguments)
            if sentence is None:
                raise
            raise UserError(sentence) from error


@contextmanager
def _global_hydra_state() -> Iterator[None]:
    """Use a new global state of hydra in the block, and restore the previous state at the end of the block."""
    instances = Singleton._instances
    before = {kind: instances.pop(kind) for kind in _GLOBAL_STATE if kind in instances}
    try:
        yield
    finally:
        for kind in _GLOBAL_STATE:
            instances.pop(kind, None)
        instances.update(before)  # type: ignore[arg-type]


def _hydra_overrides(arguments: Sequence[str]) -> list[str]:
    """Hydra overrides in ``arguments``; --config-dir becomes hydra.searchpath, and other options are refused."""
    overrides, folders = [], []
    for before, argument in pairwise(["", *arguments]):
        option, _, value = argument.partition("=")
        if before in ("--config-dir", "-cd"):
            folders.append(argument)
        elif option in ("--config-dir", "-cd"):
            folders += [value] if value else []
        elif argument.startswith("-"):
            raise UserError(f"{argument} is an option of the command line only: leave it out")
        else:
            overrides.append(argument)
    if missing := [folder for folder in folders if not Path(folder).is_dir()]:
        raise UserError(f"--config-dir {missing[0]} does not exist: give a folder with your own studies")
    paths = ",".join(quote_value(f"file://{Path(folder).absolute()}") for folder in folders)
    return [*overrides, *([f"hydra.searchpath=[{paths}]"] if paths else [])]


def _compose(program: str, overrides: list[str]) -> DictConfig:
    """The composed configuration without hydra's own part, which becomes ``HydraConfig`` as in ``hydra.main``."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3", job_name=program):
        cfg = compose(program, overrides, return_hydra_config=True)
    for group in _COMMAND_LINE_GROUPS:
        if (choice := cfg.hydra.runtime.choices.get(group)) is not None:
            raise UserError(f"{group}={choice} starts other processes: give it on the command line of {program}.py")
    with read_write(cfg.hydra.runtime), open_dict(cfg.hydra.runtime):
        cfg.hydra.runtime.output_dir = str(Path(cfg.hydra.run.dir).absolute())
    HydraConfig.instance().set_config(cfg)
    task = copy.deepcopy(cfg)
    with read_write(task), open_dict(task):
        del task["hydra"]
    OmegaConf.set_struct(task, True)
    return task


def study_arguments() -> list[str]:
    """Arguments of the current command that select the study and the size of its models, for another command.

    The arguments are ``data=``, ``preset=``, ``experiment=``, overrides ``data.*=`` and ``--config-dir``. Raises
    ``UserError`` if ``data=`` is missing.
    """
    current = HydraConfig.get()
    choices = current.runtime.choices
    if choices.get("data") is None:
        raise UserError(f"data= is needed here: choose one of {join_names(group_choices('data'))}")
    chosen = [
        f"{group}={choices[group]}" for group in ("data", "preset", "experiment") if choices.get(group) is not None
    ]
    overrides = [text for text in current.overrides.task if text.lstrip("+~").startswith("data.")]
    return [*chosen, *overrides, *(part for folder in user_config_folders() for part in ("--config-dir", folder))]


def user_config_folders() -> list[str]:
    """Absolute paths of the user's folders with configurations, from --config-dir or hydra.searchpath."""
    sources = [source for source in HydraConfig.get().runtime.config_sources if source.schema == "file"]
    return [source.path for source in sources if Path(source.path) != CONF_DIR]
