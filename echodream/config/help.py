"""``--help``: what can be asked for, read from the configuration itself, in the time it takes to list a folder."""

import sys
from collections.abc import Sequence

from echodream.config.aliases import replace_aliases
from echodream.config.paths import CONF_DIR
from echodream.errors import UserError

_TEXT = {
    "train": (
        "train.py trains one model of a study: a Store in, an artifact out.",
        "python train.py model=<model> data=<study> [key=value ...]",
        ("model", "data", "preset", "experiment", "trainer", "launcher", "hparams_search"),
    ),
    "sample": (
        "sample.py carries out one stage of a study: a Store in, a Store out.",
        "python sample.py stage=<stage> data=<study> [key=value ...]",
        ("stage", "data", "experiment", "trainer", "launcher"),
    ),
}
_OPTIONS = (
    *("--help", "-h", "--cfg", "-c", "--resolve", "--package", "-p", "--run", "-r", "--multirun", "-m"),
    *("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn", "--info", "-i", "--version"),
    *("--shell-completion", "-sc", "--experimental-rerun", "--hydra-help"),
)
_FLAGS = """  --cfg job             print the whole configuration and stop
  -m, --multirun        run once for each value: seed=0,1,2
  --config-dir <dir>    a folder with studies of your own: <dir>/data/my_study.yaml
  --help                this page; with a choice (stage=ingest --help), its settings"""


def print_help(config: str) -> None:
    """Print the help page of ``config`` ("train" or "sample") and exit 0, if the command line asks for it."""
    arguments = sys.argv[1:]
    if not {"-h", "--help"} & set(arguments):
        return
    purpose, usage, groups = _TEXT[config]
    chosen = [a.replace("=", "/", 1) for a in arguments if a.split("=")[0] in groups]
    files = [CONF_DIR / f"{choice}.yaml" for choice in chosen if (CONF_DIR / f"{choice}.yaml").is_file()]
    if files:
        print("\n".join(f"# {path.relative_to(CONF_DIR)}\n{path.read_text()}" for path in files))
    else:
        print("\n".join([purpose, "", f"  {usage}", "", *map(_group, groups), _FLAGS]))
    sys.exit(0)


def options_first(arguments: Sequence[str]) -> list[str]:
    """``arguments`` with hydra's options in front of the overrides, so that they may stand anywhere; aliases replaced.

    Raises ``UserError`` for an option that hydra does not know.
    """
    for argument in arguments:
        if argument.startswith("-") and argument.split("=")[0] not in _OPTIONS:
            raise UserError(f"{argument} is no option; write key=value, or one of {', '.join(_OPTIONS)}")
    arguments = replace_aliases(arguments)
    overrides = [a for a in arguments if not a.startswith("-") and ("=" in a or a[0] in "~+")]
    return [a for a in arguments if a not in overrides] + overrides


def _group(name: str) -> str:
    """One config group: each choice with the first remark in its file."""
    lines = [f"{name}="]
    for path in sorted((CONF_DIR / name).glob("*.yaml")):
        remarks = [line[1:].strip() for line in path.read_text().splitlines() if line.startswith("#")]
        remark = next((text for text in remarks if not text.startswith("@package")), "")
        if path.stem != "base":
            lines.append(f"  {path.stem:<24}{remark}")
    return "\n".join([*lines, ""])
