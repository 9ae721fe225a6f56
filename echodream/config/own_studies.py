"""Check of a study's yaml file in the user's ``--config-dir`` folder, before hydra reads the file."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from echodream.config.choices import join_names
from echodream.config.paths import CONF_DIR
from echodream.errors import UserError


def check_own_study(arguments: Sequence[str]) -> None:
    """Raise ``UserError`` if the file of ``data=`` in ``--config-dir`` is not a valid study."""
    words = [word for argument in arguments for word in argument.split("=", 1)]
    folder = next((value for key, value in pairwise(words) if key in ("--config-dir", "-cd")), None)
    study = next((argument.removeprefix("data=") for argument in arguments if argument.startswith("data=")), None)
    path = Path(folder or "", "data", f"{study}.yaml")
    if folder is None or not path.is_file():
        return
    try:
        content: Any = OmegaConf.load(path)
    except yaml.YAMLError as error:
        raise UserError(yaml_error_message(error)) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: save it as UTF-8") from error
    if not OmegaConf.is_dict(content) or not OmegaConf.is_list(content.get("defaults")):
        raise UserError(f"{path} has no list of defaults: begin it with defaults: [videos], or [<other study>]")
    known = ["defaults", *map(str, OmegaConf.load(CONF_DIR / "data" / "base.yaml"))]
    if unknown := [str(key) for key in content if key not in known]:
        raise UserError(f"{path} has the unknown key {unknown[0]!r}; a study has {join_names(known, unknown[0])}")
    _refuse_misread_numbers(path)
    if isinstance(name := content.get("name", ""), bool) or not isinstance(name, str | int):
        raise UserError(f"{path}: YAML reads the name as {name!r}: write it in quotes")


def _refuse_misread_numbers(path: Path) -> None:
    """Raise ``UserError`` if YAML changes a number in the name or a source setting, such as 2024_01 to 202401."""
    root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    nodes = [pair for pair in root.value if pair[0].value in ("name", "source")]
    while nodes:
        node = nodes.pop()
        if not isinstance(node, yaml.ScalarNode):
            nodes += node if isinstance(node, tuple) else node.value
        elif node.style is None and node.tag.endswith(":int") and str(yaml.safe_load(node.value)) != node.value:
            place = f"{path}, line {node.start_mark.line + 1}"
            number = yaml.safe_load(node.value)
            raise UserError(f"{place}: YAML reads {node.value} as {number}: write it in quotes, '{node.value}'")


def yaml_error_message(error: yaml.YAMLError) -> str:
    """Message about a file that is not valid yaml."""
    mark = getattr(error, "problem_mark", None)
    place = f"{mark.name}, line {mark.line + 1}" if mark else "a yaml file"
    problem = " ".join((getattr(error, "problem", None) or str(error)).split())
    remedy = "indent with blanks instead of tabs, give each key once, and quote texts with special characters"
    return f"{place}: {problem}: {remedy}"
