"""Progress bars on terminals, in notebooks, and in a file that another program reads, such as launch/run.py."""

import contextlib
import math
import os
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO, TypeVar

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # without ipywidgets, tqdm warns and shows a bar of text
    from tqdm.auto import tqdm

T = TypeVar("T")


def shows_progress() -> bool:
    """Whether progress bars are shown: stderr is a terminal, or the code runs in a Jupyter notebook."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)
    return sys.stderr.isatty() or "IPKernelApp" in getattr(get_ipython(), "config", ())


def progress_bar(
    items: Iterable[T], title: str, total: int | None = None, unit: str = "it", leave: bool = True
) -> "tqdm[T]":
    """Iterate over ``items`` with a progress bar; ``leave``: whether the complete bar stays on the screen."""
    return tqdm(items, title, total, leave, unit=unit, disable=not shows_progress())


class ProgressStream:
    """Stream that writes the latest progress bar to the file ``path``, and other text to ``stream``.

    tqdm and Lightning write bars to the stream as to a terminal. The file ``path`` is replaced at most once per second.
    """

    def __init__(self, stream: TextIO, path: str | Path) -> None:
        self._stream, self._path = stream, Path(path)
        self._in_bar, self._written_at = False, -math.inf

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def isatty(self) -> bool:
        """Return True, so that tqdm and Lightning show progress bars."""
        return True

    def write(self, text: str) -> int:
        """Write ``text``: a bar begins with a carriage return; blank lines and cursor movements follow a bar."""
        line = text.replace("\x1b[A", "").strip()
        self._in_bar = "\r" in text or (self._in_bar and not line) or (text != "" and not text.replace("\x1b[A", ""))
        if not self._in_bar:
            self._stream.write(text)
        elif line and time.monotonic() >= self._written_at + 1:
            self._written_at = time.monotonic()
            with contextlib.suppress(OSError):
                self._path.write_text(line, encoding="utf-8")
        return len(text)


@contextlib.contextmanager
def progress_to_file() -> Iterator[None]:
    """Write progress bars to the file named by the environment variable ECHODREAM_PROGRESS, if it is set."""
    path = os.environ.get("ECHODREAM_PROGRESS")
    with contextlib.redirect_stderr(ProgressStream(sys.stderr, path)) if path else contextlib.nullcontext():
        yield
