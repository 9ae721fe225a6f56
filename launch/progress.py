"""Output of a running study: a line when a step starts, a line when it ends, and a sentence for an error.

On a terminal, one line for each running step shows its progress below all other lines.
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
"""Exceptions of Snakemake for a failed step; the error message of the step itself is in the log of the step."""


class State:
    """The study that runs in this process."""

    steps: Mapping[str, Step] = {}
    logs: Path
    """Folder of the steps' logs, and of the links that show which steps are complete."""
    total: int = 0
    """Number of steps, without the steps that the options of Snakemake exclude."""
    failed: ClassVar[dict[int, int]] = {}
    """Number of each step that failed and is not restarted, by job id, in order of failure."""
    ended: bool = False
    """Whether Ctrl-C or ``kill`` ended the run."""


def stop_run(*_: object) -> None:
    """Handle SIGINT and SIGTERM: stop the running steps, and wait until they have ended."""
    State.ended = True
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    stop_steps()
    raise KeyboardInterrupt  # Snakemake then cancels cluster jobs, and waits for the jobs of this machine


def stop_steps() -> None:
    """Stop the steps on this machine: a training after its current batch, a stage after its current recording."""
    for shell in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):  # the step has already ended
            for step in shell.children():
                if any(word in ("train.py", "sample.py") for word in step.cmdline()):
                    step.terminate()


def duration_text(seconds: float) -> str:
    """``seconds`` as a text in minutes and seconds."""
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


def read_text_if_exists(file: Path) -> str:
    """Text of ``file``; empty if it does not exist."""
    return file.read_text(errors="replace") if file.is_file() else ""


class LogHandler(LogHandlerBase):
    """Prints the events of Snakemake that concern a step of the study, and all errors."""

    writes_to_stream = True
    writes_to_file = False
    has_filter = True
    has_formatter = True
    needs_rulegraph = False

    def __post_init__(self) -> None:
        self.start_time = time.monotonic()
        self.screen_lock = threading.RLock()
        self.progress_lines = 0  # number of progress lines at the end of the screen
        self.closed = False
        self.step_numbers: dict[str, int] = {}
        self.complete = 0
        self.steps_counted = False
        self.running: dict[int, tuple[int, float, Path]] = {}  # by job id: step number, start time, log
        if sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and not self.common_settings.dryrun:
            threading.Thread(target=self.show_progress_each_second, daemon=True).start()

    def emit(self, record: LogRecord) -> None:
        event, values = getattr(record, "event", None), record.__dict__
        if event == LogEvent.RUN_INFO and not self.steps_counted:  # a dry run sends it twice
            self.steps_counted = True
            missing = State.steps.keys() & values["stats"].keys()
            self.complete = sum((State.logs / name).exists() for name in State.steps.keys() - missing)
            State.total = self.complete + len(missing)
            if self.complete:
                self.print_line(f"{self.complete} of {State.total} steps are complete")
        elif event == LogEvent.JOB_INFO:
            self.job_started(values)
        elif event == LogEvent.JOB_FINISHED:
            self.job_finished(values["job_id"])
        elif event == LogEvent.JOB_ERROR:
            self.job_failed(values)
        elif event == LogEvent.ERROR and not (State.failed or State.ended):
            self.print_workflow_error(values.get("exception", ""), record.getMessage())
        elif event is None and (job := RESTART.match(record.getMessage())):
            State.failed.pop(int(job[1]), None)
            self.print_line("        is started again")

    def job_started(self, job: Mapping[str, Any]) -> None:
        name = job["rule_name"]
        if name in State.steps:
            number = self.step_numbers.setdefault(name, self.complete + len(self.step_numbers) + 1)
            log = Path(job["log"][0])
            step = State.steps[name]
            if not self.common_settings.dryrun:
                files = [log, log.with_suffix(".progress"), *([log.with_name("report.log")] if step.report else [])]
                for path in files:  # delete logs of an earlier run, not a log that the step has already opened
                    if path.is_file() and path.stat().st_mtime < job["created"] - 1:
                        path.unlink(missing_ok=True)
            self.running[job["jobid"]] = (number, time.time(), log)
            self.print_line(f"[{number}/{State.total}] {shlex.join([f'{step.program}.py', *step.overrides])}")
        elif not self.common_settings.dryrun:  # only the rule `all` is not a step: all steps are complete
            self.print_summary()

    def job_finished(self, job_id: int) -> None:
        if job_id in self.running:
            _, start_time, log = self.running.pop(job_id)
            done = DONE.findall(read_text_if_exists(log))
            self.print_line(f"        {done[-1] if done else 'done'} ({duration_text(time.time() - start_time)})")
            if State.steps[log.stem].report:
                text = read_text_if_exists(log.with_name("report.log"))
                if written := REPORT.search(text):
                    self.print_line(f"        {written[0]}: results so far")
                elif failed := ERROR.search(text):
                    self.print_line(f"        no report of the results so far: {failed[0].rstrip()}")

    def job_failed(self, job: Mapping[str, Any]) -> None:
        number, _, log = self.running.pop(job["jobid"], (0, 0.0, Path(job["log"][0])))
        is_first = not State.failed
        if number and not State.ended:
            State.failed[job["jobid"]] = number
        if not is_first or State.ended:
            return  # this step was stopped because the first step failed or the run was stopped
        text = read_text_if_exists(log)
        if message := ERROR.search(text):
            self.print_line(message[0].rstrip(), sys.stderr)
        else:  # the step crashed, was killed, or was refused by the cluster, which gives the reason in its first line
            reason = (job["rule_msg"] or "the step ended without a message").splitlines()[0]
            reason = re.split(r" Detailed failure reason|For further error details", reason)[0].rstrip(". ")
            last = "".join(f" ({line})" for line in text.splitlines()[-1:])
            self.print_line(f"error: {reason}{last}; read {', '.join(job['log'])}", sys.stderr)
        stop_steps()

    def print_workflow_error(self, exception: str, message: str) -> None:
        """Print an error of the workflow itself, without the name of the exception and without its traceback."""
        if exception not in STEP_FAILED and "At least one job did not complete" not in message:
            lines = [line.strip() for line in message.splitlines() if not line.startswith("  File ")]
            self.print_line(f"error: {' '.join(lines).removeprefix(f'{exception}:').strip()}", sys.stderr)

    def print_summary(self) -> None:
        """Print the first lines of the report, and the duration of this run."""
        log = State.logs / "evaluate.log"
        if "evaluate" in State.steps and (text := read_text_if_exists(log)):
            self.print_line(text[text.find("\nreport: ") + 1 :].rstrip())
        self.print_line(f"total time: {duration_text(time.monotonic() - self.start_time)}")

    def print_line(self, text: str, stream: TextIO | None = None) -> None:
        """Print ``text`` above the progress lines, to stdout or ``stream``. A closed pipe stops the run like Ctrl-C."""
        with self.screen_lock:
            try:
                self.replace_progress_lines([])
                print(text, file=stream or sys.stdout, flush=True)
            except BrokenPipeError:  # as in `make demo | head`
                os.dup2(os.open(os.devnull, os.O_WRONLY), (stream or sys.stdout).fileno())
                os.kill(os.getpid(), signal.SIGTERM)

    def show_progress_each_second(self) -> None:
        while not (self.closed or State.ended):
            with self.screen_lock, contextlib.suppress(OSError):
                width = shutil.get_terminal_size().columns - 1
                self.replace_progress_lines([self.progress_line(*job)[:width] for job in tuple(self.running.values())])
            time.sleep(1)

    def replace_progress_lines(self, lines: Sequence[str]) -> None:
        """Replace the progress lines at the end of the screen with ``lines``."""
        up = f"\x1b[{self.progress_lines}A\x1b[J" if self.progress_lines else ""
        sys.stdout.write(up + "".join(f"{line}\n" for line in lines))
        sys.stdout.flush()
        self.progress_lines = len(lines)

    def progress_line(self, number: int, start_time: float, log: Path) -> str:
        """One line with the number, name and duration of a running step, and its progress bar."""
        bar = read_text_if_exists(log.with_suffix(".progress"))
        return f"        [{number}/{State.total}] {log.stem}, {duration_text(time.time() - start_time)}  {bar}".rstrip()

    def close(self) -> None:
        with self.screen_lock, contextlib.suppress(OSError, ValueError):
            self.closed = True
            self.replace_progress_lines([])
        super().close()
