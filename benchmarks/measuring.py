"""What the benchmarks measure with: the memory of this process while something runs."""

import threading
from collections.abc import Callable
from typing import Any

import psutil


def watched(run: Callable[[], Any]) -> tuple[Any, float]:
    """What ``run`` gives, and the most memory, in GB, that the process held above what it held before."""
    process, done, highest = psutil.Process(), threading.Event(), [0]
    before = process.memory_info().rss

    def watch() -> None:
        while not done.wait(0.005):
            highest[0] = max(highest[0], process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        return run(), max(0.0, (max(highest[0], process.memory_info().rss) - before) / 1e9)
    finally:
        done.set()
        thread.join()
