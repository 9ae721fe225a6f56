"""Parallel execution of a function in several processes."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

from echodream import validation
from echodream.progress import progress_bar

_Job = TypeVar("_Job")
_Result = TypeVar("_Result")


def check_workers(workers: int | None) -> None:
    """Raise ``UserError`` unless ``workers`` is a whole number from 0, or None."""
    if workers is not None:
        validation.whole_number("workers", workers, 0, note=", or null for one process per core")


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
    with ProcessPoolExecutor(workers or os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        yield from progress_bar(pool.map(function, jobs), title, len(jobs), "rec")
