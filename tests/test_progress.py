"""Progress bars are shown on terminals and in notebooks, and nowhere else."""

import io
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from echodream.progress import progress_bar, shows_progress


def shown(monkeypatch: pytest.MonkeyPatch, is_terminal: bool, config: dict[str, Any] | None) -> str:
    """What a bar of three items writes, with or without a terminal, in a program (None) or an IPython of ``config``."""
    stream = io.StringIO()
    stream.isatty = lambda: is_terminal  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", stream)
    shell = None if config is None else SimpleNamespace(config=config)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))  # type: ignore[arg-type]
    bar = progress_bar(range(3), "count", unit="thing")
    assert list(bar) == [0, 1, 2]
    return stream.getvalue()


def test_a_terminal_and_a_notebook_show_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    for is_terminal, config in ((True, None), (False, {"IPKernelApp": {}})):
        text = shown(monkeypatch, is_terminal, config)
        assert "count: 100%" in text
        assert "3/3" in text


def test_a_log_file_and_an_interactive_python_without_a_notebook_show_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, False, None) == ""
    assert shown(monkeypatch, False, {"TerminalIPythonApp": {}}) == ""
    monkeypatch.delitem(sys.modules, "IPython")
    assert not shows_progress()
