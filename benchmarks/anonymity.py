"""All measures of an anonymised set against a faiss flat index that only does the local cloaking, and peak memory.

    pip install --target /tmp/faiss --no-deps faiss-cpu
    python benchmarks/anonymity.py --faiss /tmp/faiss [--records 20000] [--features 512] [--threads 2] [--noise 1.0]

The index holds records and avatars, and is asked for the 4,000 nearest of each record, as the published local cloaking
does: it cannot count beyond. Both are timed turn by turn, after imports and a small first run; seconds of the processor
stand beside those of the clock, which other programs move. Memory is the most that the whole process held when only the
measures had run, with Python, torch and both sets. Without --faiss the measures alone are timed.
"""

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from echodream.privacy.anonymity import compare_avatars


def timed(run: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of the clock and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - clock, time.process_time() - processor


def index(faiss: Any, records: np.ndarray, avatars: np.ndarray, k: int) -> None:
    """The neighbours that local cloaking counts among."""
    flat = faiss.IndexFlatL2(records.shape[1])
    flat.add(np.concatenate([records, avatars]))
    flat.search(records, min(k, 2 * len(records)))


def main() -> None:
    """Print seconds, their ratio (medians of ratios within a turn, with the range), and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"records": 20_000, "features": 512, "threads": 2, "k": 4000, "repeats": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--noise", type=float, default=1.0, help="of avatars, beside records of deviation 1")
    parser.add_argument("--faiss", help="the folder that faiss was installed in")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    records = torch.randn(options.records, options.features, generator=generator)
    avatars = records + options.noise * torch.randn(records.shape, generator=generator)
    compare_avatars(records[:500], avatars[:500])
    ours = [timed(lambda: compare_avatars(records, avatars))]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(f"{options.records} records and avatars of {options.features} features, {options.threads} threads")
    print(f"{'peak memory of the process (target below 2)':<58}{memory:8.2f} GB")
    theirs = []
    if options.faiss:
        sys.path.insert(0, options.faiss)
        import faiss

        faiss.omp_set_num_threads(options.threads)
        x, y = records.numpy(), avatars.numpy()
        index(faiss, x[:500], y[:500], 100)
        theirs = [timed(lambda: index(faiss, x, y, options.k))]
        for _ in range(options.repeats - 1):
            ours.append(timed(lambda: compare_avatars(records, avatars)))
            theirs.append(timed(lambda: index(faiss, x, y, options.k)))
    for place, what in enumerate(("clock", "processor")):
        print(f"{'all five measures, ' + what:<58}{statistics.median(each[place] for each in ours):8.2f} s")
        if theirs:
            print(f"{'faiss, local cloaking alone, ' + what:<58}{statistics.median(x[place] for x in theirs):8.2f} s")
            ratios = sorted(b[place] / a[place] for a, b in zip(ours, theirs, strict=True))
            low, high = ratios[0], ratios[-1]
            text = f"faiss / measures, {what} (target 1 or more)"
            print(f"{text:<58}{statistics.median(ratios):8.2f}  ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
