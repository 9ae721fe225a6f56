"""Prints a line when a step of a study starts and one when it ends, and a sentence for an error.

On a terminal, a line below them shows the progress of each step that is running.
"""

import contextlib
import os
import re
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from logging import LogRecord
from pathlib import Path
from typing import Any, ClassVar, TextIO

import psutil
from pipeline import Step
from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

DONE = re.compile(r"^.* (?:done|done, .*|already complete, nothing to do|is a valid store)$", re.MULTILINE)
REPORT = re.compile(r"^report: .* done$", re.MULTILINE)
ERROR = re.compile(r"^error: .*", re.MULTILINE | re.DOTALL)
RESTART = re.compile(r"Trying to restart job (\d+)")
STEP_FAILED = ("CalledProcessError", "RuleException")
"""Exceptions of Snakemake for a step that failed, whose own message is in its log."""


class State:
    """The study that runs in this process."""

    steps: Mapping[str, Step] = {}
    logs: Path
    """Folder of the steps' logs, and of the links that show which steps are complete."""
    total: int = 0
    """Number of steps, without those that the options of Snakemake leave out."""
    failed: ClassVar[dict[int, int]] = {}
    """Numbers of the steps that failed and are not started again, by job, the first one first."""
    ended: bool = False
    """Whether Ctrl-C or ``kill`` ended the run."""


def end(*_: object) -> None:
    """Handler of SIGINT and SIGTERM: end the running steps, and wait for them."""
    State.ended = True
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    end_steps()
    raise KeyboardInterrupt  # Snakemake cancels the jobs of a cluster, and waits for those of this machine


def end_steps() -> None:
    """End the steps that run on this machine: a training after its batch, a stage after its recording."""
    for shell in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):  # ended by itself
            for step in shell.children():
                if any(word in ("train.py", "sample.py") for word in step.cmdline()):
                    step.terminate()


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


def text_of(file: Path) -> str:
    """Text of ``file``; empty if it does not exist."""
    return file.read_text(errors="replace") if file.is_file() else ""


class LogHandler(LogHandlerBase):
    """Prints the events of Snakemake; what is not about a step is not printed, unless it is an error."""

    writes_to_stream = True
    writes_to_file = False
    has_filter = True
    has_formatter = True
    needs_rulegraph = False

    def __post_init__(self) -> None:
        self.began = time.monotonic()
        self.screen = threading.RLock()
        self.shown = 0  # lines of progress at the end of the screen
        self.closed = False
        self.numbers: dict[str, int] = {}
        self.complete = 0
        self.counted = False
        self.running: dict[int, tuple[int, float, Path]] = {}  # by job: number, time of start, log
        if sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and not self.common_settings.dryrun:
            threading.Thread(target=self.show_each_second, daemon=True).start()

    def emit(self, record: LogRecord) -> None:
        event, given = getattr(record, "event", None), record.__dict__
        if event == LogEvent.RUN_INFO and not self.counted:  # after a dry run, it comes again
            self.counted = True
            missing = State.steps.keys() & given["stats"].keys()
            self.complete = sum((State.logs / name).exists() for name in State.steps.keys() - missing)
            State.total = self.complete + len(missing)
            if self.complete:
                self.say(f"{self.complete} of {State.total} steps are complete")
        elif event == LogEvent.JOB_INFO:
            self.job_started(given)
        elif event == LogEvent.JOB_FINISHED:
            self.job_finished(given["job_id"])
        elif event == LogEvent.JOB_ERROR:
            self.job_failed(given)
        elif event == LogEvent.ERROR and not (State.failed or State.ended):
            self.error(given.get("exception", ""), record.getMessage())
        elif event is None and (job := RESTART.match(record.getMessage())):
            State.failed.pop(int(job[1]), None)
            self.say("        is started again")

    def job_started(self, job: Mapping[str, Any]) -> None:
        name = job["rule_name"]
        if name in State.steps:
            number = self.numbers.setdefault(name, self.complete + len(self.numbers) + 1)
            log = Path(job["log"][0])
            step = State.steps[name]
            if not self.common_settings.dryrun:
                files = [log, log.with_suffix(".progress"), *([log.with_name("report.log")] if step.report else [])]
                for path in files:  # of an earlier run; this event can arrive after the step has opened its log
                    if path.is_file() and path.stat().st_mtime < job["created"] - 1:
                        path.unlink(missing_ok=True)
            self.running[job["jobid"]] = (number, time.time(), log)
            self.say(f"[{number}/{State.total}] {shlex.join([f'{step.program}.py', *step.overrides])}")
        elif not self.common_settings.dryrun:  # the rule `all`: every step is complete
            self.verdict()

    def job_finished(self, job_id: int) -> None:
        if job_id in self.running:
            _, began, log = self.running.pop(job_id)
            said = DONE.findall(text_of(log))
            self.say(f"        {said[-1] if said else 'done'} ({clock(time.time() - began)})")
            if State.steps[log.stem].report:
                text = text_of(log.with_name("report.log"))
                if written := REPORT.search(text):
                    self.say(f"        {written[0]}: what is known so far")
                elif failed := ERROR.search(text):
                    self.say(f"        no report of what is known so far: {failed[0].rstrip()}")

    def job_failed(self, job: Mapping[str, Any]) -> None:
        number, _, log = self.running.pop(job["jobid"], (0, 0.0, Path(job["log"][0])))
        others = bool(State.failed)
        if number and not State.ended:
            State.failed[job["jobid"]] = number
        if others or State.ended:
            return  # ended together with the first step that failed
        text = text_of(log)
        if said := ERROR.search(text):
            self.say(said[0].rstrip(), sys.stderr)
        else:  # a crash, killed, or refused by the cluster, whose message has a sentence in its first line
            why = (job["rule_msg"] or "the step ended without a message").splitlines()[0]
            why = re.split(r" Detailed failure reason|For further error details", why)[0].rstrip(". ")
            last = "".join(f" ({line})" for line in text.splitlines()[-1:])
            self.say(f"error: {why}{last}; read {', '.join(job['log'])}", sys.stderr)
        end_steps()

    def error(self, exception: str, message: str) -> None:
        """An error of the workflow itself: without the name of the exception, and without its traceback."""
        if exception not in STEP_FAILED and "At least one job did not complete" not in message:
            lines = [line.strip() for line in message.splitlines() if not line.startswith("  File ")]
            self.say(f"error: {' '.join(lines).removeprefix(f'{exception}:').strip()}", sys.stderr)

    def verdict(self) -> None:
        """The first lines of the report, and the time of this run."""
        log = State.logs / "evaluate.log"
        if "evaluate" in State.steps and (text := text_of(log)):
            self.say(text[text.find("\nreport: ") + 1 :].rstrip())
        self.say(f"total time: {clock(time.monotonic() - self.began)}")

    def say(self, text: str, stream: TextIO | None = None) -> None:
        """Print ``text`` above the progress, on stdout or ``stream``. Without a reader, end the run as Ctrl-C does."""
        with self.screen:
            try:
                self.show([])
                print(text, file=stream or sys.stdout, flush=True)
            except BrokenPipeError:  # as in `make demo | head`
                os.dup2(os.open(os.devnull, os.O_WRONLY), (stream or sys.stdout).fileno())
                os.kill(os.getpid(), signal.SIGTERM)

    def show_each_second(self) -> None:
        while not (self.closed or State.ended):
            with self.screen, contextlib.suppress(OSError):
                width = shutil.get_terminal_size().columns - 1
                self.show([self.progress(*job)[:width] for job in tuple(self.running.values())])
            time.sleep(1)

    def show(self, lines: Sequence[str]) -> None:
        """Replace the lines of progress at the end of the screen with ``lines``."""
        up = f"\x1b[{self.shown}A\x1b[J" if self.shown else ""
        sys.stdout.write(up + "".join(f"{line}\n" for line in lines))
        sys.stdout.flush()
        self.shown = len(lines)

    def progress(self, number: int, began: float, log: Path) -> str:
        """One line: number, name and time of a running step, and its progress bar."""
        bar = text_of(log.with_suffix(".progress"))
        return f"        [{number}/{State.total}] {log.stem}, {clock(time.time() - began)}  {bar}".rstrip()

    def close(self) -> None:
        with self.screen, contextlib.suppress(OSError, ValueError):
            self.closed = True
            self.show([])
        super().close()
