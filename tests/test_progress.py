"""Progress bars: shown on terminals and in notebooks, or written to a file if requested; otherwise, no bar is shown."""

import io
import itertools
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tqdm import tqdm

from echodream import progress
from echodream.progress import ProgressStream, progress_bar, progress_to_file, shows_progress


def shown(monkeypatch: pytest.MonkeyPatch, is_terminal: bool, config: dict[str, Any] | None) -> str:
    """Output of a progress bar of three items, in a script (``config=None``) or in IPython with ``config``."""
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


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that advances two seconds at each call, so that every update of the bar is written."""
    times = itertools.count(0, 2)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("leave", [True, False])
def test_bars_are_in_the_file_and_other_text_in_the_stream(leave: bool, tmp_path: Path) -> None:
    text, file = io.StringIO(), tmp_path / "bars"
    stream = ProgressStream(text, file)
    print("first", file=stream)
    for number in tqdm(range(3), "outer", file=stream, mininterval=0, leave=leave):  # type: ignore[call-overload]
        for _ in tqdm(range(2), "inner", file=stream, mininterval=0, leave=leave):  # type: ignore[call-overload]
            pass
        assert "inner: 100%" in file.read_text()
        print("\nline", number, file=stream)
    print("last", file=stream)
    assert text.getvalue() == "first\n\nline 0\n\nline 1\n\nline 2\nlast\n"
    assert "outer: 100%" in file.read_text()
    assert "\n" not in file.read_text()


def test_the_file_is_replaced_once_per_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, file = [0.0], tmp_path / "bars"
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    stream = ProgressStream(io.StringIO(), file)
    for second, text, expected in ((10.0, "\r1", "1"), (10.9, "\r2", "1"), (11.0, "\r3", "3")):
        now[0] = second
        stream.write(text)
        assert file.read_text() == expected


def test_without_a_place_for_the_file_the_program_goes_on(tmp_path: Path) -> None:
    text = io.StringIO()
    stream = ProgressStream(text, tmp_path / "none/bars")
    stream.write("\rbar")
    stream.write("text\n")
    assert text.getvalue() == "text\n"


def test_the_environment_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sys.stderr
    monkeypatch.setenv("ECHODREAM_PROGRESS", str(tmp_path / "bars"))
    with progress_to_file():
        for _ in progress_bar(range(3), "recordings"):
            pass
    assert "recordings:" in (tmp_path / "bars").read_text()
    assert sys.stderr is before
    monkeypatch.delenv("ECHODREAM_PROGRESS")
    with progress_to_file():
        assert sys.stderr is before
