"""Every user error as one sentence on stderr and exit status 1, whichever library noticed it."""

import contextlib
import difflib
import errno
import functools
import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from hydra.utils import get_object
from omegaconf import DictConfig, MissingMandatoryValue, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from echodream.config.aliases import guidance_keys
from echodream.config.launchers import is_sweep_run, launcher_error_message, missing_package_message
from echodream.config.paths import CONF_DIR
from echodream.config.stage_signature import allows_null, parameter_hints
from echodream.errors import UserError

_SHOW_TRACEBACKS = os.environ.get("HYDRA_FULL_ERROR") == "1" and "SUBMITIT_EXECUTOR" not in os.environ
"""Not in a launcher's job, which has the variable from ``_raising`` below."""
_NO_MATCH = re.compile(r"Could not (?:override|append|delete).*? '([^']+)'")
_GROUP_NEEDED = re.compile(r"You must specify '([^']+)'")
_TRAINING_NEEDS = ("src", "dst", "work", "callbacks.checkpoint")
_NULL_GROUP = "Config group override must be a string or a list"
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EEXIST, errno.ENOTDIR)
_FULL = re.compile(f"{os.strerror(errno.ENOSPC)}|{os.strerror(errno.EDQUOT)}")
_LISTS = ("conditioning", "logger")
"""Groups of which several files, or none, are chosen."""
_UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")
_TARGET = re.compile(r"target '([\w.]+)'")
_MISSING_KEY = re.compile(r"Interpolation key '([^']+)' not found|Missing mandatory value: (\S+)")


def report_user_errors(config: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a command so that user errors end it with one sentence. HYDRA_FULL_ERROR=1 shows tracebacks instead.

    It stands both around ``hydra.main`` (errors of composition) and inside it (errors of the job), because hydra
    prints a page of its own about an exception that crosses it. A run of a sweep says its sentence and lets the error
    through, so that the others are done, and the sweep ends with it.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def wrapped(*job: DictConfig) -> Any:
            if _SHOW_TRACEBACKS:
                return command(*job)
            try:
                with _raising():
                    return command(*job)
            except KeyboardInterrupt:
                print("interrupted: run the same command again to go on", file=sys.stderr)
                sys.exit(130)
            except Exception as error:
                text = error_sentence(error, config, sys.argv[1:])
                if text is None:
                    raise
                print(f"error: {text}", file=sys.stderr)
                if job and is_sweep_run():
                    raise
                sys.exit(1)

        return wrapped

    return decorate


@contextlib.contextmanager
def _raising() -> Iterator[None]:
    """Hydra raises errors instead of printing them."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        del os.environ["HYDRA_FULL_ERROR"]
        if before is not None:
            os.environ["HYDRA_FULL_ERROR"] = before


def error_sentence(error: BaseException, config: str, arguments: Iterable[str]) -> str | None:
    """What to tell the user about ``error``, or None when it is a defect of the program."""
    for cause in _chain(error):
        if isinstance(cause, UserError):
            return str(cause)
        if (refused := launcher_error_message(cause)) is not None:
            return refused
    if isinstance(error, MissingConfigException):
        return _unknown_choice(error)
    if isinstance(error, OverrideParseException):
        return (
            f"the override {error.override!r} cannot be read; write key=value, and quote values with special characters"
        )
    if isinstance(error, HydraException) and (found := _GROUP_NEEDED.search(str(error))):
        return f"{found[1]}= is needed; choose one of {_list(_choices(found[1]))}"
    if isinstance(error, HydraException) and (found := _NO_MATCH.search(str(error))):
        return _unknown_key(found[1], config, list(arguments), error)
    if isinstance(error, ValueError) and str(error).startswith(_NULL_GROUP):
        return _null_group(arguments)
    for cause in _chain(error):
        if isinstance(cause, InterpolationKeyError | MissingMandatoryValue):
            return _absent(cause)
    if isinstance(error, InstantiationException):
        return _bad_arguments(error, arguments)
    full = (cause for cause in _chain(error) if _FULL.search(str(cause)))  # torch and safetensors wrap it
    unwritten = error if isinstance(error, OSError) and error.errno in _UNWRITABLE else next(full, None)
    if unwritten is not None:
        where, found = getattr(unwritten, "filename", None) or "the destination", _FULL.search(str(unwritten))
        why = found[0] if found else getattr(unwritten, "strerror", "")
        return f"{where} cannot be written: {why}; make room or choose another dst=, then run again"
    if isinstance(error, HydraException | OmegaConfBaseException):
        return " ".join(str(error).split())
    return None


def refuse_unread_keys(cfg: DictConfig, overrides: Iterable[str]) -> None:
    """Raise ``UserError`` for a ``+key=value`` that nothing reads: it must lie inside an object's arguments.

    Of two files of one group that say the same key, one would be silent, too.
    """
    for override in overrides:
        _refuse_twins(override)
        key = override.lstrip("+").split("=", 1)[0]
        parts = key.split(".")
        is_guidance_scale = parts[0] == "guidance" and len(parts) == 2  # ``_refuse_unknown_scales`` checks it
        if not override.startswith("+") or "@" in key or (CONF_DIR / key).is_dir() or is_guidance_scale:
            continue
        above = [OmegaConf.select(cfg, ".".join(parts[:depth])) for depth in range(1, len(parts))]
        if not any(OmegaConf.is_dict(node) and "_target_" in node for node in above):
            raise UserError(
                f"{override!r} adds a key that nothing reads; remove it or write an existing key without '+'"
            )


def refuse_impossible_pairs(cfg: DictConfig, chosen: Mapping[str, str | None]) -> None:
    """Raise ``UserError`` when a choice needs another one: ``model.needs`` lists, by group, what goes with the model.

    ``needs`` does so for a stage. ``chosen`` is the choice of each config group. A sampler must go with the process of
    the model that draws.
    """
    kind, needs = ("model", "model.needs") if "model" in chosen else ("stage", "needs")
    for group, possible in (OmegaConf.select(cfg, needs) or {}).items():
        choice = chosen.get(group)
        if choice not in possible:
            given = "" if chosen.get("experiment") is None else f" of experiment={chosen['experiment']}"
            raise UserError(
                f"{kind}={chosen[kind]}{given} does not go with {group}={choice}; choose one of {_list(possible)}"
            )
    video = OmegaConf.select(cfg, "denoiser.video")
    if video is not None and video != cfg.model.video:
        kind, model = ("clips", "lvdm") if video else ("images", "lidm")
        raise UserError(f"denoiser={chosen.get('denoiser')} is for {kind}: give it to model={model}")
    if OmegaConf.select(cfg, "guidance") is not None:
        _refuse_unknown_scales(cfg)
    if OmegaConf.select(cfg, "sampler") is not None and OmegaConf.select(cfg, "artifact") is not None:
        _refuse_sampler(Path(cfg.artifact), cfg.steps, cfg.sampler)


def refuse_missing_and_null(cfg: DictConfig) -> None:
    """Raise ``UserError`` for keys without a value, and for null where a stage, or training, does not take it."""
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        raise UserError(f"{missing[0]}= is needed here: give it on the command line")
    stage = OmegaConf.select(cfg, "stage")
    if stage is None:
        null = [key for key in _TRAINING_NEEDS if OmegaConf.select(cfg, key) is None]
    else:
        required = [name for name, hint in parameter_hints(str(stage.get("_target_"))).items() if not allows_null(hint)]
        null = [
            _source_key(stage, name) for name in required if (stage if name in stage else cfg).get(name, "") is None
        ]
    if null:
        raise UserError(f"{null[0]}=null is not possible: give it a value, or leave it out")


def _source_key(stage: DictConfig, name: str) -> str:
    """The key that a user gives for the argument ``name`` of ``stage``."""
    if name not in stage:
        return name
    raw: Any = OmegaConf.to_container(stage, resolve=False)
    return str(raw[name][2:-1]) if raw[name] else f"stage.{name}"


def _refuse_twins(override: str) -> None:
    """Raise ``UserError`` when an ``override`` like group=[a,b] chooses two files that say the same key."""
    group, _, choice = override.partition("=")
    if not choice.startswith("[") or not (CONF_DIR / group).is_dir():
        return
    owners: dict[str, str] = {}
    for name in re.findall(r"[\w./-]+", choice):
        file = CONF_DIR / group / f"{name}.yaml"
        for key in map(str, OmegaConf.load(file) if file.is_file() else ()):
            if owners.setdefault(key, name) != name:
                raise UserError(f"{group}={owners[key]} and {group}={name} both say {key}: leave one of them out")


def _refuse_sampler(artifact: Path, steps: object, sampler: object) -> None:
    """Raise ``UserError`` when the process of the diffusion model at ``artifact`` has no such ``sampler``."""
    try:
        settings = json.loads((artifact / "diffusion.json").read_text(encoding="utf-8"))["process"]
    except (OSError, ValueError, TypeError, KeyError):
        return  # the stage says what is wrong with the artifact
    from echodream.diffusion.processes import build_process

    build_process(settings).check_sampler(steps, sampler)  # type: ignore[arg-type]


def _refuse_unknown_scales(cfg: DictConfig) -> None:
    """Raise ``UserError`` for a key of guidance that is not in conf/guidance and no condition of the model."""
    artifact = Path(OmegaConf.select(cfg, "artifact") or OmegaConf.select(cfg, "generator"))
    added = [str(name) for name in cfg.guidance if name not in guidance_keys()]
    try:
        settings = json.loads((artifact / "diffusion.json").read_text(encoding="utf-8"))
        conditions = [str(item["name"]) for item in settings["conditioning"]["conditions"]]
    except (OSError, ValueError, TypeError, KeyError):
        return  # the stage says what is wrong with the artifact
    if unknown := [name for name in added if name not in conditions]:
        known = [*conditions, "interval", "rescale", "auto"]
        raise UserError(f"unknown key 'guidance.{unknown[0]}'; guidance of this model has {_list(known, unknown[0])}")


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _unknown_choice(error: MissingConfigException) -> str:
    group, _, choice = str(error.missing_cfg_file or "").rpartition("/")
    if not group:
        return " ".join(str(error).split())
    if (absent := missing_package_message(group)) is not None:
        return absent
    if any((CONF_DIR / group.split("/")[0]).glob("*.yaml")):  # a choice in a subfolder, as denoiser=image_unet/small
        group, _, choice = str(error.missing_cfg_file).partition("/")
    options = sorted({*(error.options or ()), *_choices(group)} - {"base"})
    return f"{group}={choice} is not known; choose one of {_list(options, choice)}"


def _null_group(arguments: Iterable[str]) -> str | None:
    """Which of the groups that were chosen is null."""
    keys = [argument[: -len("=null")] for argument in arguments if argument.lower().endswith("=null")]
    for key in keys:
        group = key.partition("@")[0]
        if (CONF_DIR / group).is_dir():
            none = ", or [] for none" if group in _LISTS else ""
            return f"{key}=null is not possible: choose one of {_list(_choices(group))}{none}"
    return None


def _choices(group: str) -> list[str]:
    """Choices of a config group, those in its subfolders as <folder>/<name>."""
    files = [path.relative_to(CONF_DIR / group) for path in (CONF_DIR / group).rglob("*.yaml")]
    return sorted(path.with_suffix("").as_posix() for path in files if path.stem != "base")


def _unknown_key(key: str, config: str, arguments: list[str], error: BaseException) -> str:
    """Name the keys that stand where ``key`` was expected, by composing without it."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    given = [a for a in arguments if not a.startswith("-")]
    overrides = [a for a in given if a.split("=", 1)[0].lstrip("+~") != key]
    if len(overrides) == len(given):
        return " ".join(str(error).split())  # no argument names it: a file in conf/ or --config-dir does
    parent, _, last = key.rpartition(".")
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            cfg = compose(config, overrides)
    except (HydraException, OmegaConfBaseException) as other:
        return error_sentence(other, config, overrides) or " ".join(str(error).split())
    while parent and not OmegaConf.is_dict(OmegaConf.select(cfg, parent, throw_on_missing=False)):
        parent, _, last = parent.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    names = [str(name) for name in node if name not in ("_target_", "_partial_")]
    if parent in ("stage", "then") and "_target_" in node:
        names = list(parameter_hints(str(node["_target_"])))
        if last in names and last in cfg:
            return f"unknown key {key!r}; write {last}= instead"
    if last in names:  # it is there: hydra lets no command line put entries into a mapping at once
        return f"{key} takes further entries one by one, each with a plus: +{key}.<name>=<value>"
    where = f"{parent} has" if parent else "the keys here are"
    return f"unknown key {key!r}; {where} {_list(names, last)}"


def _absent(error: BaseException) -> str:
    found = _MISSING_KEY.search(str(error))
    key = (found[1] or found[2]) if found else str(getattr(error, "full_key", "") or error)
    group = key.split(".")[0]
    if (CONF_DIR / group).is_dir() and found and found[1]:
        return f"{group}= is needed here; choose one of {_list(_choices(group))}"
    return f"{key}= is needed here: give it on the command line"


def _bad_arguments(error: InstantiationException, arguments: Iterable[str]) -> str | None:
    """A misspelt or ill-typed argument of an object in the configuration; None for an error inside the object."""
    if not isinstance(error.__cause__, TypeError | ValueError | ImportError):
        return None
    said, found = " ".join(str(error.__cause__).split()), re.search(r"full_key: (\S+)", str(error))
    where, target = found[1] if found else "the configuration", _TARGET.search(str(error))
    misspelt = _UNEXPECTED.search(said)
    if misspelt is None or target is None:
        return f"{where}: {said}"
    given = (argument.split("=", 1)[0].lstrip("+") for argument in arguments)
    key = next((key for key in given if key.rpartition(".")[2] == misspelt[1]), f"{where}.{misspelt[1]}")
    names = inspect.signature(get_object(target[1])).parameters
    return f"unknown key {key!r}; {key.rpartition('.')[0]} has {_list(names, misspelt[1])}"


def _list(names: Iterable[str], wrong: str = "") -> str:
    names = list(names)
    near = difflib.get_close_matches(wrong, names, 1)
    return ", ".join(names) + (f" (did you mean {near[0]!r}?)" if near else "")
