"""Checks of a composed configuration before slow imports. Each check raises ``UserError``."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from echodream.config.aliases import guidance_keys
from echodream.config.choices import is_group, join_names
from echodream.config.paths import CONF_DIR
from echodream.config.stage_signature import allows_null, parameter_hints
from echodream.errors import UserError

_REQUIRED_IN_TRAINING = ("src", "dst", "work", "callbacks.checkpoint")


def refuse_unknown_keys(cfg: DictConfig, overrides: Iterable[str]) -> None:
    """Refuse overrides ``+key=value`` of unknown keys, and ``group=[a,b]`` if both choices set the same key."""
    for override in overrides:
        _refuse_duplicate_keys(override)
        key = override.lstrip("+").split("=", 1)[0]
        parts = key.split(".")
        is_guidance_scale = parts[0] == "guidance" and len(parts) == 2  # checked by ``_check_generator``
        if not override.startswith("+") or "@" in key or is_group(key) or is_guidance_scale:
            continue
        parents = [OmegaConf.select(cfg, ".".join(parts[:depth])) for depth in range(1, len(parts))]
        if not any(OmegaConf.is_dict(node) and "_target_" in node for node in parents):
            raise UserError(f"{override!r} adds an unknown key: remove it, or write a known key without '+'")


def _refuse_duplicate_keys(override: str) -> None:
    group, _, choice = override.partition("=")
    if not choice.startswith("[") or not is_group(group):
        return
    files: dict[str, str] = {}
    for name in re.findall(r"[\w./-]+", choice):
        file = CONF_DIR / group / f"{name}.yaml"
        for key in map(str, OmegaConf.load(file) if file.is_file() else ()):
            if files.setdefault(key, name) != name:
                raise UserError(f"{group}={files[key]} and {group}={name} both set {key}: leave one of them out")


def refuse_incompatible_choices(cfg: DictConfig, chosen: Mapping[str, str | None]) -> None:
    """Refuse incompatible choices. ``chosen`` maps each config group to its choice.

    For other groups, ``model.needs`` (in a training) or ``needs`` (in a stage) lists the supported choices.
    The diffusion process of the generator must support the sampler. Guidance scales are for the generator's conditions.
    """
    kind, needs = ("model", "model.needs") if "model" in chosen else ("stage", "needs")
    for group, possible in (OmegaConf.select(cfg, needs) or {}).items():
        choice = chosen.get(group)
        if choice not in possible:
            experiment = "" if chosen.get("experiment") is None else f" of experiment={chosen['experiment']}"
            names = f"{kind}={chosen[kind]}{experiment} cannot be combined with {group}={choice}"
            raise UserError(f"{names}: choose one of {join_names(possible)}")
    if chosen.get("distill") is not None and cfg.model.name not in ("lidm", "lvdm"):
        raise UserError(f"model={cfg.model.name} cannot be distilled: use distill= with model=lidm or model=lvdm")
    if OmegaConf.select(cfg, "canaries") and "model" in chosen:
        if cfg.model.name not in ("lidm", "lvdm"):
            raise UserError(f"model={cfg.model.name} has no canaries: use canaries= with model=lidm or model=lvdm")
        if chosen.get("distill") is not None:
            problem = f"distill={chosen['distill']} cannot use canaries=, as its teacher was trained on all patients"
            raise UserError(f"{problem}: remove canaries=")
    video = OmegaConf.select(cfg, "denoiser.video")
    if video is not None and video != cfg.model.video:
        kind, model = ("clips", "lvdm") if video else ("images", "lidm")
        raise UserError(f"denoiser={chosen.get('denoiser')} is for {kind}: use it with model={model}")
    _check_generator(cfg)


def _check_generator(cfg: DictConfig) -> None:
    """Check that the diffusion model of the stage, if it is readable, supports guidance scales, sampler and spacing."""
    guidance, sampler, spacing = (OmegaConf.select(cfg, key) for key in ("guidance", "sampler", "spacing"))
    artifact = OmegaConf.select(cfg, "artifact") or OmegaConf.select(cfg, "generator")
    if artifact is None or (guidance is None and "sampler" not in cfg):
        return
    try:
        metadata = json.loads(Path(artifact, "diffusion.json").read_text(encoding="utf-8"))
        metadata["process"] = dict(metadata["process"])
        conditions = [str(condition["name"]) for condition in metadata.get("conditioning", {}).get("conditions", ())]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return  # the stage reports an unreadable artifact
    if unknown := [str(name) for name in guidance or () if name not in (*guidance_keys(), *conditions)]:
        known = join_names([*conditions, "interval", "rescale", "auto"], unknown[0])
        raise UserError(f"unknown key 'guidance.{unknown[0]}'; guidance of this model has {known}")
    steps = OmegaConf.select(cfg, "steps")
    if "sampler" in cfg and (sampler, spacing, steps) != (None, None, None):
        from echodream.diffusion.processes import read_process

        process = read_process(metadata).for_sampling(spacing)
        default = process.few_steps.steps[-1] if process.few_steps is not None else 1
        process.check_sampler(default if steps is None else steps, sampler)


def refuse_missing_and_null(cfg: DictConfig) -> None:
    """Refuse keys without a value, and null for settings of the stage or training that need a value."""
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        raise UserError(f"{missing[0]}= is needed here: give it on the command line")
    stage = OmegaConf.select(cfg, "stage")
    if stage is None:
        null = [key for key in _REQUIRED_IN_TRAINING if OmegaConf.select(cfg, key) is None]
    else:
        hints = parameter_hints(str(stage.get("_target_")))
        values = {name: (stage if name in stage else cfg).get(name, "") for name in hints}
        null = [_cli_key(stage, name) for name in hints if values[name] is None and not allows_null(hints[name])]
    if null:
        raise UserError(f"{null[0]}=null is not possible: give it a value, or leave it out")


def _cli_key(stage: DictConfig, name: str) -> str:
    """Key on the command line that sets the argument ``name`` of ``stage``."""
    if name not in stage:
        return name
    interpolations: Any = OmegaConf.to_container(stage, resolve=False)
    return str(interpolations[name][2:-1]) if interpolations[name] else f"stage.{name}"
