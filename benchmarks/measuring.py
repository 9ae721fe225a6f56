"""Peak memory of a benchmark."""

import threading
from collections.abc import Callable
from typing import Any

import psutil


def run_with_peak_memory(run: Callable[[], Any]) -> tuple[Any, float]:
    """Result of ``run``, and the increase of the peak memory of this process, in GB."""
    process, done, highest = psutil.Process(), threading.Event(), [0]
    before = process.memory_info().rss

    def poll() -> None:
        while not done.wait(0.005):
            highest[0] = max(highest[0], process.memory_info().rss)

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        return run(), max(0.0, (max(highest[0], process.memory_info().rss) - before) / 1e9)
    finally:
        done.set()
        thread.join()
