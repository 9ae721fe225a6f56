"""Parallel execution of a function in several processes."""

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from echodream import validation
from echodream.errors import UserError
from echodream.progress import progress_bar

WORKERS_ENDED_MESSAGE = "the worker processes ended unexpectedly: give workers=0 to read all files in this process"
"""Message for a broken pool of processes."""
_Job = TypeVar("_Job")
_Result = TypeVar("_Result")


def check_workers(workers: int | None) -> None:
    """Raise ``UserError`` unless ``workers`` is a whole number from 0, or None."""
    if workers is not None:
        validation.whole_number("workers", workers, 0, note=", or null for one process per core")


@contextmanager
def without_main_script() -> Iterator[None]:
    """Within this context, spawned processes do not execute the script of the user again.

    A spawned process imports the main module of its parent. A script that calls ``echodream.run`` without
    ``if __name__ == "__main__":`` would therefore run once more in each process. Workers do not need the main module.
    """
    main = vars(sys.modules["__main__"])
    saved = {name: main[name] for name in main.keys() & {"__file__", "__spec__"}}
    main.update(dict.fromkeys(saved))
    try:
        yield
    finally:
        main.update(saved)


def map_in_processes(
    function: Callable[[_Job], _Result], jobs: Sequence[_Job], workers: int | None, title: str
) -> Iterator[_Result]:
    """Yield the results of ``function`` in the order of ``jobs``, with a progress bar.

    ``workers`` is the number of processes; None means one per core. With 0 ``workers``, or a single job, no process is
    started.
    """
    if workers == 0 or len(jobs) < 2:
        yield from progress_bar(map(function, jobs), title, len(jobs), "rec")
        return
    context = multiprocessing.get_context("spawn")
    with without_main_script(), ProcessPoolExecutor(workers or os.cpu_count(), context) as pool:
        try:
            yield from progress_bar(pool.map(function, jobs), title, len(jobs), "rec")
        except BrokenProcessPool as error:
            raise UserError(WORKERS_ENDED_MESSAGE) from error
