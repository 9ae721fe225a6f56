"""Choices of config groups, and lists of names in error messages."""

import difflib
from collections.abc import Iterable

from echodream.config.paths import CONF_DIR


def group_choices(group: str) -> list[str]:
    """Choices of a config group; the choice of a file in a subfolder is ``<folder>/<name>``."""
    files = [path.relative_to(CONF_DIR / group) for path in (CONF_DIR / group).rglob("*.yaml")]
    return sorted(path.with_suffix("").as_posix() for path in files if path.stem != "base")


def is_group(name: str) -> bool:
    """Whether ``name`` is a config group: a folder of conf/."""
    return (CONF_DIR / name).is_dir()


def join_names(names: Iterable[str], unknown: str = "") -> str:
    """Join ``names`` by commas, and suggest a name that is similar to the name ``unknown``."""
    names = list(names)
    similar = difflib.get_close_matches(unknown, names, 1)
    return ", ".join(names) + (f" (did you mean {similar[0]!r}?)" if similar else "")
