"""Conversion of user errors, including errors of libraries, into one sentence on stderr and exit status 1."""

import contextlib
import errno
import functools
import inspect
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import yaml
from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from hydra.utils import get_object
from omegaconf import DictConfig, MissingMandatoryValue, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from echodream.config.aliases import quote_value
from echodream.config.choices import group_choices, is_group, join_names
from echodream.config.launchers import is_sweep_run, launcher_error_message, missing_package_message
from echodream.config.own_studies import yaml_error_message
from echodream.config.paths import CONF_DIR
from echodream.config.stage_signature import parameter_hints
from echodream.errors import UserError

_SHOW_TRACEBACKS = os.environ.get("HYDRA_FULL_ERROR") == "1" and "SUBMITIT_EXECUTOR" not in os.environ
"""Whether the user requests tracebacks. Launcher jobs inherit HYDRA_FULL_ERROR from ``_make_hydra_raise_errors``."""
_UNKNOWN_KEY = re.compile(r"Could not (?:override|append|delete).*? '([^']+)'")
_MISSING_GROUP = re.compile(r"You must specify '([^']+)'")
_WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EEXIST, errno.ENOTDIR)
_DISK_FULL = re.compile(f"{os.strerror(errno.ENOSPC)}|{os.strerror(errno.EDQUOT)}")
_LIST_GROUPS = ("conditioning", "logger")
"""Config groups whose choice is a list, which may be empty."""
_UNEXPECTED_ARGUMENT = re.compile(r"unexpected keyword argument '(\w+)'")
_FAILED_TARGET = re.compile(r"target '([\w.]+)'")
_MISSING_KEY = re.compile(r"Interpolation key '([^']+)' not found|Missing mandatory value: (\S+)")


def report_user_errors(config: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator of a command: a user error ends the command with one sentence on stderr.

    With HYDRA_FULL_ERROR=1, tracebacks are shown. Outside ``hydra.main``, the decorator handles errors of composition.
    Inside ``hydra.main``, it handles errors of the job, because hydra prints a long text about an exception that leaves
    ``hydra.main``. In a sweep, a failed run prints its error message and raises the error. Hydra then continues with
    the other runs, and the sweep fails at its end.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def run_and_report(*job: DictConfig) -> Any:
            if _SHOW_TRACEBACKS:
                return command(*job)
            try:
                with _make_hydra_raise_errors():
                    return command(*job)
            except KeyboardInterrupt:
                print("interrupted: run the same command again to resume", file=sys.stderr)
                sys.exit(130)
            except Exception as error:
                text = error_sentence(error, config, sys.argv[1:])
                if text is None:
                    raise
                print(f"error: {text}", file=sys.stderr)
                if job and is_sweep_run():
                    raise
                sys.exit(1)

        return run_and_report

    return decorate


@contextlib.contextmanager
def _make_hydra_raise_errors() -> Iterator[None]:
    previous = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        del os.environ["HYDRA_FULL_ERROR"]
        if previous is not None:
            os.environ["HYDRA_FULL_ERROR"] = previous


def error_sentence(error: BaseException, config: str, arguments: Iterable[str]) -> str | None:
    """Message about a user ``error`` in the command ``config`` with ``arguments``; None for a defect of the code."""
    for cause in _error_chain(error):
        if isinstance(cause, UserError):
            return str(cause)
        if isinstance(cause, yaml.YAMLError):
            return yaml_error_message(cause)
        if (message := launcher_error_message(cause)) is not None:
            return message
    if isinstance(error, MissingConfigException):
        return _unknown_choice_message(error)
    if isinstance(error, OverrideParseException):
        key, equals, value = error.override.partition("=")
        example = f": {shlex.quote(f'{key}={quote_value(value)}')}" if equals and value[:1] not in "[{'\"" else ""
        remedy = f"write key=value, and quote values with special characters{example}"
        return f"the override {error.override!r} cannot be read: {remedy}"
    if isinstance(error, HydraException) and (match := _MISSING_GROUP.search(str(error))):
        return f"{match[1]}= is needed: choose one of {join_names(group_choices(match[1]))}"
    if isinstance(error, HydraException) and (match := _UNKNOWN_KEY.search(str(error))):
        return _unknown_key_message(match[1], config, list(arguments), error)
    if isinstance(error, ValueError) and "Config group override must be a string or a list" in str(error):
        return _null_group_message(arguments)
    for cause in _error_chain(error):
        if isinstance(cause, InterpolationKeyError | MissingMandatoryValue):
            return _missing_key_message(cause)
    if isinstance(error, InstantiationException):
        return _wrong_argument_message(error, arguments)
    if (message := _disk_error_message(error)) is not None:
        return message
    return _one_line_message(error) if isinstance(error, HydraException | OmegaConfBaseException) else None


def _one_line_message(error: BaseException) -> str:
    return " ".join(str(error).split())


def _error_chain(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _disk_error_message(error: BaseException) -> str | None:
    disk_full = (cause for cause in _error_chain(error) if _DISK_FULL.search(str(cause)))
    cause = error if isinstance(error, OSError) and error.errno in _WRITE_ERRORS else next(disk_full, None)
    if cause is None:
        return None
    path, match = getattr(cause, "filename", None) or "the destination", _DISK_FULL.search(str(cause))
    reason = match[0] if match else getattr(cause, "strerror", "")
    return f"{path} cannot be written: {reason}; make room or choose another dst=, then run again"


def _unknown_choice_message(error: MissingConfigException) -> str:
    group, _, choice = str(error.missing_cfg_file or "").rpartition("/")
    if not group:
        return _one_line_message(error)
    if (message := missing_package_message(group)) is not None:
        return message
    if any((CONF_DIR / group.split("/")[0]).glob("*.yaml")):  # choice in a subfolder, such as denoiser=image_unet/small
        group, _, choice = str(error.missing_cfg_file).partition("/")
    options = sorted({*(error.options or ()), *group_choices(group)} - {"base"})
    return f"{group}={choice} is not known: choose one of {join_names(options, choice)}"


def _null_group_message(arguments: Iterable[str]) -> str | None:
    for argument in arguments:
        key, _, value = argument.rpartition("=")
        if value.lower() == "null" and is_group(group := key.partition("@")[0]):
            empty = ", or [] for none" if group in _LIST_GROUPS else ""
            return f"{key}=null is not possible: choose one of {join_names(group_choices(group))}{empty}"
    return None


def _unknown_key_message(key: str, config: str, arguments: list[str], error: BaseException) -> str:
    """Message about an unknown ``key`` that lists the known keys, from the configuration composed without ``key``."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    all_overrides = [argument for argument in arguments if not argument.startswith("-")]
    overrides = [override for override in all_overrides if override.split("=", 1)[0].lstrip("+~") != key]
    if len(overrides) == len(all_overrides):
        return _one_line_message(error)  # the key is in a file of conf/ or --config-dir
    parent, _, last = key.rpartition(".")
    final = last
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            cfg = compose(config, overrides)
    except (HydraException, OmegaConfBaseException) as other:
        return error_sentence(other, config, overrides) or _one_line_message(error)
    while parent and not OmegaConf.is_dict(OmegaConf.select(cfg, parent, throw_on_missing=False)):
        parent, _, last = parent.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    names = [str(name) for name in node if name not in ("_target_", "_partial_")]
    if parent in ("stage", "then") and "_target_" in node:
        names = list(parameter_hints(str(node["_target_"])))
        if last in names and last in cfg:
            return f"unknown key {key!r}: write {key.removeprefix(f'{parent}.')}="
    if not parent and key != final and final in cfg:  # process.spacing= for the key spacing= of a stage
        return f"unknown key {key!r}: write {final}="
    if last in names:  # hydra cannot replace a mapping by a command-line override
        return f"{key} is a mapping: add its entries one by one, +{key}.<name>=<value>"
    where = f"{parent} has" if parent else "the keys here are"
    return f"unknown key {key!r}; {where} {join_names(names, last)}"


def _missing_key_message(error: BaseException) -> str:
    match = _MISSING_KEY.search(str(error))
    key = (match[1] or match[2]) if match else str(getattr(error, "full_key", "") or error)
    group = key.split(".")[0]
    if is_group(group) and match and match[1]:
        return f"{group}= is needed here: choose one of {join_names(group_choices(group))}"
    return f"{key}= is needed here: give it on the command line"


def _wrong_argument_message(error: InstantiationException, arguments: Iterable[str]) -> str | None:
    """Message about an invalid argument of an object in the configuration; None for an error inside the object."""
    if not isinstance(error.__cause__, TypeError | ValueError | ImportError):
        return None
    reason, full_key = _one_line_message(error.__cause__), re.search(r"full_key: (\S+)", str(error))
    where, target = full_key[1] if full_key else "the configuration", _FAILED_TARGET.search(str(error))
    where = re.sub(r"^stage\.source\b", "data.source", where)
    unknown = _UNEXPECTED_ARGUMENT.search(reason)
    if unknown is None or target is None:
        return f"{where}: {reason}"
    keys = (argument.split("=", 1)[0].lstrip("+") for argument in arguments)
    key = next((key for key in keys if key.rpartition(".")[2] == unknown[1]), f"{where}.{unknown[1]}")
    names = inspect.signature(get_object(target[1])).parameters
    return f"unknown key {key!r}; {key.rpartition('.')[0]} has {join_names(names, unknown[1])}"
