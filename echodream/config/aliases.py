"""Old spellings of command-line arguments, and keys that need a "+" for hydra."""

import re
import sys
from collections.abc import Sequence

from omegaconf import OmegaConf

from echodream.config.paths import CONF_DIR

_UNET_GROUP = re.compile(r"^(image_unet|video_unet)@denoiser=(.*)$")
_GUIDANCE_SCALE = re.compile(r"^guidance\.(\w+)=")


def replace_aliases(arguments: Sequence[str]) -> list[str]:
    """``arguments`` with old spellings replaced, each with a notice on stderr.

    The guidance scale of a condition that conf/guidance does not list is added: guidance.age=2 becomes
    +guidance.age=2, and is checked against the conditions of the model.
    """
    return [_replace_alias(argument) for argument in arguments]


def _replace_alias(argument: str) -> str:
    if old := _UNET_GROUP.match(argument):
        choices = re.sub(r"\b(?!(?:imported|null|choice)\b)\w+", rf"{old[1]}/\g<0>", old[2])
        print(f"{argument} is an old spelling; write denoiser={choices}", file=sys.stderr)
        return f"denoiser={choices}"
    if (scale := _GUIDANCE_SCALE.match(argument)) and scale[1] not in guidance_keys():
        return f"+{argument}"
    return argument


def guidance_keys() -> tuple[str, ...]:
    """Keys of conf/guidance/default.yaml."""
    return tuple(map(str, OmegaConf.load(CONF_DIR / "guidance" / "default.yaml")))
