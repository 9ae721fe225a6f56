"""Time and peak memory of all anonymity measures, compared with local cloaking by a faiss flat index.

    pip install --target /tmp/faiss --no-deps faiss-cpu
    python benchmarks/anonymity.py --faiss /tmp/faiss [--records 20000] [--features 512] [--threads 2] [--noise 1.0]

The faiss index contains records (originals) and avatars (anonymized versions), and searches the 4,000 nearest neighbors
of each record, as the published code does. Measures and index are timed alternately, after imports and a small first
run, in wall time and CPU time. The peak memory is that of the process after the measures, including Python, torch,
records and avatars. Without --faiss only the measures are timed.
"""

import argparse
import resource
import statistics
import sys
from typing import Any

import numpy as np
import torch
from measuring import run_timed

from echodream.privacy.anonymity import compare_avatars


def search_with_faiss(faiss: Any, records: np.ndarray, avatars: np.ndarray, k: int) -> None:
    """Search the ``k`` nearest neighbors of each record among records and avatars, as local cloaking does."""
    flat = faiss.IndexFlatL2(records.shape[1])
    flat.add(np.concatenate([records, avatars]))
    flat.search(records, min(k, 2 * len(records)))


def main() -> None:
    """Print the time of the measures and of faiss, the median and range of the ratio, and the peak memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"records": 20_000, "features": 512, "threads": 2, "k": 4000, "repeats": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument(
        "--noise", type=float, default=1.0, help="standard deviation of the noise of avatars; records have 1"
    )
    parser.add_argument("--faiss", help="folder where faiss is installed")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    records = torch.randn(options.records, options.features, generator=generator)
    avatars = records + options.noise * torch.randn(records.shape, generator=generator)
    compare_avatars(records[:500], avatars[:500])
    measure_runs = [run_timed(lambda: compare_avatars(records, avatars))]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(f"{options.records} records and avatars of {options.features} features, {options.threads} threads")
    print(f"{'peak memory of the process (target below 2)':<58}{memory:8.2f} GB")
    faiss_runs = []
    if options.faiss:
        sys.path.insert(0, options.faiss)
        import faiss

        faiss.omp_set_num_threads(options.threads)
        x, y = records.numpy(), avatars.numpy()
        search_with_faiss(faiss, x[:500], y[:500], 100)
        faiss_runs = [run_timed(lambda: search_with_faiss(faiss, x, y, options.k))]
        for _ in range(options.repeats - 1):
            measure_runs.append(run_timed(lambda: compare_avatars(records, avatars)))
            faiss_runs.append(run_timed(lambda: search_with_faiss(faiss, x, y, options.k)))
    for kind, name in (("wall", "wall time"), ("cpu", "CPU time")):
        seconds, faiss_seconds = ([getattr(run, kind) for run in runs] for runs in (measure_runs, faiss_runs))
        print(f"{'all five measures, ' + name:<58}{statistics.median(seconds):8.2f} s")
        if faiss_runs:
            print(f"{'faiss, local cloaking alone, ' + name:<58}{statistics.median(faiss_seconds):8.2f} s")
            ratios = sorted(b / a for a, b in zip(seconds, faiss_seconds, strict=True))
            text = f"faiss / measures, {name} (target 1 or more)"
            print(f"{text:<58}{statistics.median(ratios):8.2f}  ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
