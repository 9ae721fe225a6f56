"""Wall time, CPU time and peak memory of a benchmark."""

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import psutil


class Timing(NamedTuple):
    """Result of a function, and its wall time and CPU time in seconds."""

    result: Any
    wall: float
    cpu: float


def run_timed(run: Callable[[], Any]) -> Timing:
    """Call ``run`` and measure its time, including the kernels that it starts on the GPU."""
    synchronize_gpu()
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    synchronize_gpu()
    return Timing(result, time.perf_counter() - wall, time.process_time() - cpu)


def synchronize_gpu() -> None:
    """Wait for all kernels on the GPU, if there is one."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def run_with_peak_memory(run: Callable[[], Any]) -> tuple[Any, float]:
    """Result of ``run``, and the increase of the memory of this process at its peak, in GB."""
    process, finished, peak = psutil.Process(), threading.Event(), [0]
    before = process.memory_info().rss

    def poll() -> None:
        while not finished.wait(0.005):
            peak[0] = max(peak[0], process.memory_info().rss)

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        return run(), max(0.0, (max(peak[0], process.memory_info().rss) - before) / 1e9)
    finally:
        finished.set()
        thread.join()
