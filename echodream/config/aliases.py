"""Conversion of command-line arguments for hydra: old spellings, quoted paths, and keys that need a "+"."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString, Sweep
from hydra.errors import HydraException
from omegaconf import OmegaConf

from echodream.config.paths import CONF_DIR

_OLD_UNET_GROUP = re.compile(r"^(image_unet|video_unet)@denoiser=(.*)$")
_GUIDANCE_SCALE = re.compile(r"^guidance\.(\w+)=")
_SWEEP_ARGUMENT = re.compile(r"(-m|--multirun)$|launcher=(?!null$)|hparams_search=(?!null$)|hydra.mode=MULTIRUN$")
"""Arguments that make a command a sweep: the command runs once for each value."""
_TEXT_KEY = re.compile(
    r"\+*(data|experiment|raw|src|dst|work|real|further|training|reference|artifact|generator|autoencoder|regressor|images|videos|latents"
    r"|labels|onto|pairs|protocol|audit|private|paths\.\w+|data\.name|data\.source\.(table|key_file))"
)
"""Keys whose values are paths, names of yaml files or other texts."""
_TEXT_OR_LIST_KEY = re.compile(r"\+*(artifacts\.\w+|synthetic|anonymised|data\.source\.(csv|(columns|labels)\.\w+))")
"""Keys whose values are texts or lists of texts."""


def replace_aliases(arguments: Sequence[str]) -> list[str]:
    """Replace old spellings in ``arguments``, each with a notice on stderr, and quote paths for hydra.

    The guidance scale of a condition that conf/guidance does not list gets a "+": guidance.age=2 becomes
    +guidance.age=2. ``refuse_incompatible_choices`` checks that the model has this condition.
    """
    is_sweep = any(_SWEEP_ARGUMENT.match(argument) for argument in arguments)
    return [_quote_text(_replace_alias(argument), is_sweep) for argument in arguments]


def _quote_text(argument: str, is_sweep: bool) -> str:
    """Quote the value of ``argument`` if its key takes a text and hydra would not read the value as this text.

    For example, raw=2024 is not read as a number, and raw=/data/Echo (1) is not an error. Quoted values, null and
    interpolations do not change. In a sweep, raw=a,b is not quoted, because it means two values.
    """
    key, equals, value = argument.partition("=")
    is_list_possible = _TEXT_OR_LIST_KEY.fullmatch(key) is not None
    is_number = key == "pairs" and value.isdigit()  # pairs= is a number in stage=audit, a path in stage=linkability
    if not equals or is_number or not (is_list_possible or _TEXT_KEY.fullmatch(key)):
        return argument
    if value == "~" or value.startswith("~/"):  # some shells do not expand ~ after "="
        value = str(Path(value).expanduser())
    try:
        parsed = OverridesParser.create().parse_override(f"{key}={value}").value()
    except HydraException:
        parsed = 0
    is_flag = isinstance(parsed, bool) and key == "synthetic"  # synthetic= is a boolean in stage=ingest, else a path
    is_list = isinstance(parsed, list) and is_list_possible
    if parsed is None or is_flag or is_list or (isinstance(parsed, Sweep) and is_sweep):
        return argument
    if isinstance(parsed, str) and (parsed == value or value[:1] in "'\"" or "\\" in value):
        return f"{key}={value}"
    return f"{key}={quote_value(value)}"


def quote_value(value: str) -> str:
    """Quote ``value`` so that hydra reads it as text."""
    return QuotedString(value, Quote.double).with_quotes()


def _replace_alias(argument: str) -> str:
    if unet := _OLD_UNET_GROUP.match(argument):
        choices = re.sub(r"\b(?!(?:imported|null|choice)\b)\w+", rf"{unet[1]}/\g<0>", unet[2])
        print(f"{argument} is an old spelling; write denoiser={choices}", file=sys.stderr)
        return f"denoiser={choices}"
    if (scale := _GUIDANCE_SCALE.match(argument)) and scale[1] not in guidance_keys():
        return f"+{argument}"
    return argument


def guidance_keys() -> tuple[str, ...]:
    """Guidance keys in conf/guidance/default.yaml."""
    return tuple(map(str, OmegaConf.load(CONF_DIR / "guidance" / "default.yaml")))
