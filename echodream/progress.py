"""Progress bars on terminals and in notebooks."""

import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")


def shows_progress() -> bool:
    """Whether progress bars are shown: stderr is a terminal, or the code runs in a Jupyter notebook."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)
    return sys.stderr.isatty() or "IPKernelApp" in getattr(get_ipython(), "config", ())


def progress_bar(
    items: Iterable[T], title: str, total: int | None = None, unit: str = "it", leave: bool = True
) -> "tqdm[T]":
    """``items`` with a progress bar; ``leave``: whether the bar stays at the end."""
    return tqdm(items, title, total, leave, unit=unit, disable=not shows_progress())
