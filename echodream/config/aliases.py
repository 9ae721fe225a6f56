"""Command-line arguments that hydra would read in another way: old spellings, paths, and keys that need a "+"."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString, Sweep
from hydra.errors import HydraException
from omegaconf import OmegaConf

from echodream.config.paths import CONF_DIR

_UNET_GROUP = re.compile(r"^(image_unet|video_unet)@denoiser=(.*)$")
_GUIDANCE_SCALE = re.compile(r"^guidance\.(\w+)=")
_SWEEP = re.compile(r"(-m|--multirun)$|launcher=(?!null$)|hparams_search=(?!null$)|hydra.mode=MULTIRUN$")
"""Arguments of a command that runs once per value."""
_TEXT_KEY = re.compile(
    r"\+*(data|experiment|raw|src|dst|work|real|further|training|reference|artifact|generator|autoencoder|regressor|images|videos|latents"
    r"|labels|onto|pairs|protocol|audit|private|paths\.\w+|data\.name|data\.source\.(table|key_file))"
)
"""Keys whose values are paths, names of yaml files or other texts."""
_TEXT_OR_LIST_KEY = re.compile(r"\+*(artifacts\.\w+|synthetic|anonymised|data\.source\.(csv|(columns|labels)\.\w+))")
"""Keys whose values are texts, or lists of them."""


def replace_aliases(arguments: Sequence[str]) -> list[str]:
    """``arguments`` with old spellings replaced, each with a notice on stderr, and paths quoted for hydra.

    The guidance scale of a condition that conf/guidance does not list is added: guidance.age=2 becomes
    +guidance.age=2, and is checked against the conditions of the model.
    """
    is_sweep = any(_SWEEP.match(argument) for argument in arguments)
    return [_quote_text(_replace_alias(argument), is_sweep) for argument in arguments]


def _quote_text(argument: str, is_sweep: bool) -> str:
    """``argument`` with its value quoted if its key takes a text and hydra would read another value, or none.

    So raw=2024 is not a number, and raw=/data/Echo (1) is no error. A value that is already quoted, null and an
    interpolation stay; in a sweep, a,b are two values.
    """
    key, equals, value = argument.partition("=")
    is_list_possible = _TEXT_OR_LIST_KEY.fullmatch(key) is not None
    if not equals or not (is_list_possible or _TEXT_KEY.fullmatch(key)):
        return argument
    if value == "~" or value.startswith("~/"):  # not every shell replaces it after "="
        value = str(Path(value).expanduser())
    try:
        found = OverridesParser.create().parse_override(f"{key}={value}").value()
    except HydraException:
        found = 0
    if found is None or (isinstance(found, list) and is_list_possible) or (isinstance(found, Sweep) and is_sweep):
        return argument
    if isinstance(found, str) and (found == value or value[:1] in "'\"" or "\\" in value):
        return f"{key}={value}"
    return f"{key}={quote(value)}"


def quote(value: str) -> str:
    """``value`` in quotes, so that hydra reads this text."""
    return QuotedString(value, Quote.double).with_quotes()


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
