"""Worker processes: the user's script runs once, with or without a ``__main__`` guard."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from echodream import process_pool
from echodream.errors import UserError
from echodream.ingest import workers

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = """
from pathlib import Path
import echodream
with Path("executed.txt").open("a") as file:
    file.write("once\\n")
study = ["data=phantom", "data.size=64", "data.source.patients=3", "+data.source.seconds=[2.5,2.6]"]
study += ["data.split.train=1", "data.split.val=0", "data.split.test=0"]
echodream.run("sample", ["stage=ingest", *study, "workers=2"])
echodream.run("sample", ["stage=keyframes", "data=phantom", "workers=2"])
"""


@pytest.mark.slow
def test_a_script_without_a_guard_is_executed_once(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "script.py"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "executed.txt").read_text() == "once\n"


def test_workers_that_cannot_start_reject_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a worker process ends before its first job, the error names no file and rejects no file."""
    from concurrent.futures import Future
    from types import SimpleNamespace

    class Pool:
        def __init__(self, *given: object, **more: object) -> None: ...
        def __enter__(self) -> "Pool":
            return self

        def __exit__(self, *error: object) -> None: ...
        def stop(self) -> None: ...
        def schedule(self, *given: object, **more: object) -> Future:
            future: Future = Future()
            future.set_exception(workers.BrokenProcessPool("ended"))
            return future

    monkeypatch.setattr("pebble.ProcessPool", Pool)
    job = SimpleNamespace(recording="a")
    with pytest.raises(UserError, match="give workers=0"):
        list(workers.convert_recordings([job], 2, 10.0))  # type: ignore[list-item]


def end_process(_: object) -> None:
    os._exit(1)


def test_workers_that_end_are_one_sentence() -> None:
    with pytest.raises(UserError, match="give workers=0"):
        list(process_pool.map_in_processes(end_process, [1, 2], 2, "jobs"))
