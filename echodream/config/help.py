"""Help page of ``--help``: the choices of each config group, read from conf/, and the options of hydra."""

import sys
from collections.abc import Sequence

from echodream.config.aliases import replace_aliases
from echodream.config.paths import CONF_DIR
from echodream.errors import UserError

_HELP_TEXTS = {
    "train": (
        "train.py trains a model of a study. It reads a store and writes an artifact.",
        "python train.py model=<model> data=<study> [key=value ...]",
        ("model", "data", "preset", "experiment", "trainer", "launcher", "hparams_search"),
    ),
    "sample": (
        "sample.py runs one stage of a study. It reads a store and writes a store.",
        "python sample.py stage=<stage> data=<study> [key=value ...]",
        ("stage", "data", "experiment", "trainer", "launcher"),
    ),
}
_OPTIONS = (
    *("--help", "-h", "--cfg", "-c", "--resolve", "--package", "-p", "--run", "-r", "--multirun", "-m"),
    *("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn", "--info", "-i", "--version"),
    *("--shell-completion", "-sc", "--experimental-rerun", "--hydra-help"),
)
_OPTIONS_HELP = """  --cfg job             print the complete configuration and stop
  -m, --multirun        run once per value, such as seed=0,1,2
  --config-dir <dir>    a folder with your own studies: <dir>/data/my_study.yaml
  --help                this page; with a choice (stage=ingest --help), the settings of the choice"""


def print_help(config: str) -> None:
    """If --help is on the command line, print the help page of ``config``, "train" or "sample", and exit with 0."""
    arguments = sys.argv[1:]
    if not {"-h", "--help"} & set(arguments):
        return
    purpose, usage, groups = _HELP_TEXTS[config]
    chosen = [a.replace("=", "/", 1) for a in arguments if a.split("=")[0] in groups]
    files = [CONF_DIR / f"{choice}.yaml" for choice in chosen if (CONF_DIR / f"{choice}.yaml").is_file()]
    if files:
        print("\n".join(f"# {path.relative_to(CONF_DIR)}\n{path.read_text()}" for path in files))
    else:
        print("\n".join([purpose, "", f"  {usage}", "", *map(_config_group_help, groups), _OPTIONS_HELP]))
    sys.exit(0)


def put_options_first(arguments: Sequence[str]) -> list[str]:
    """Replace aliases in ``arguments`` and put hydra's options first. Raises ``UserError`` for an unknown option."""
    for argument in arguments:
        if argument.startswith("-") and argument.split("=")[0] not in _OPTIONS:
            raise UserError(f"{argument} is not an option: write key=value, or one of {', '.join(_OPTIONS)}")
    arguments = replace_aliases(arguments)
    overrides = [a for a in arguments if not a.startswith("-") and ("=" in a or a[0] in "~+")]
    return [a for a in arguments if a not in overrides] + overrides


def _config_group_help(name: str) -> str:
    """Help text of the config group ``name``: each choice with the first comment of its file."""
    lines, paths = [f"{name}="], sorted((CONF_DIR / name).glob("*.yaml"))
    width = max(24, *(len(path.stem) + 2 for path in paths))
    for path in paths:
        comments = [line[1:].strip() for line in path.read_text().splitlines() if line.startswith("#")]
        comment = next((text for text in comments if not text.startswith("@package")), "")
        if path.stem != "base":
            lines.append(f"  {path.stem:<{width}}{comment}")
    return "\n".join([*lines, ""])
